"""curvescope's own adapters."""

from collections.abc import Sequence
from importlib.metadata import version as installed
from typing import Any

from torch import Tensor

from benchmarks.problems import Task
from curvescope import exact
from curvescope.curvature import GGN, Hessian
from curvescope.problem import Problem


class Curvescope:
    """Products of `Hessian` and `GGN`.

    Args:
        name: As the table says it.
        memory_limit: Of the problem.
        options: Of the matrix.
    """

    def __init__(
        self,
        name: str = "curvescope",
        *,
        memory_limit: int | None = None,
        **options: Any,
    ) -> None:
        self.name = name
        self._limit = memory_limit
        self._options = options

    def version(self) -> str:
        return installed("curvescope")

    def build(self, task: Task, matrix: str) -> None:
        problem = Problem(task.model, task.loss, task.batches, memory_limit=self._limit)
        kind = {"hessian": Hessian, "ggn": GGN}[matrix]
        self._operator = kind(problem, **self._options)

    def product(self, V: Tensor) -> Tensor:
        return self._operator @ V


def curvescope() -> Curvescope:
    return Curvescope()


def compiled() -> Curvescope:
    return Curvescope("curvescope, compiled", compile=True)


def bfloat16() -> Curvescope:
    return Curvescope("curvescope, bfloat16", precision="bfloat16")


def nothing_kept() -> Curvescope:
    return Curvescope("curvescope, no graphs kept", kept="none")


class Assembly:
    """The closed form of `curvescope.exact`."""

    name = "curvescope"
    blocks: tuple[int, ...] = ()

    def version(self) -> str:
        return installed("curvescope")

    def build(self, task: Task, matrices: Sequence[str], block: int | None) -> None:
        self._problem = Problem(task.model, task.loss, task.batches)
        self._matrices = tuple(matrices)

    def assemble(self) -> dict[str, Tensor]:
        found = exact.matrices(self._problem, parts=self._matrices)
        return {matrix: getattr(found, matrix).matrix for matrix in self._matrices}


def assembly() -> Assembly:
    return Assembly()
