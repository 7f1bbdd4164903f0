"""Numerical rank in float64, read from the gap in the singular values."""

import math
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from curvescope._core.checks import describe, message, positive_int, real
from curvescope._core.random import resolve_generator
from curvescope.linalg.slq import Quadrature, coarser, slq
from curvescope.linop.base import LinearOperator
from curvescope.results import Cost, Provenance, RankEstimate

# A rank is certain where the last value kept is this many times the threshold, and the
# first one dropped is as many times below it.
_CERTAIN_GAP = 1e3


def numerical_rank(
    A: Tensor | LinearOperator | Any, *, tolerance: float | None = None
) -> RankEstimate:
    r"""Count the singular values above rounding, and say how clear the cut is.

    .. math:: \operatorname{rank} = \#\{i : \sigma_i > \tau\}, \qquad
        \tau = \max(m, n)\, \varepsilon\, \sigma_1

    Pass a factor where there is one (the Jacobian, not its Gram matrix): squaring
    halves the digits.

    Args:
        A: Dense matrix; an operator is turned into one. float32 is promoted, which
            makes the arithmetic exact but not the entries; a note says so.
        tolerance: Absolute threshold; by default ``max(m, n) eps sigma_1`` with the
            precision of the entries.

    Returns:
        Rank, gap and whether they leave no doubt.

    Raises:
        ValueError: If ``A`` is not a finite matrix.

    Cost:
        A singular value decomposition in float64; for an operator ``n`` products.

    Example:
        >>> numerical_rank(torch.diag(torch.tensor([2.0, 1.0, 0.0]))).rank
        2

    References:
        Golub and Van Loan (2013), Matrix Computations, section 5.4.1.
    """
    cost, of = Cost(), Provenance()
    if isinstance(A, LinearOperator):
        matrix, of = A.to_dense(), A.info
        cost = Cost(num_matvecs=A.shape[1])
    else:
        matrix = torch.as_tensor(A)
        of = Provenance(num_params=matrix.shape[-1] if matrix.ndim else 0)
    if matrix.ndim != 2 or matrix.is_complex():
        raise ValueError(message("A", "be a real matrix", describe(matrix)))
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError(message("A", "be finite", "NaN or infinity"))
    notes: tuple[str, ...] = ()
    eps = torch.finfo(torch.float64).eps
    if matrix.is_floating_point() and matrix.dtype != torch.float64:
        eps = torch.finfo(matrix.dtype).eps
        note = (
            f"{matrix.dtype} entries were promoted to float64; their own rounding "
            "limits the gap, so compute the matrix in float64 for a certain rank"
        )
        notes = (note,)
    values = singular_values(matrix.detach().double().cpu())
    largest = float(values[0]) if len(values) else 0.0
    if tolerance is None:
        tolerance = max(matrix.shape) * eps * largest
    tolerance = real("tolerance", tolerance, minimum=0.0)
    return rank_of_values(values, tolerance=tolerance, of=of, cost=cost, notes=notes)


def rank_of_values(
    values: Tensor,
    *,
    tolerance: float,
    method: str = "matrix",
    of: Provenance | None = None,
    cost: Cost | None = None,
    notes: tuple[str, ...] = (),
) -> RankEstimate:
    """Read a rank from singular values at a given threshold.

    It is certain where the last value kept is at least 1,000 times the threshold, and
    the first one dropped at most the threshold; one kept closer to the threshold may be
    noise, and so may the gap.

    Args:
        values: Singular values, descending, float64; zeros by structure may be absent.
        tolerance: Absolute threshold.
        method: What was decomposed, as in `RankEstimate`.
        of: What the matrix is of.
        cost: What the values cost.
        notes: Remarks for the reader.

    Returns:
        Rank, gap and whether they leave no doubt.

    Example:
        >>> values = torch.tensor([1.0, 1e-3, 1e-15], dtype=torch.float64)
        >>> rank_of_values(values, tolerance=1e-14).rank
        2
    """
    rank = int((values > tolerance).sum())
    kept = float(values[rank - 1]) if rank else 0.0
    dropped = float(values[rank]) if rank < len(values) else 0.0
    gap = kept / dropped if dropped else math.inf
    clear = kept >= _CERTAIN_GAP * tolerance and gap >= _CERTAIN_GAP
    return RankEstimate(
        of=of or Provenance(num_params=len(values)),
        cost=cost or Cost(),
        settings={"tolerance": tolerance},
        notes=notes,
        rank=rank,
        gap=gap,
        tolerance=tolerance,
        certain=clear or (rank == 0 and dropped == 0.0),
        singular_values=values,
        method=method,
    )


