"""PyHessian's power iteration and stochastic Lanczos, as its README calls them.

Its release calls `torch.eig`, which torch has no more; the adapter gives it one made of
`torch.linalg.eig`, which its repository uses since.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version as installed

import torch
from torch import Tensor

from benchmarks.peers.loops import layer_by_layer
from benchmarks.problems import Task
from benchmarks.solver import Answer, Count

# The package's attribute of this name is the class in it.
LIBRARY = import_module("pyhessian.hessian")


class PyHessianSolver:
    """One of its algorithms, over a loader or one batch.

    Args:
        loader: Whether over the task's batches; otherwise they are joined to one, whose
            graph is kept.
    """

    def __init__(self, *, loader: bool) -> None:
        self.name = "PyHessian (dataloader)" if loader else "PyHessian (one batch)"
        self._loader = loader

    def version(self) -> str:
        return installed("PyHessian")

    def build(self, task: Task, matrix: str) -> None:
        self.count = Count()
        self._task = task
        # It adds to what is there.
        task.model.zero_grad(set_to_none=True)
        options = {"dataloader": task.batches} if self._loader else {"data": one(task)}
        make = LIBRARY.hessian
        self._hessian = make(task.model, task.loss, cuda=False, **options)
        if self._loader:
            counted = self.count.of(self._hessian.dataloader_hv_product)
            self._hessian.dataloader_hv_product = counted

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count the products of the module's function, for the time of a call."""
        product = LIBRARY.hessian_vector_product
        if not self._loader:
            LIBRARY.hessian_vector_product = self.count.of(product)
        try:
            yield
        finally:
            LIBRARY.hessian_vector_product = product

    def drop(self) -> None:
        self._hessian = None
        self._task.model.zero_grad(set_to_none=True)


class Top(PyHessianSolver):
    """`eigenvalues` with its defaults: 100 iterations at most, ``tol=1e-3``."""

    def solve(self, seed: int, *, k: int, tol: float = 1e-3) -> Answer:
        with self._counted():
            values, vectors = self._hessian.eigenvalues(top_n=k, tol=tol)
        columns = [torch.cat([part.reshape(-1) for part in v]) for v in vectors]
        return Answer(torch.tensor(values), torch.stack(columns, dim=1))


class Density(PyHessianSolver):
    """`density`."""

    def solve(self, seed: int, *, num_probes: int, num_steps: int) -> Answer:
        with self._counted(), torch_eig():
            nodes, weights = self._hessian.density(iter=num_steps, n_v=num_probes)
        return Answer(
            values=torch.tensor(nodes).reshape(-1),
            weights=torch.tensor(weights).reshape(-1) / num_probes,
        )


class Layers(PyHessianSolver):
    """`eigenvalues(top_n=1)` of one layer after another.

    PyHessian takes the parameters that require gradients: so its users freeze the others.
    """

    def __init__(self) -> None:
        super().__init__(loader=True)
        self.name = "PyHessian, layer by layer"

    def build(self, task: Task, matrix: str) -> None:
        self.count = Count()
        self._task = task

    def solve(self, seed: int, *, limit: float) -> Answer:
        return layer_by_layer(self._task, self._one, limit)

    def _one(self, layer: list[torch.nn.Parameter]) -> float:
        task = self._task
        total = self.count
        chosen = {id(p) for p in layer}
        try:
            for p in task.parameters:
                p.requires_grad_(id(p) in chosen)
            super().build(task, "hessian")
            (value,), _ = self._hessian.eigenvalues(top_n=1)
        finally:
            for p in task.parameters:
                p.requires_grad_(True)
        self.count.products += total.products
        self.count.passes += total.passes
        return float(value)


def one(task: Task) -> tuple[Tensor, Tensor]:
    """Join the batches."""
    inputs, targets = zip(*task.batches, strict=True)
    return torch.cat(inputs), torch.cat(targets)


@contextmanager
def torch_eig() -> Iterator[None]:
    """Give torch its removed `eig` back for the time of a call."""

    def eig(matrix: Tensor, **_: bool) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eig(matrix)
        return torch.view_as_real(values), vectors.real

    removed = torch.eig
    torch.eig = eig
    try:
        yield
    finally:
        torch.eig = removed


def top_one_batch() -> Top:
    return Top(loader=False)


def top_dataloader() -> Top:
    return Top(loader=True)


def density() -> Density:
    return Density(loader=False)


def layers() -> Layers:
    return Layers()
