"""Numerical rank in float64, read from the gap in the singular values."""

import math
from typing import Any

import torch
from torch import Tensor

from curvescope._core.checks import describe, message, real
from curvescope.linop.base import LinearOperator
from curvescope.results import Cost, Provenance, RankEstimate

# A rank is certain where the values kept and dropped are this far apart, and none of
# them lies within this factor of the threshold.
_CERTAIN_GAP = 1e3
_NEAR = 10.0


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
    rank = int((values > tolerance).sum())
    kept = float(values[rank - 1]) if rank else 0.0
    dropped = float(values[rank]) if rank < len(values) else 0.0
    gap = kept / dropped if dropped else math.inf
    clear = kept > _NEAR * tolerance and dropped * _NEAR <= max(tolerance, 1e-300)
    return RankEstimate(
        of=of,
        cost=cost,
        settings={"tolerance": tolerance},
        notes=notes,
        rank=rank,
        gap=gap,
        tolerance=tolerance,
        certain=rank == 0 or (gap >= _CERTAIN_GAP and (clear or not dropped)),
        singular_values=values,
    )


def singular_values(matrix: Tensor) -> Tensor:
    """Return the singular values, descending; by eigenvalues where it is symmetric."""
    if 0 in matrix.shape:
        return torch.zeros(0, dtype=torch.float64)
    if matrix.shape[0] == matrix.shape[1] and torch.equal(matrix, matrix.T):
        return torch.linalg.eigvalsh(matrix).abs().sort(descending=True).values
    return torch.linalg.svdvals(matrix)
