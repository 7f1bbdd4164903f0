"""CoLA: its `Hessian` of a function of one flat vector, columns under vmap.

CoLA knows no networks: the flat function is what its user writes, as in its own
examples. A loader's batches are summed by the adapter.
"""

from importlib.metadata import version as installed

import cola
import torch
from cola.linalg.decompositions.lanczos import lanczos
from torch import Tensor
from torch.func import functional_call

from benchmarks.peers.arpack import Arpack
from benchmarks.problems import Task
from benchmarks.solver import Answer, Count


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


class Whole(cola.ops.LinearOperator):
    """The sum over the batches as one of its operators, so that its algorithms run."""

    def __init__(self, products: Cola, task: Task, count: Count) -> None:
        n = task.num_params
        super().__init__(dtype=task.parameters[0].dtype, shape=(n, n))
        self.device = task.parameters[0].device
        self._products, self._count = products, count

    def _matmat(self, X: Tensor) -> Tensor:
        self._count.add(X)
        return self._products.product(X)


class ColaSolver:
    """One of its algorithms."""

    name = "CoLA"

    def version(self) -> str:
        return installed("cola-ml")

    def build(self, task: Task, matrix: str) -> None:
        self.count = Count()
        products = Cola()
        products.build(task, matrix)
        self._task = task
        self._operator = cola.SelfAdjoint(Whole(products, task, self.count))

    def drop(self) -> None:
        self._operator = None


class Top(ColaSolver):
    """`eig` by its `Lanczos`, which does all its steps whatever the residuals are.

    Args:
        max_iters: Its steps.
    """

    def __init__(self, max_iters: int) -> None:
        self.name = f"CoLA Lanczos({max_iters})"
        self._max_iters = max_iters

    def solve(self, seed: int, *, k: int, tol: float = 1e-3) -> Answer:
        algorithm = cola.linalg.Lanczos(max_iters=self._max_iters, key=seed)
        values, vectors = cola.linalg.eig(self._operator, k, "LM", algorithm)
        return Answer(values, vectors.to_dense())


class Density(ColaSolver):
    """Its `lanczos` on a block of random signs, and the nodes of each column."""

    def solve(self, seed: int, *, num_probes: int, num_steps: int) -> Answer:
        n = self._task.num_params
        dtype = self._task.parameters[0].dtype
        signs = torch.randint(2, (n, num_probes)).to(dtype) * 2 - 1
        _, T, _ = lanczos(self._operator, start_vector=signs, max_iters=num_steps)
        # Under its `vmap` the diagonals are blocks, one row (with a last axis) a probe.
        diagonal = T.beta.reshape(num_probes, -1)
        beside = T.alpha.reshape(num_probes, -1)
        dense = torch.diag_embed(diagonal)
        dense += torch.diag_embed(beside, 1) + torch.diag_embed(beside, -1)
        values, vectors = torch.linalg.eigh(dense)
        weights = vectors[:, 0] ** 2 / num_probes
        return Answer(values=values.reshape(-1), weights=weights.reshape(-1))


def hessian() -> Cola:
    return Cola()


def eigsh_over() -> Arpack:
    return Arpack(Cola, "CoLA")


def top_30() -> Top:
    return Top(30)


def top_100() -> Top:
    return Top(100)


def density() -> Density:
    return Density()
