"""hessian-eigenthings 1.0: double backward on a fresh graph, or central differences."""

from importlib.metadata import version as installed

import torch
from hessian_eigenthings import loss_fns
from hessian_eigenthings.algorithms.lanczos import lanczos
from hessian_eigenthings.algorithms.spectral_density import spectral_density
from hessian_eigenthings.operators import GGNOperator, HessianOperator
from torch import Tensor

from benchmarks.peers.arpack import Arpack
from benchmarks.problems import Task
from benchmarks.solver import Answer, Count


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


class EigenthingsSolver:
    """One of its algorithms, on double backward."""

    name = "hessian-eigenthings"

    def version(self) -> str:
        return installed("hessian-eigenthings")

    def build(self, task: Task, matrix: str) -> None:
        self.count = Count()
        products = Eigenthings(method="autograd")
        products.build(task, matrix)
        self._operator = products._operator
        self._operator.matvec = self.count.of(self._operator.matvec)

    def drop(self) -> None:
        self._operator = None


class Top(EigenthingsSolver):
    """`lanczos`.

    Args:
        max_iter: Its steps; twice the pairs by its default.
    """

    def __init__(self, max_iter: int | None = None) -> None:
        words = "" if max_iter is None else f", max_iter={max_iter}"
        self.name = f"hessian-eigenthings lanczos{words}"
        self._max_iter = max_iter

    def solve(self, seed: int, *, k: int, tol: float = 1e-3) -> Answer:
        found = lanczos(
            self._operator, k=k, tol=tol, max_iter=self._max_iter, seed=seed
        )
        return Answer(
            found.eigenvalues, found.eigenvectors.T, claimed=found.converged.tolist()
        )


class Density(EigenthingsSolver):
    """`spectral_density`."""

    def solve(self, seed: int, *, num_probes: int, num_steps: int) -> Answer:
        found = spectral_density(
            self._operator,
            num_runs=num_probes,
            lanczos_steps=num_steps,
            seed=1000 * seed,  # it adds the number of the run
        )
        there = ~found.raw_eigenvalues.isnan()
        return Answer(
            values=found.raw_eigenvalues[there],
            weights=found.raw_weights[there] / num_probes,
        )


def eigsh_over() -> Arpack:
    return Arpack(autograd, "hessian-eigenthings")


def top() -> Top:
    return Top()


def top_60() -> Top:
    return Top(60)


def density() -> Density:
    return Density()
