r"""Singular values of a design: the usual ones, or accurate relative to each of them.

LAPACK's errors are relative to the LARGEST singular value. Where columns differ by many
orders of magnitude (unscaled polynomials), small singular values that matter against
the prior are then noise; one-sided Jacobi after a pivoted QR keeps their digits.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

# Entries of `determined` may be off by this much before Jacobi is worth its time.
ROUNDING_ALLOWED = 1e-11
_MAX_SWEEPS = 60


@final
@dataclass(frozen=True)
class DesignSVD:
    """``A = left diag(values) right``, values descending.

    Attributes:
        left: Orthonormal columns.
        values: Singular values; exact zeros may be left out.
        right: Orthonormal rows.
        rank: How many of them are above rounding.
        rounding: Bound on the error of ``s^2 / (s^2 + scale^2)`` of each.
        method: ``"svd"`` or ``"jacobi"``.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    rank: int
    rounding: float
    method: str


def design_svd(A: Tensor, *, scale: float) -> DesignSVD:
    r"""Decompose a design such that ``s^2 / (s^2 + scale^2)`` is accurate.

    An error :math:`\delta` of s moves that ratio by at most
    :math:`\tfrac{3\sqrt 3}{8}\,\delta / \mathrm{scale}`.

    Args:
        A: Shape ``(n, p)``, float64.
        scale: What singular values are compared with, above 0.

    Returns:
        The decomposition, with its error.

    Cost:
        One SVD; where its rounding matters, some seconds for a thousand columns.

    Example:
        >>> design_svd(torch.diag(torch.tensor([1.0, 2.0]).double()), scale=1.0).values
        tensor([2., 1.], dtype=torch.float64)

    References:
        Demmel et al. (1999), doi:10.1016/S0024-3795(99)00134-2; Drmac and Veselic
        (2008), doi:10.1137/050639193.
    """
    n, p = A.shape
    largest = float(A.abs().max()) if A.numel() else 0.0
    if largest == 0.0:
        return DesignSVD(
            A.new_zeros(n, 0), A.new_zeros(0), A.new_zeros(0, p), 0, 0.0, "svd"
        )
    # A power of two costs no digit, and squares neither overflow nor underflow.
    unit = 2.0 ** math.floor(math.log2(largest))
    B = A / unit
    left, values, right = torch.linalg.svd(B, full_matrices=False)
    eps = torch.finfo(torch.float64).eps
    size = math.sqrt(max(n, p))
    rounding = size * eps * float(values[0]) * (unit / scale)
    if rounding <= ROUNDING_ALLOWED:
        rank = _above_rounding(values, max(n, p))
        return DesignSVD(left, values * unit, right, rank, rounding, "svd")
    # A rank does not depend on the columns' scale, what rounding hides of it does.
    norms = torch.linalg.vector_norm(B, dim=0)
    level = B / torch.where(norms > 0.0, norms, 1.0)
    rank = _above_rounding(torch.linalg.svdvals(level), max(n, p))
    left, values, right, condition = _graded(B)
    rounding = min(1.0, size * eps * condition)
    rank = min(rank, len(values))
    return DesignSVD(left, values * unit, right, rank, rounding, "jacobi")


def _above_rounding(values: Tensor, size: int) -> int:
    """Return the numerical rank, by the usual threshold."""
    eps = torch.finfo(values.dtype).eps
    return int((values > size * eps * values.max()).sum())


