"""curvescope's whole algorithms, as its documentation calls them."""

from collections.abc import Callable
from importlib.metadata import version as installed
from typing import Any

import torch

import curvescope as cs
from benchmarks.problems import Task
from benchmarks.solver import Answer, Count
from curvescope.testing import CountingOperator


class OnHessian:
    """What all algorithms on the Hessian have in common.

    Args:
        name: As the table says it.
        options: Of `Hessian`.
    """

    def __init__(self, name: str = "curvescope", **options: Any) -> None:
        self.name = name
        self._options = options

    def version(self) -> str:
        return installed("curvescope")

    @property
    def count(self) -> Count:
        return Count(self._operator.num_matvecs, self._operator.num_calls)

    def build(self, task: Task, matrix: str) -> None:
        problem = cs.Problem(task.model, task.loss, task.batches)
        kind = {"hessian": cs.Hessian, "ggn": cs.GGN}[matrix]
        self._operator = CountingOperator(kind(problem, **self._options))

    def drop(self) -> None:
        self._operator = None


class Top(OnHessian):
    """`eigsh`, with the check for repeated eigenvalues that no peer makes, or without."""

    checks = True

    def solve(self, seed: int, *, k: int, tol: float = 1e-3) -> Answer:
        found = cs.eigsh(
            self._operator,
            k=k,
            tol=tol,
            check_multiplicity=self.checks,
            generator=generator(seed),
        )
        return Answer(
            values=found.eigenvalues,
            vectors=found.eigenvectors,
            claimed=found.converged.tolist(),
        )


class UncheckedTop(Top):
    """`eigsh` as others have it."""

    checks = False


class Density(OnHessian):
    """`slq`, of which `spectral_density` smooths the nodes."""

    def solve(self, seed: int, *, num_probes: int, num_steps: int) -> Answer:
        found = cs.slq(
            self._operator,
            num_probes=num_probes,
            num_steps=num_steps,
            generator=generator(seed),
        )
        there = ~found.nodes.isnan()
        return Answer(
            values=found.nodes[there],
            weights=found.weights[there] / len(found.nodes),
        )


class WholeTop(Top):
    """`eigsh` of the whole network, one pair: what a table of layers is held against."""

    def solve(self, seed: int, **_: Any) -> Answer:
        found = super().solve(seed, k=1)
        return Answer(values=found.values, names=["(all)"])


class Layers:
    """A table of all layers' blocks, top eigenvalues among its columns.

    Args:
        verb: What makes it of a problem.
    """

    def __init__(self, verb: Callable[..., Any]) -> None:
        self.name = f"curvescope {verb.__name__}"
        self._verb = verb

    def version(self) -> str:
        return installed("curvescope")

    def build(self, task: Task, matrix: str) -> None:
        self.count = Count()
        self._problem = cs.Problem(task.model, task.loss, task.batches)

    def solve(self, seed: int, **_: Any) -> Answer:
        table = self._verb(self._problem, generator=generator(seed))
        self.count = Count(table.cost.num_matvecs, table.cost.num_data_passes)
        return Answer(
            values=torch.tensor([row.top_eigenvalue for row in table.layers]),
            names=[row.name for row in table.layers],
        )

    def drop(self) -> None:
        self._problem = None


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def top() -> Top:
    return Top()


def top_unchecked() -> Top:
    return UncheckedTop("curvescope, no check for repeated eigenvalues")


def top_compiled() -> Top:
    return Top("curvescope, compiled", compile=True)


def density() -> Density:
    return Density()


def whole_top() -> WholeTop:
    return WholeTop("curvescope eigsh, the whole network, k=1")


def all_layers() -> Layers:
    return Layers(cs.all_layers)


def layer_curvature() -> Layers:
    return Layers(cs.layer_curvature)
