"""Everybody who is timed: one row each."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Implementation:
    """Where an adapter is, and in which environment it runs.

    Attributes:
        key: Short name, unique.
        module: The adapter's module.
        factory: The function there that makes the adapter.
        venv: Environment, relative to the repository.
        matrices: What it offers, of ``hessian`` and ``ggn``.
    """

    key: str
    module: str
    factory: str
    venv: str
    matrices: tuple[str, ...] = ("hessian",)

    @property
    def python(self) -> Path:
        return ROOT / self.venv / "bin" / "python"


BOTH = ("hessian", "ggn")
OURS = "curvescope"
_PEERS = "benchmarks.peers"

IMPLEMENTATIONS = (
    Implementation(OURS, "benchmarks.ours", "curvescope", ".venv", BOTH),
    Implementation("pyhessian", f"{_PEERS}.pyhessian", "one_batch", ".bench/pyhessian"),
    Implementation(
        "pyhessian-loader", f"{_PEERS}.pyhessian", "dataloader", ".bench/pyhessian"
    ),
    Implementation(
        "curvlinops", f"{_PEERS}.curvlinops", "curvlinops", ".bench/curvlinops", BOTH
    ),
    Implementation("cola", f"{_PEERS}.cola", "hessian", ".bench/cola"),
    Implementation(
        "eigenthings",
        f"{_PEERS}.hessian_eigenthings",
        "autograd",
        ".bench/hessian_eigenthings",
        BOTH,
    ),
    Implementation(
        "eigenthings-fd",
        f"{_PEERS}.hessian_eigenthings",
        "finite_difference",
        ".bench/hessian_eigenthings",
    ),
)
