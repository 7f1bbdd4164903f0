r"""Matrices of linear nets modulo a prime, on the coordinates that can be non-zero.

With :math:`A_l = W_L \cdots W_{l+1}`, the inputs :math:`B_l z` of layer l in coordinates
z of the data, :math:`\Omega = \sum_i \delta_i z_i^\top` and :math:`C_{lk}` from the
outputs of layer k to the inputs of layer l:

.. math::
    G_{lk} = (A_l^\top \otimes B_l) \sum_i (\Lambda_i \otimes z_i z_i^\top)
             (A_k \otimes B_k^\top), \qquad
    F_{lk}[(a,b),(c,e)] = (A_l^\top \Omega B_k^\top)_{ae} (C_{lk})_{bc}, \quad l > k.

Changes of basis on either side of every layer are congruences: they keep the ranks. They
are chosen such that few rows of :math:`A_l^\top` and :math:`B_l` are not zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from curvescope.exact.modular.elimination import row_basis
from curvescope.exact.modular.field import Array, Indices, PrimeField
from curvescope.exact.modular.residues import ResidueNet


@final
@dataclass(frozen=True, kw_only=True)
class _Side:
    """One side of a layer in its new basis.

    Attributes:
        change: Invertible; rows are the new coordinates.
        map: ``change @ A_l'`` or ``change @ B_l``.
        residual: Rows of ``map`` with what Omega sees; they come first.
        all: Rows of ``map`` that are not zero.
    """

    change: Array
    map: Array
    residual: int
    all: int


def linear_matrices(
    net: ResidueNet, *, layers: Sequence[int], compress: bool
) -> tuple[Array, Array]:
    """Return GGN and functional Hessian of some layers, or matrices congruent to them.

    Args:
        net: A net without activations.
        layers: Which layers count, ascending.
        compress: Whether to leave out coordinates where both matrices are zero;
            otherwise the rows are those of ``[W | b]`` of the layers, row by row.

    Returns:
        Two symmetric matrices of residues.
    """
    field = net.field
    coordinates, right = _right_maps(net)
    left, gradients, curvatures = _left_maps(net)
    omega = field.matmul(gradients.T, coordinates)
    sides = {
        index: (
            _side(
                field, field.matmul(left[index], omega), left[index], compress=compress
            ),
            _side(
                field,
                field.matmul(right[index], omega.T),
                right[index],
                compress=compress,
            ),
        )
        for index in layers
    }
    places, size = _places(sides)
    functional = np.zeros((size, size))
    for lower in layers:
        below = np.eye(len(net.weights[lower]))
        for upper in range(lower + 1, layers[-1] + 1):
            if upper in sides:
                block = _functional_block(net, sides, omega, below, (upper, lower))
                rows = places[upper][: sides[upper][0].residual].reshape(-1)
                columns = places[lower][:, : sides[lower][1].residual].reshape(-1)
                functional[np.ix_(rows, columns)] = block
                functional[np.ix_(columns, rows)] = block.T
            below = field.matmul(net.weights[upper], below)
    where = [places[i][: a.all, : b.all].reshape(-1) for i, (a, b) in sides.items()]
    ggn = np.zeros((size, size))
    index = np.concatenate(where)
    ggn[np.ix_(index, index)] = _ggn_corner(field, sides, coordinates, curvatures)
    return ggn, functional


def linear_size(
    widths: Sequence[int], num_samples: int, *, outputs: int, bias: bool
) -> int:
    """Return an upper bound of the size of the compressed matrices."""
    rank = min(num_samples, widths[0] + bias)
    total = 0
    for index in range(len(widths) - 1):
        fan_in = widths[index] + bias
        residual = min(outputs, rank)
        a = min(outputs, *widths[index + 1 :])
        b = min(rank, *(width + bias for width in widths[: index + 1]))
        kept = a * b
        low = min(a, residual) if index > 0 else 0
        high = min(b, residual) if index < len(widths) - 2 else 0
        strips = low * fan_in + high * widths[index + 1] - low * high
        total += strips + max(0, kept - low * b - high * a + low * high)
    return total


def _right_maps(net: ResidueNet) -> tuple[Array, list[Array]]:
    """Return the samples' coordinates ``(n, r)``, and the layers' inputs in them."""
    data = net.hidden[0]
    if any(net.biased):
        data = np.concatenate([data, np.ones((len(data), 1))], axis=1)
    # All hidden values are linear in the data: r samples stand for all of them.
    basis, coordinates = row_basis(data, net.field.prime)
    right = [net.extended(index)[basis].T for index in range(len(net.weights))]
    return coordinates, right


def _left_maps(net: ResidueNet) -> tuple[list[Array], Array, Array]:
    """Return ``A_l'``, gradients and curvatures; of outputs relative to the last one.

    If the curvatures take ``(1, ..., 1)`` to zero and the gradients add up to zero, only
    differences of outputs matter.
    """
    field = net.field
    outputs = len(net.weights[-1])
    left = [np.eye(outputs)]
    for weight in net.weights[:0:-1]:
        left.insert(0, field.matmul(weight.T, left[0]))
    if not net.centred:
        return left, net.gradients, net.curvatures
    left = [field.reduce_(A[:, :-1] - A[:, -1:]) for A in left]
    return left, net.gradients[:, :-1], net.curvatures[:, :-1, :-1]


def _side(field: PrimeField, seen: Array, whole: Array, *, compress: bool) -> _Side:
    """Return a basis in which few rows of ``seen`` and of ``whole`` are not zero."""
    size = len(whole)
    change = np.eye(size)
    if not compress:
        return _Side(change=change, map=whole, residual=size, all=size)
    first, T = row_basis(seen, field.prime)
    T[first] = 0
    field.subtract_product_(change, T, np.eye(size)[first])
    rest = field.matmul(change, whole)
    rest[first] = 0
    second, T = row_basis(rest, field.prime)
    T[second] = 0
    field.subtract_product_(change, T, change[second])
    others = np.setdiff1d(np.arange(size), np.concatenate([first, second]))
    change = change[np.concatenate([first, second, others])]
    mapped = field.matmul(change, whole)
    count = len(first) + len(second)
    return _Side(change=change, map=mapped, residual=len(first), all=count)


def _places(
    sides: dict[int, tuple[_Side, _Side]],
) -> tuple[dict[int, Indices], int]:
    """Return the rows of the matrices where each layer's coordinates are; -1 if nowhere."""
    places: dict[int, Indices] = {}
    size = 0
    for index, (a, b) in sides.items():
        used = np.zeros((len(a.map), len(b.map)), dtype=bool)
        used[: a.all, : b.all] = True
        if index > min(sides):
            used[: a.residual] = True
        if index < max(sides):
            used[:, : b.residual] = True
        places[index] = np.full(used.shape, -1, dtype=np.intp)
        places[index][used] = np.arange(size, size + int(used.sum()))
        size += int(used.sum())
    return places, size


