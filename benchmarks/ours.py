"""curvescope's own adapters."""

from collections.abc import Sequence
from importlib.metadata import version as installed

from torch import Tensor

from benchmarks.problems import Task
from curvescope import exact
from curvescope.curvature import GGN, Hessian
from curvescope.problem import Problem


class Curvescope:
    """Products of `Hessian` and `GGN`, the graphs of the batches kept."""

    name = "curvescope"

    def version(self) -> str:
        return installed("curvescope")

    def build(self, task: Task, matrix: str) -> None:
        problem = Problem(task.model, task.loss, task.batches)
        self._operator = {"hessian": Hessian, "ggn": GGN}[matrix](problem)

    def product(self, V: Tensor) -> Tensor:
        return self._operator @ V


def curvescope() -> Curvescope:
    return Curvescope()


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
