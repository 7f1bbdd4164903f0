"""What the eigenvalues add that a low-rank posterior leaves out.

They are probed by Lanczos quadrature of the matrix with the stored pairs projected out.
Beside that estimate stand bounds that need their sum and the largest of them only.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from curvescope.linalg import slq
from curvescope.linalg.slq import coarser, sphere_degrees, sphere_mean
from curvescope.linop.base import LinearOperator, SymmetricOperator
from curvescope.results import Cost, LaplacePosterior

Function = Callable[[Tensor], Tensor]


@final
class Deflated(SymmetricOperator):
    """``(I - V V') A (I - V V')``: what is left of A beside known eigenvectors.

    Args:
        A: Symmetric and positive semidefinite.
        V: Orthonormal columns.
    """

    def __init__(self, A: LinearOperator, V: Tensor) -> None:
        super().__init__(
            A.shape,
            dtype=A.dtype,
            device=A.device,
            symmetric=True,
            positive_semidefinite=True,
            info=A.info,
            passes_per_product=A.passes_per_product,
            block_size=A.block_size,
        )
        self._A, self._V = A, V

    def refresh(self) -> str:
        """Look at the weights and data behind A; return its fingerprint."""
        return self._A.refresh()

    def _matmat(self, V: Tensor) -> Tensor:
        return self._without(self._A @ self._without(V))

    def _without(self, X: Tensor) -> Tensor:
        return X - self._V @ (self._V.T @ X)


@final
@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Eigenvalues that are not stored: m of them, in ``[0, bound]``.

    Attributes:
        number: m.
        bound: What each is at most.
        nodes: Of quadratures of the deflated matrix, one row a probe.
        weights: Likewise.
        dimension: Of the deflated matrix.
        degrees: Of the errors; ``inf`` where the nodes are the eigenvalues themselves.
        cost: What the probing cost.
    """

    number: int
    bound: float
    nodes: Tensor
    weights: Tensor
    dimension: int
    degrees: float
    cost: Cost

    @staticmethod
    def nothing(dimension: int) -> "LeftOut":
        """Return that of an exact posterior."""
        empty = torch.zeros(0, 0, dtype=torch.float64)
        return LeftOut(
            number=0,
            bound=0.0,
            nodes=empty,
            weights=empty,
            dimension=dimension,
            degrees=math.inf,
            cost=Cost(),
        )

    @staticmethod
    def of(posterior: LaplacePosterior) -> "LeftOut":
        """Return what a posterior carries."""
        return LeftOut(
            number=posterior.num_left_out,
            bound=posterior.left_out_bound,
            nodes=posterior.left_out_nodes,
            weights=posterior.left_out_weights,
            dimension=posterior.num_params,
            degrees=posterior.left_out_degrees,
            cost=Cost(),
        )

    def sum(self, function: Function) -> tuple[float, float, float]:
        """Sum an increasing concave function, 0 at 0, over the eigenvalues left out.

        Returns:
            The value, a bound or estimate of its deterministic error, and its standard
            error: of the quadrature or of the bounds, whichever is narrower.
        """
        if self.number == 0 or self.bound == 0.0:
            return 0.0, 0.0, 0.0
        trace, _, trace_error = self._quadrature(lambda x: x)
        bracket = bracketed_sum(
            function,
            num=self.number,
            bound=self.bound,
            trace=trace,
            trace_error=trace_error,
        )
        estimate = self._quadrature(function)
        return min(bracket, estimate, key=lambda found: found[1] + 2.0 * found[2])

    def _quadrature(self, function: Function) -> tuple[float, float, float]:
        exact = math.isinf(self.degrees)

        def mean(nodes: Tensor, weights: Tensor) -> tuple[float, float]:
            used = torch.where(weights > 0.0, nodes, 0.0).clamp_min(0.0)
            found = sphere_mean(function(used), weights, self.dimension, exact=exact)
            return float(found.trace), float(found.standard_error)

        value, error = mean(self.nodes, self.weights)
        steps = self.nodes.shape[1]
        if exact or steps == 1:
            return value, 0.0, error
        # As for `effective_dimension`: half the change since half the steps.
        before, _ = mean(*coarser(self.nodes, self.weights, max(1, steps // 2)))
        return value, 0.5 * abs(value - before), error


def probe(
    A: LinearOperator,
    V: Tensor,
    *,
    number: int,
    bound: float,
    unit: float,
    num_probes: int,
    num_steps: int,
    generator: torch.Generator,
) -> LeftOut:
    """Probe the eigenvalues of ``unit * A`` beside the eigenvectors ``V``.

    Args:
        A: Symmetric and positive semidefinite.
        V: Orthonormal columns.
        number: Eigenvalues that are left and not zero by shape.
        bound: What each is at most, in the unit.
        unit: What eigenvalues of A are multiplied by.
        num_probes: Probes of the quadrature.
        num_steps: Lanczos steps of each.
        generator: Source of the probes.
    """
    found = slq(
        Deflated(A, V), num_probes=num_probes, num_steps=num_steps, generator=generator
    )
    return LeftOut(
        number=number,
        bound=bound,
        nodes=found.nodes * unit,
        weights=found.weights,
        dimension=found.dimension,
        degrees=math.inf if found.exact else sphere_degrees(num_probes),
        cost=found.cost,
    )


def bracketed_sum(
    function: Function, *, num: int, bound: float, trace: float, trace_error: float
) -> tuple[float, float, float]:
    r"""Bound the sum of an increasing concave function, 0 at 0, over unknown eigenvalues.

    They lie in ``[0, bound]``, m of them, with sum t. By concavity

    .. math:: \tfrac{t}{b} g(b) \le \sum g(\lambda_i) \le m\, g(t / m)

    Args:
        function: g, elementwise.
        num: m.
        bound: b.
        trace: t, or an estimate of it.
        trace_error: Its standard error.

    Returns:
        The middle of the two bounds, half their distance, and the standard error that
        the error of t causes.

    Example:
        >>> bracketed_sum(
        ...     lambda x: x / (1 + x), num=1, bound=1.0, trace=1.0, trace_error=0.0
        ... )
        (0.5, 0.0, 0.0)
    """

    def between(t: float) -> tuple[float, float]:
        t = min(max(t, 0.0), num * bound)
        places = torch.tensor([bound, t / num], dtype=torch.float64)
        at_bound, equal = (float(g) for g in function(places))
        return t / bound * at_bound, num * equal

    low, high = between(trace)
    shifted = [sum(between(trace + sign * trace_error)) for sign in (1.0, -1.0)]
    error = max(abs(total - low - high) for total in shifted) / 2.0
    return (low + high) / 2.0, (high - low) / 2.0, error


def posterior_sum(
    function: Function, eigenvalues: Tensor, left_out: LeftOut
) -> tuple[float, float, float]:
    """Return `LeftOut.sum` with the stored eigenvalues added."""
    value, bias, error = left_out.sum(function)
    return float(function(eigenvalues).sum()) + value, bias, error
