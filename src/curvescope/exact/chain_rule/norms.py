r"""Norms of sums of Kronecker products, without forming them.

.. math:: \Big\| \sum_i M_i \otimes x_i x_i^\top \Big\|_F^2
    = \sum_{ij} \langle M_i, M_j \rangle\, (x_i^\top x_j)^2

The M are symmetric: of each only the triangle is held, off-diagonal entries times the
root of 2, so that inner products stay what they are.

Shape suffixes: U units, A rows of an M, D entries of an x.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from curvescope.exact.chain_rule.parts import Parts

# Gives the units' linearisation and curvature matrices (U, A, A) from start to stop; the
# second is None where it vanishes.
Middle = Callable[[int, int], tuple[Tensor, Tensor | None]]
# Small enough for the caches.
_BYTES = 2 * 2**20
_FORMED_BYTES = 16 * 2**20
_KEPT_BYTES = 16 * 2**20
_SIDE = 256


def triangle(matrices: Tensor) -> Tensor:
    """Return symmetric matrices ``(U, A, A)`` as vectors with the same inner products."""
    a = matrices.shape[-1]
    rows, columns = torch.triu_indices(a, a, device=matrices.device)
    packed = matrices[:, rows, columns]
    packed[:, rows != columns] *= math.sqrt(2.0)
    return packed


def squared_norms(
    middle: Middle, X: Tensor, width: int, *, zero: bool, room: int = 0
) -> Parts:
    """Return the squared Frobenius norms of the whole and of its two parts.

    Args:
        middle: The M.
        X: The x, ``(U, D)``.
        width: A.
        zero: Whether the curvature part vanishes.
        room: Bytes that may be taken, if they are more than a few MiB.

    Cost:
        The cheaper of two: all pairs of units, ``U^2 (A^2 / 2 + D)`` operations; or the
        matrix with its entries sorted anew, ``U A^2 D^2 / 2``, where it is small.
    """
    units, d = X.shape
    entries = (width * (width + 1) // 2) * (d * (d + 1) // 2)
    pairs = units * units * (width * width / 4 + d / 2)
    few = 8 * entries <= _FORMED_BYTES
    if few and units * entries < pairs:
        return _by_entries(middle, X, width, zero=zero)
    return _by_pairs(middle, X, width, zero=zero, room=room)


def _vectors(middle: Middle, start: int, stop: int, *, zero: bool) -> list[Tensor]:
    """Return whole, linearisation and curvature part; one of them if the last vanishes."""
    first, second = middle(start, stop)
    linearisation = triangle(first)
    if zero:
        return [linearisation]
    if second is None:
        return [linearisation, linearisation, torch.zeros_like(linearisation)]
    curvature = triangle(second)
    return [linearisation + curvature, linearisation, curvature]


def _steps(units: int, step: int) -> Iterator[tuple[int, int]]:
    for start in range(0, units, step):
        yield start, min(start + step, units)


def _parts(values: list[float], *, zero: bool) -> Parts:
    if zero:
        return Parts(values[0], values[0], 0.0)
    return Parts(*values)


def _by_entries(middle: Middle, X: Tensor, width: int, *, zero: bool) -> Parts:
    units, d = X.shape
    shape = (width * (width + 1) // 2, d * (d + 1) // 2)
    totals = [X.new_zeros(shape) for _ in range(1 if zero else 3)]
    for start, stop in _steps(units, max(1, _BYTES // (8 * (d * d + width * width)))):
        x = X[start:stop]
        outer = triangle(x[:, :, None] * x[:, None, :])
        mine = _vectors(middle, start, stop, zero=zero)
        for total, vectors in zip(totals, mine, strict=True):
            total.addmm_(vectors.T, outer)
    return _parts([float(t.square().sum()) for t in totals], zero=zero)


def _by_pairs(
    middle: Middle, X: Tensor, width: int, *, zero: bool, room: int = 0
) -> Parts:
    units = len(X)
    count = 1 if zero else 3
    totals = [0.0] * count
    row = 8 * count * (width * (width + 1) // 2)
    # Where there is room they are computed once, and else for every pair of chunks.
    kept: list[Tensor] = []
    room = max(room, _KEPT_BYTES)
    step = max(1, min(units, 4 * _SIDE, room // (2 * row)))
    if row * units <= room:
        kept = [X.new_empty(units, row // (8 * count)) for _ in range(count)]
        for start, stop in _steps(units, max(1, _BYTES // row)):
            for whole, part in zip(
                kept, _vectors(middle, start, stop, zero=zero), strict=True
            ):
                whole[start:stop] = part
        step = _SIDE

    def vectors(start: int, stop: int) -> list[Tensor]:
        if kept:
            return [k[start:stop] for k in kept]
        return _vectors(middle, start, stop, zero=zero)

    for start, stop in _steps(units, step):
        mine = vectors(start, stop)
        for other, end in _steps(units, step):
            if other > start:
                break
            others = mine if other == start else vectors(other, end)
            weights = (X[start:stop] @ X[other:end].T).square_()
            twice = 1.0 if other == start else 2.0
            for place, (left, right) in enumerate(zip(mine, others, strict=True)):
                inner = (left @ right.T).mul_(weights)
                totals[place] += twice * float(inner.sum())
    return _parts(totals, zero=zero)
