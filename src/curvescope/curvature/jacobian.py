"""The network's Jacobian over the data, and its neural tangent kernel."""

import dataclasses
from typing import Any, final

import torch
from torch import Tensor

from curvescope._core.checks import message
from curvescope.autodiff.graphs import Linearised, Run
from curvescope.curvature.choices import ProductChoices
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
            problem,
            self._build,
            kind="Jacobian",
            second_order=False,
            choices=ProductChoices(),
            explores=False,
        )
        self.num_rows = self._count()

    def _count(self) -> int:
        _, parameters = self.problem.leaves()
        with self.problem.network.running(), torch.no_grad():
            return sum(
                self.problem.outputs(batch, parameters).numel()
                for batch in self.problem.batches()
            )

    def _build(self, run: Run, targets: Any, index: int) -> Linearised:
        del targets, index
        return run.linearised()

    def product(self, V: Tensor) -> Tensor:
        """Return J V, shape (rows, k)."""
        with self.graphs.running():
            columns = V.T.contiguous()

            def take(start: int, stop: int) -> list[Tensor]:
                return self.problem.layout.split(columns[start:stop])

            def forward(graph: Linearised, samples: int) -> Tensor:
                def multiply(
                    block: list[Tensor],
                    vectorised: bool,  # noqa: FBT001
                ) -> list[Tensor]:
                    return [graph.jacobian_product(block, vectorised=vectorised)]

                blocks = self.graphs.blocks(multiply, take, len(columns), samples)
                return torch.cat([U.flatten(1) for _, (U,) in blocks])

            parts = list(self.graphs.each(forward))
        return torch.cat(parts, dim=1).T

    def adjoint(self, U: Tensor) -> Tensor:
        """Return J' U, shape (num_params, k)."""
        columns = U.T.contiguous()
        place = 0

        def backward(graph: Linearised, samples: int) -> None:
            nonlocal place
            size = graph.outputs.numel()
            rows = columns[:, place : place + size].reshape(-1, *graph.outputs.shape)
            place += size

            def multiply(
                block: list[Tensor],
                vectorised: bool,  # noqa: FBT001
            ) -> list[Tensor]:
                return graph.adjoint_product(block[0], vectorised=vectorised)

            def take(start: int, stop: int) -> list[Tensor]:
                return [rows[start:stop]]

            blocks = self.graphs.blocks(multiply, take, len(columns), samples)
            for start, part in blocks:
                joined = self.problem.layout.join(part)
                total[start : start + len(joined)].add_(joined)

        with self.graphs.running():
            total = columns.new_zeros(len(columns), self.problem.num_params)
            for _ in self.graphs.each(backward):
                pass
        return total.T


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
            block_size=self._jacobian.graphs.room.block_size,
        )

    def refresh(self) -> str:
        """Drop kept graphs if weights or buffers changed; return the fingerprint."""
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
            block_size=self._jacobian.graphs.room.block_size,
        )

    def refresh(self) -> str:
        """Drop kept graphs if weights or buffers changed; return the fingerprint."""
        return self._jacobian.graphs.refresh()

    def _matmat(self, V: Tensor) -> Tensor:
        return self._jacobian.product(self._jacobian.adjoint(V))
