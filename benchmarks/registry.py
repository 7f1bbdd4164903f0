"""How somebody who is timed is named and started."""

import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Real images and weights; problems that have none of them say so.
DATA = Path(os.environ.get("CURVESCOPE_TEST_DATA", ROOT.parent / "shared" / "data"))

OURS = "curvescope"
BOTH = ("hessian", "ggn")
PEERS = "benchmarks.peers"


@dataclass(frozen=True)
class Implementation:
    """Where an adapter is, and in which environment it runs.

    Attributes:
        key: Short name, unique in its suite.
        module: The adapter's module.
        factory: The function there that makes the adapter.
        venv: Environment, relative to the repository.
        matrices: What it offers, of ``hessian`` and ``ggn``; several that are asked for
            at once are joined by a plus.
        worker: The module that serves it.
        fresh: Whether every round needs a process of its own, as what is compiled does:
            a second time in the same process costs nothing and would not be counted.
        most_columns: Of one product; ``None`` for any number.
        not_on: Problems that it would take too long for.
    """

    key: str
    module: str
    factory: str
    venv: str
    matrices: tuple[str, ...] = ("hessian",)
    worker: str = "benchmarks.worker"
    fresh: bool = False
    most_columns: int | None = None
    not_on: tuple[str, ...] = ()

    @property
    def python(self) -> Path:
        return ROOT / self.venv / "bin" / "python"
