"""The network's Jacobian over the data, and its neural tangent kernel."""

import dataclasses
from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor

from curvescope._core.checks import message
from curvescope.autodiff.graphs import Linearisation
from curvescope.curvature.choices import MOST_COLUMNS, ProductChoices
from curvescope.curvature.kept import KeptGraphs
from curvescope.linop.base import LinearOperator, SymmetricOperator
from curvescope.problem import Problem


@final
class _KeptJacobian:
    """J of all batches; rows are ordered by sample, then output."""

    def __init__(self, problem: Problem) -> None:
        if not isinstance(problem, Problem):
            remedy = "Make one: `cs.Problem(model, loss, data)`."
            raise TypeError(
                message("problem", "be a Problem", type(problem).__name__, remedy)
            )
        self.problem = problem
        self.graphs = KeptGraphs(
            problem, self._build, second_order=False, choices=ProductChoices()
        )
        self._vectorised = not (
            problem.network.has_convolutions and problem.device.type == "cpu"
        )
        self.num_rows = self._count()

    def _count(self) -> int:
        _, parameters = self.problem.leaves()
        with self.problem.network.running(), torch.no_grad():
            return sum(
                self.problem.outputs(batch, parameters).numel()
                for batch in self.problem.batches()
            )

    def _build(
        self, outputs: Tensor, targets: Any, leaves: tuple[Tensor, ...], index: int
    ) -> Linearisation:
        del targets, index
        return Linearisation.of(outputs, leaves)

    def _on(self, tensors: int) -> bool:
        return self._vectorised and tensors > 1 and self.graphs.columns > 1

    def product(self, V: Tensor) -> Tensor:
        """Return J V, shape (rows, k)."""
        with self.graphs.running():
            tangents = self.problem.layout.split(V.T.contiguous())
            parts = [self._forward(graph, tangents) for graph in self.graphs]
        return torch.cat(parts, dim=1).T

    def _forward(self, graph: Linearisation, tangents: list[Tensor]) -> Tensor:
        num = tangents[0].shape[0]
        try:
            U = graph.jacobian_product(tangents, vectorised=self._on(num))
        except (RuntimeError, NotImplementedError):
            if not self._on(num):
                raise
            self._vectorised = False
            U = graph.jacobian_product(tangents, vectorised=False)
        return U.reshape(num, -1)

    def adjoint(self, U: Tensor) -> Tensor:
        """Return J' U, shape (num_params, k)."""
        columns = U.T.contiguous()
        num = columns.shape[0]
        with self.graphs.running():
            total = columns.new_zeros(num, self.problem.num_params)
            for graph, rows in self._rows(columns):
                total += self.problem.layout.join(self._backward(graph, rows))
        return total.T

    def _backward(self, graph: Linearisation, rows: Tensor) -> list[Tensor]:
        num = rows.shape[0]
        try:
            return graph.adjoint_product(rows, vectorised=self._on(num))
        except (RuntimeError, NotImplementedError):
            if not self._on(num):
                raise
            self._vectorised = False
            return graph.adjoint_product(rows, vectorised=False)

    def _rows(self, columns: Tensor) -> Iterator[tuple[Linearisation, Tensor]]:
        start = 0
        for graph in self.graphs:
            size = graph.outputs.numel()
            yield (
                graph,
                columns[:, start : start + size].reshape(-1, *graph.outputs.shape),
            )
            start += size


@final
class Jacobian(LinearOperator):
    r"""Jacobian of all outputs with respect to the selected parameters.

    .. math:: J \in \mathbb R^{NK \times P},\quad J_{(n,k), p} = \partial f_{nk} / \partial \theta_p

    Rows are ordered by sample, then output. Carries no scale: it is the model's.

    Args:
        problem: Model and data; the loss plays no part.

    Cost:
        J v costs 2 forward passes' work, J' u likewise, with kept graphs.
    """

    def __init__(self, problem: Problem) -> None:
        self._jacobian = _KeptJacobian(problem)
        self.problem = problem
        super().__init__(
            (self._jacobian.num_rows, problem.num_params),
            dtype=problem.dtype,
            device=problem.device,
            info=dataclasses.replace(
                problem.provenance("Jacobian"), unit="output per parameter"
            ),
            passes_per_product=1,
            block_size=MOST_COLUMNS,
        )

    def refresh(self) -> str:
        """Drop kept graphs if weights, buffers or data changed; return the fingerprint."""
        return self._jacobian.graphs.refresh()

    def _matmat(self, V: Tensor) -> Tensor:
        return self._jacobian.product(V)

    def _adjoint_matmat(self, V: Tensor) -> Tensor:
        return self._jacobian.adjoint(V)


@final
class NTK(SymmetricOperator):
    r"""Neural tangent kernel ``J J'`` of all outputs on the data, ``(NK, NK)``.

    Args:
        problem: Model and data; the loss plays no part.

    Cost:
        A product is J' u, then J v: two passes over the data.

    References:
        Jacot, Gabriel, Hongler (2018), arXiv:1806.07572.
    """

    def __init__(self, problem: Problem) -> None:
        self._jacobian = _KeptJacobian(problem)
        self.problem = problem
        size = self._jacobian.num_rows
        super().__init__(
            (size, size),
            dtype=problem.dtype,
            device=problem.device,
            positive_semidefinite=True,
            info=dataclasses.replace(
                problem.provenance("NTK"),
                unit="(output per parameter) squared, summed over parameters",
                num_params=size,
                slices=(),
            ),
            passes_per_product=2,
            block_size=MOST_COLUMNS,
        )

    def refresh(self) -> str:
        """Drop kept graphs if weights, buffers or data changed; return the fingerprint."""
        return self._jacobian.graphs.refresh()

    def _matmat(self, V: Tensor) -> Tensor:
        return self._jacobian.product(self._jacobian.adjoint(V))
