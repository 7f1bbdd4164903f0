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
        matrices: What it offers, of ``hessian`` and ``ggn``; several that are asked for
            at once are joined by a plus.
        worker: The module that serves it.
    """

    key: str
    module: str
    factory: str
    venv: str
    matrices: tuple[str, ...] = ("hessian",)
    worker: str = "benchmarks.worker"

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

_TORCH, _JAX = f"{_PEERS}.torch_matrices", f"{_PEERS}.jax_matrices"


def _assembler(key: str, module: str, factory: str, venv: str) -> Implementation:
    sets = ("hessian", "hessian+ggn")
    return Implementation(
        key, module, factory, venv, sets, "benchmarks.assembly_worker"
    )


ASSEMBLERS = (
    _assembler(OURS, "benchmarks.ours", "assembly", ".venv"),
    _assembler("torch-hessian", _TORCH, "hessian", ".venv"),
    _assembler("torch-jacrev-grad", _TORCH, "jacrev_grad", ".venv"),
    _assembler("torch-jvp-grad", _TORCH, "jvp_grad", ".venv"),
    _assembler("torch-linearize-grad", _TORCH, "linearize_grad", ".venv"),
    _assembler("jax-hessian", _JAX, "hessian", ".bench/jax"),
    _assembler("jax-hessian-batches", _JAX, "hessian_of_batches", ".bench/jax"),
    _assembler("jax-jacrev-grad", _JAX, "jacrev_grad", ".bench/jax"),
    _assembler("jax-linearize-grad", _JAX, "linearize_grad", ".bench/jax"),
)