def estimate_rank(
    A: Tensor | LinearOperator | Any,
    *,
    relative_tolerance: float = 1e-6,
    num_probes: int = 8,
    num_steps: int = 64,
    generator: torch.Generator | None = None,
) -> RankEstimate:
    r"""Estimate how many eigenvalues lie above a threshold, without forming the matrix.

    .. math:: \#\{i : |\lambda_i| > \tau\} \approx \frac{n}{p}
        \sum_{j=1}^{p} \sum_{i : |\theta_{ji}| > \tau} w_{ji},
        \qquad \tau = \texttt{relative\_tolerance} \cdot \max |\theta|

    An effective rank: it depends on the threshold, and says so. The error is that of
    the probes and the change over the last quarter of the steps; where the steps do not
    resolve zero at all, it reaches down to the lower bound of the Chebyshev-Markov-
    Stieltjes inequalities, which may be far.

    Args:
        A: Symmetric operator or matrix.
        relative_tolerance: Threshold, relative to the largest magnitude.
        num_probes: Random probes, at least 2.
        num_steps: Lanczos steps of each.
        generator: Source of the probes; a fresh one with a fixed seed if ``None``.

    Returns:
        The rounded estimate with its standard error; never ``certain``, unless the
        matrix is so small that its eigenvalues were computed.

    Raises:
        ValueError: If ``A`` is not symmetric or an argument is out of range.

    Cost:
        ``num_probes * num_steps`` products.

    Example:
        >>> estimate_rank(torch.diag(torch.tensor([2.0, 1.0, 0.0, 0.0]))).rank
        2

    References:
        Ubaru, Saad (2016), "Fast methods for estimating the numerical rank of large
        matrices", ICML, section 3; Szegoe (1939), section 3.41, for the inequalities.
    """
    tau = real("relative_tolerance", relative_tolerance, minimum=0.0, strict=True)
    num_probes = positive_int("num_probes", num_probes, minimum=2)
    began = time.perf_counter()
    generator = resolve_generator(generator)
    source = slq(A, num_probes=num_probes, num_steps=num_steps, generator=generator)
    threshold = tau * float(source.nodes.nan_to_num(0.0).abs().max())
    if source.exact:
        values = source.nodes[0].abs().sort(descending=True).values
        return rank_of_values(
            values, tolerance=threshold, of=source.of, cost=source.cost
        )
    n = source.dimension
    counts = _counts(source.nodes, source.weights, threshold, n)
    rank = float(counts.mean())
    fewer = max(2, (3 * source.nodes.shape[1]) // 4)
    before = coarser(source.nodes, source.weights, fewer)
    change = rank - float(_counts(*before, threshold, n).mean())
    error = math.hypot(float(counts.std()) / math.sqrt(num_probes), change)
    lowest = float(_lower_bounds(source, threshold).mean())
    note = f"counts |lambda| > {tau:g} of the largest; at least {max(lowest, 0.0):.4g}"
    if not bool((source.nodes.nan_to_num(math.inf).abs() <= threshold).any(1).all()):
        error = max(error, rank - lowest)
        note += ", since the steps do not resolve zero: take more `num_steps`"
    return RankEstimate(
        of=source.of,
        cost=replace(source.cost, seconds=time.perf_counter() - began),
        settings={**source.settings, "relative_tolerance": tau},
        notes=(*source.notes, note),
        rank=round(rank),
        gap=math.nan,
        tolerance=threshold,
        certain=False,
        singular_values=torch.zeros(0, dtype=torch.float64),
        method="quadrature",
        standard_error=error,
    )


def _counts(nodes: Tensor, weights: Tensor, threshold: float, n: int) -> Tensor:
    """Return every probe's estimate of the eigenvalues above a magnitude."""
    above = nodes.nan_to_num(0.0).abs() > threshold
    return n * torch.where(above, weights, 0.0).sum(1)


def _lower_bounds(source: Quadrature, threshold: float) -> Tensor:
    """Return what each probe proves to lie above a magnitude.

    The mass in [-t, t] is at most the weights of the nodes there and of the next one
    on either side (Chebyshev, Markov, Stieltjes).
    """
    bounds = []
    for nodes, weights in zip(source.nodes, source.weights, strict=True):
        used = ~nodes.isnan()
        nodes, weights = nodes[used], weights[used]
        first = int(torch.searchsorted(nodes, -threshold)) - 1
        last = int(torch.searchsorted(nodes, threshold, right=True)) + 1
        near = weights[max(first, 0) : last].sum()
        bounds.append(source.dimension * (weights.sum() - near))
    return torch.stack(bounds)


def singular_values(matrix: Tensor) -> Tensor:
    """Return the singular values, descending; by eigenvalues where it is symmetric."""
    if 0 in matrix.shape:
        return torch.zeros(0, dtype=torch.float64)
    if matrix.shape[0] == matrix.shape[1] and torch.equal(matrix, matrix.T):
        return torch.linalg.eigvalsh(matrix).abs().sort(descending=True).values
    return torch.linalg.svdvals(matrix)
