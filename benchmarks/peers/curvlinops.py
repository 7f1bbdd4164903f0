"""curvlinops 3: forward-over-reverse products, columns under vmap."""

from importlib.metadata import version as installed

from curvlinops import GGNLinearOperator, HessianLinearOperator
from torch import Tensor

from benchmarks.problems import Task


class Curvlinops:
    """Its operators with their default arguments."""

    name = "curvlinops"

    def version(self) -> str:
        return installed("curvlinops-for-pytorch")

    def build(self, task: Task, matrix: str) -> None:
        kind = {"hessian": HessianLinearOperator, "ggn": GGNLinearOperator}[matrix]
        self._operator = kind(task.model, task.loss, task.parameters, task.batches)

    def product(self, V: Tensor) -> Tensor:
        return self._operator @ V


def curvlinops() -> Curvlinops:
    return Curvlinops()
