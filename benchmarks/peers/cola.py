"""CoLA: its `Hessian` of a function of one flat vector, columns under vmap.

CoLA knows no networks: the flat function is what its user writes, as in its own
examples. A loader's batches are summed by the adapter.
"""

from importlib.metadata import version as installed

import cola
import torch
from torch import Tensor
from torch.func import functional_call

from benchmarks.problems import Task


class Cola:
    """The weighted sum of ``cola.ops.Hessian`` of every batch's loss."""

    name = "CoLA"

    def version(self) -> str:
        return installed("cola-ml")

    def build(self, task: Task, matrix: str) -> None:
        names = [name for name, _ in task.model.named_parameters()]
        flat = torch.cat([p.detach().reshape(-1) for p in task.parameters])

        def loss_of(inputs: Tensor, targets: Tensor):
            def loss(theta: Tensor) -> Tensor:
                state = dict(zip(names, task.split(theta), strict=True))
                return task.loss(functional_call(task.model, state, inputs), targets)

            return loss

        self._weights = task.weights
        self._operators = [
            cola.ops.Hessian(loss_of(inputs, targets), flat)
            for inputs, targets in task.batches
        ]

    def product(self, V: Tensor) -> Tensor:
        return sum(
            weight * (operator @ V)
            for weight, operator in zip(self._weights, self._operators, strict=True)
        )


def hessian() -> Cola:
    return Cola()
