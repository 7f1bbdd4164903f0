"""Gaussian elimination modulo a prime: ranks and bases of row spaces.

Everything is one fact, applied recursively: if the rows ``R`` of ``M`` span its row
space, then ``M = T M[R]`` with ``T[R] = I``; the other columns of a matrix lose what
these rows explain, ``N - T N[R]``, and what remains has rank ``rank [M N] - |R|``. The
rows that are explained away are never needed again, so no triangular factor is kept.
"""

import numpy as np

from curvescope.exact.modular.field import Array, Indices, PrimeField

_PANEL = 256  # columns eliminated between two updates of the whole rest
_SMALL = 16  # columns eliminated one by one


def rank_modulo(matrix: Array, prime: int) -> int:
    """Return the rank of an integer matrix over the field of ``prime`` elements.

    Args:
        matrix: Integers as float64, below ``2^52`` in magnitude; it stays as it is.
        prime: An odd prime below ``2^22``.

    Returns:
        The rank modulo the prime: at most that over the rationals.

    Raises:
        ValueError: If ``prime`` is even or out of range.

    Cost:
        ``2 m n r`` flops for rank ``r`` of an ``(m, n)`` matrix (``2/3 n^3`` at full
        rank) as matrix products, one copy of the matrix.

    Example:
        >>> rank_modulo(np.array([[1.0, 2.0], [2.0, 4.0]]), 4194301)
        1
    """
    field = PrimeField(prime)
    rest = field.reduce_(_without_zeros(matrix))
    rank = top = left = 0
    rows, columns = rest.shape
    while top < rows and left < columns:
        width = min(_PANEL, columns - left)
        right = left + width
        pivots, T = _span(field, rest[top:, left:right].T)
        rank += len(pivots)
        if len(pivots):
            _eliminate(field, rest[top:, right:], pivots, T)
        top, left = top + len(pivots), right
        if len(pivots) < width and not rest[top:, left:].any():
            break
    return rank


def row_basis(matrix: Array, prime: int) -> tuple[Indices, Array]:
    """Return rows ``R`` that span all rows, and ``T`` with ``M = T M[R]``, ``T[R] = I``.

    Args:
        matrix: Residues, shape ``(m, n)``.
        prime: An odd prime below ``2^22``.

    Returns:
        Indices of shape ``(r,)`` and a matrix of shape ``(m, r)``.

    Cost:
        ``O(m n r)`` as matrix products.
    """
    pivots, T = _span(PrimeField(prime), matrix.T)
    return pivots, T.T


def _without_zeros(matrix: Array) -> Array:
    """Return a copy without zero rows and columns, not higher than wide."""
    rows, columns = matrix.any(1), matrix.any(0)
    if not (rows.all() and columns.all()):
        matrix = matrix[np.ix_(np.flatnonzero(rows), np.flatnonzero(columns))]
    # Panels are as high as the matrix: the lower the better.
    high = matrix.shape[0] > matrix.shape[1]
    return np.array(matrix.T if high else matrix, dtype=np.float64, order="C")


def _eliminate(field: PrimeField, rest: Array, pivots: Indices, T: Array) -> None:
    """Move the pivot rows to the top and subtract what they explain from the others."""
    count = len(pivots)
    leading = rest[pivots]
    is_pivot = np.zeros(len(rest), dtype=bool)
    is_pivot[pivots] = True
    # The places of pivots below take the rows that the top must give up.
    vacated = count + np.flatnonzero(is_pivot[count:])
    displaced = np.flatnonzero(~is_pivot[:count])
    rest[vacated] = rest[displaced]
    order = np.arange(len(rest))
    order[vacated] = displaced
    field.subtract_product_(rest[count:], T[:, order[count:]].T, leading)


def _span(field: PrimeField, transposed: Array) -> tuple[Indices, Array]:
    """Return pivots and ``T`` with ``N = N[:, pivots] T`` for ``N = transposed``."""
    count = len(transposed)
    if count == 0 or not transposed.any():
        empty = np.zeros((0, transposed.shape[1]))
        return np.zeros(0, dtype=np.intp), empty
    if count <= _SMALL:
        return _span_one_by_one(field, transposed)
    first, T_first = _span(field, transposed[: count // 2])
    rest = np.array(transposed[count // 2 :], order="C")
    field.subtract_product_(rest, rest[:, first], T_first)
    second, T_second = _span(field, rest)
    field.subtract_product_(T_first, T_first[:, second], T_second)
    return np.concatenate([first, second]), np.concatenate([T_first, T_second])


def _span_one_by_one(field: PrimeField, transposed: Array) -> tuple[Indices, Array]:
    count = len(transposed)
    # The rows found so far, scaled to the identity at their pivots, then those to come.
    rows = np.array(transposed, order="C")
    pivots: list[int] = []
    for index in range(count):
        nonzero = rows[index] != 0
        pivot = int(nonzero.argmax())
        if not nonzero[pivot]:
            continue
        found = len(pivots)
        row = field.reduce_(rows[index] * field.inverse(rows[index, pivot]))
        rows[index] = rows[found]  # zero, or the row itself
        factors = rows[:, pivot].copy()
        factors[found : index + 1] = 0
        rows -= factors[:, None] * row
        field.reduce_(rows)
        rows[found] = row
        pivots.append(pivot)
    return np.array(pivots, dtype=np.intp), rows[: len(pivots)]
