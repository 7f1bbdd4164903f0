"""Sums over a spectrum of which some eigenvalues are known only by bound and sum."""

from collections.abc import Callable

import torch
from torch import Tensor

from curvescope.results import LaplacePosterior


def bracketed_sum(
    function: Callable[[Tensor], Tensor],
    values: Tensor,
    *,
    num_left_out: int,
    bound: float,
    trace: float,
    trace_error: float,
) -> tuple[float, float, float]:
    r"""Sum an increasing concave function, 0 at 0, over known and left-out eigenvalues.

    Those left out, m of them, lie in ``[0, bound]`` with sum t. By concavity

    .. math:: \tfrac{t}{b} g(b) \le \sum g(\lambda_i) \le m\, g(t / m)

    Args:
        function: g, elementwise.
        values: The known eigenvalues.
        num_left_out: m.
        bound: b.
        trace: t, or an estimate of it.
        trace_error: Its standard error.

    Returns:
        The middle of the two bounds, half their distance, and the standard error that
        the error of t causes.

    Example:
        >>> ones = torch.ones(2).double()
        >>> bracketed_sum(lambda x: x / (1 + x), ones, num_left_out=1, bound=1.0,
        ...               trace=1.0, trace_error=0.0)
        (1.5, 0.0, 0.0)
    """
    stored = float(function(values).sum())
    if num_left_out == 0 or bound == 0.0:
        return stored, 0.0, 0.0

    def between(t: float) -> tuple[float, float]:
        t = min(max(t, 0.0), num_left_out * bound)
        places = torch.tensor([bound, t / num_left_out], dtype=torch.float64)
        at_bound, equal = (float(g) for g in function(places))
        return t / bound * at_bound, num_left_out * equal

    low, high = between(trace)
    shifted = [sum(between(trace + sign * trace_error)) for sign in (1.0, -1.0)]
    error = max(abs(total - low - high) for total in shifted) / 2.0
    return stored + (low + high) / 2.0, (high - low) / 2.0, error


def posterior_sum(
    function: Callable[[Tensor], Tensor], posterior: LaplacePosterior
) -> tuple[float, float, float]:
    """Return `bracketed_sum` over the eigenvalues of a Laplace posterior's GGN."""
    return bracketed_sum(
        function,
        posterior.eigenvalues,
        num_left_out=posterior.num_left_out,
        bound=posterior.left_out_bound,
        trace=posterior.left_out_trace,
        trace_error=posterior.left_out_trace_error,
    )