def _graded(A: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """Decompose with small singular values relative to themselves."""
    # Rows sorted by size make the pivoted QR accurate row by row as well.
    rows = A.abs().amax(dim=1).argsort(descending=True)
    Q, R, columns = _pivoted_qr(A[rows])
    norms = torch.linalg.vector_norm(R, dim=1, keepdim=True)
    singular = torch.linalg.svdvals(R / norms)
    condition = (
        float(singular[0] / singular[-1]) if float(singular[-1]) > 0 else math.inf
    )
    X, W = _jacobi(R.T.contiguous())
    values = torch.linalg.vector_norm(X, dim=0)
    order = values.argsort(descending=True)
    order = order[values[order] > 0.0]
    values = values[order]
    right = A.new_empty(len(values), A.shape[1])
    right[:, columns] = (X[:, order] / values).T
    left = A.new_empty(A.shape[0], len(values))
    left[rows] = Q @ W[:, order]
    return left, values, right, condition


def _pivoted_qr(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return Q, R and the columns' order with ``A[:, order] = Q R``; no zero rows in R."""
    n, p = A.shape
    R = A.clone()
    order = torch.arange(p)
    reflectors: list[Tensor] = []
    for j in range(min(n, p)):
        norms = torch.linalg.vector_norm(R[j:, j:], dim=0)
        best = j + int(norms.argmax())
        norm = float(norms[best - j])
        if norm == 0.0:
            break
        swap = torch.tensor([j, best])
        R[:, swap] = R[:, swap.flip(0)]
        order[swap] = order[swap.flip(0)]
        v = R[j:, j].clone()
        v[0] += math.copysign(norm, float(v[0]))
        v /= torch.linalg.vector_norm(v)
        R[j:, j:] -= 2.0 * torch.outer(v, v @ R[j:, j:])
        R[j + 1 :, j] = 0.0
        reflectors.append(v)
    rank = len(reflectors)
    Q = torch.eye(n, rank, dtype=A.dtype)
    for j in reversed(range(rank)):
        v = reflectors[j]
        Q[j:] -= 2.0 * torch.outer(v, v @ Q[j:])
    return Q, R[:rank], order


def _jacobi(X: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate columns until they are orthogonal; return them and the rotation.

    A round rotates disjoint pairs at once; the rounds of a sweep meet every pair.
    """
    r = X.shape[1]
    W = torch.eye(r, dtype=X.dtype)
    players = r + r % 2
    tolerance = math.sqrt(X.shape[0]) * torch.finfo(X.dtype).eps
    for _ in range(_MAX_SWEEPS):
        worst = 0.0
        for a, b in _rounds(players, r):
            worst = max(worst, _rotate(X, W, a, b))
        if worst <= tolerance:
            break
    return X, W


def _rounds(players: int, r: int) -> list[tuple[Tensor, Tensor]]:
    """Return a round-robin tournament of the columns; with odd r one is left out."""
    circle = list(range(players))
    rounds = []
    for _ in range(players - 1):
        half = players // 2
        pairs = zip(circle[:half], reversed(circle[half:]), strict=True)
        met = torch.tensor([sorted(pair) for pair in pairs if max(pair) < r])
        if len(met):
            rounds.append((met[:, 0], met[:, 1]))
        circle = [circle[0], circle[-1], *circle[1:-1]]
    return rounds


def _rotate(X: Tensor, W: Tensor, a: Tensor, b: Tensor) -> float:
    """Make the columns ``a`` orthogonal to ``b``; return the largest cosine before."""
    A, B = X[:, a], X[:, b]
    norm_a = torch.linalg.vector_norm(A, dim=0)
    norm_b = torch.linalg.vector_norm(B, dim=0)
    live = (norm_a > 0.0) & (norm_b > 0.0)
    one = torch.ones_like(norm_a)
    # Unit columns: products of small norms would underflow.
    cosine = (
        (A / torch.where(live, norm_a, one)) * (B / torch.where(live, norm_b, one))
    ).sum(0)
    cosine = torch.where(live, cosine, 0.0)
    turning = cosine.abs() > 0.0
    ratio = torch.where(live, norm_b, one) / torch.where(live, norm_a, one)
    zeta = (ratio - 1.0 / ratio) / (2.0 * torch.where(turning, cosine, one))
    sign = torch.where(zeta >= 0.0, 1.0, -1.0)
    tangent = sign / (zeta.abs() + torch.hypot(one, zeta))
    tangent = torch.where(turning, tangent, 0.0)
    c = 1.0 / torch.hypot(one, tangent)
    s = c * tangent
    X[:, a], X[:, b] = c * A - s * B, s * A + c * B
    U, V = W[:, a], W[:, b]
    W[:, a], W[:, b] = c * U - s * V, s * U + c * V
    return float(cosine.abs().max())
