"""PyHessian: a kept gradient graph for one batch, a fresh one for a loader's."""

from importlib.metadata import version as installed

import torch
from pyhessian.hessian import hessian
from pyhessian.utils import hessian_vector_product
from torch import Tensor

from benchmarks.problems import Task


class PyHessian:
    """Its product, column by column: it has no block product."""

    def __init__(self, *, loader: bool) -> None:
        self.name = "PyHessian (dataloader)" if loader else "PyHessian (one batch)"
        self._loader = loader

    def version(self) -> str:
        return installed("PyHessian")

    def build(self, task: Task, matrix: str) -> None:
        self._task = task
        if self._loader:
            self._hessian = hessian(
                task.model, task.loss, dataloader=task.batches, cuda=False
            )
            return
        if len(task.batches) > 1:
            raise ValueError("this mode takes one batch")
        self._hessian = hessian(task.model, task.loss, data=task.batches[0], cuda=False)

    def product(self, V: Tensor) -> Tensor:
        return torch.stack([self._column(v) for v in V.T.contiguous()], dim=1)

    def _column(self, v: Tensor) -> Tensor:
        parts = self._task.split(v)
        if self._loader:
            _, parts = self._hessian.dataloader_hv_product(parts)
        else:
            params, gradients = self._hessian.params, self._hessian.gradsH
            parts = hessian_vector_product(gradients, params, parts)
        return torch.cat([part.reshape(-1) for part in parts])


def one_batch() -> PyHessian:
    return PyHessian(loader=False)


def dataloader() -> PyHessian:
    return PyHessian(loader=True)