def _functional_block(
    net: ResidueNet,
    sides: dict[int, tuple[_Side, _Side]],
    omega: Array,
    below: Array,
    layers: tuple[int, int],
) -> Array:
    """Return the part of ``F_lk`` that is not zero; ``below`` is C_lk without bias."""
    field = net.field
    (left, inputs), (outputs, right) = sides[layers[0]], sides[layers[1]]
    seen = field.matmul(left.map[: left.residual], omega)
    outer = field.matmul(seen, right.map[: right.residual].T)
    if net.biased[layers[0]]:
        below = np.concatenate([below, np.zeros((1, below.shape[1]))])
    inner = field.matmul(field.matmul(inputs.change, below), outputs.change.T)
    block = field.product(outer[:, None, None, :], inner[None, :, :, None])
    (a, e), (b, c) = outer.shape, inner.shape
    return block.reshape(a * b, c * e)


def _ggn_corner(
    field: PrimeField,
    sides: dict[int, tuple[_Side, _Side]],
    coordinates: Array,
    curvatures: Array,
) -> Array:
    """Return the part of the GGN that is not zero, layer by layer."""
    inner = _inner_products(field, coordinates, curvatures)
    half = np.concatenate([_kron_times(field, a, b, inner) for a, b in sides.values()])
    half = np.ascontiguousarray(half.T)
    return np.concatenate([_kron_times(field, a, b, half) for a, b in sides.values()])


def _inner_products(field: PrimeField, z: Array, curvatures: Array) -> Array:
    """Return ``sum_i Lambda_i (x) z_i z_i'``."""
    if len(curvatures) == 1:
        return field.kron(curvatures[0], field.matmul(z.T, z))
    rank, outputs = z.shape[1], curvatures.shape[-1]
    inner = np.zeros((outputs, rank, outputs, rank))
    for k in range(outputs):
        for m in range(k + 1):
            scaled = field.product(z, curvatures[:, k, m, None])
            inner[k, :, m] = field.matmul(scaled.T, z)
            inner[m, :, k] = inner[k, :, m]
    return inner.reshape(outputs * rank, outputs * rank)


def _kron_times(field: PrimeField, left: _Side, right: _Side, M: Array) -> Array:
    """Return ``(A' (x) B) M`` for the rows of both sides that are not zero."""
    A, B = left.map[: left.all], right.map[: right.all]
    (a, outputs), (b, rank), columns = A.shape, B.shape, M.shape[1]
    mixed = field.matmul(A, M.reshape(outputs, rank * columns))
    both = field.matmul(B, mixed.reshape(a, rank, columns))
    return both.reshape(a * b, columns)
