"""hessian-eigenthings 1.0: double backward on a fresh graph, or central differences."""

from importlib.metadata import version as installed

import torch
from hessian_eigenthings import loss_fns
from hessian_eigenthings.operators import GGNOperator, HessianOperator
from torch import Tensor

from benchmarks.problems import Task


class Eigenthings:
    """Its operators, column by column: they have no block product."""

    def __init__(self, *, method: str) -> None:
        short = {"autograd": "autograd", "finite_difference": "finite differences"}
        self.name = f"hessian-eigenthings ({short[method]})"
        self._method = method

    def version(self) -> str:
        return installed("hessian-eigenthings")

    def build(self, task: Task, matrix: str) -> None:
        if matrix == "hessian":
            self._operator = HessianOperator(
                task.model,
                task.batches,
                loss_fns.supervised_loss(task.loss),
                method=self._method,
            )
            return
        self._operator = GGNOperator(
            task.model,
            task.batches,
            loss_fns.supervised_forward,
            loss_fns.supervised_loss_of_output(task.loss),
        )

    def product(self, V: Tensor) -> Tensor:
        columns = [self._operator.matvec(v) for v in V.T.contiguous()]
        return torch.stack(columns, dim=1)


def autograd() -> Eigenthings:
    return Eigenthings(method="autograd")


def finite_difference() -> Eigenthings:
    return Eigenthings(method="finite_difference")
