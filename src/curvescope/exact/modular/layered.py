r"""Matrices of feed-forward nets modulo a prime, in closed form.

With :math:`D_l = \sigma'`, :math:`g_l` the gradient by the pre-activations of layer l,
:math:`E_{lk}` from these of layer k to the inputs of layer l, :math:`T_{lk} = W_l E_{lk}`
and :math:`Q_l = D_l W_{l+1}^\top Q_{l+1} W_{l+1} D_l + \mathrm{diag}(\sigma'' g)`:

.. math::
    H_{lk}[(a,b),(c,e)] = \sum_i (Q_l T_{lk})_{ac} h_{l,b} h_{k,e}
    + [k < l] \sum_i g_{l,a} h_{k,e} (E_{lk})_{bc}.

The GGN is the first term without :math:`\sigma''`, from :math:`Q_L = \Lambda`; the
functional Hessian is all else, from :math:`Q_L = 0`.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np

from curvescope.exact.modular.field import Array, PrimeField
from curvescope.exact.modular.residues import ResidueNet

_MOST_ENTRIES = 1 << 22  # of any array over samples at a time


@final
@dataclass(frozen=True, kw_only=True)
class _Backward:
    """Per layer: gradients ``(n, out)``; Q of GGN and of the functional part, or None."""

    gradients: list[Array]
    ggn: list[Array]
    functional: list[Array | None]


def layered_matrices(net: ResidueNet) -> tuple[Array, Array]:
    """Return GGN and functional Hessian of all layers, ``[W | b]`` row by row."""
    field = net.field
    offsets = np.cumsum(
        [
            0,
            *(
                W.shape[0] * (W.shape[1] + b)
                for W, b in zip(net.weights, net.biased, strict=True)
            ),
        ]
    )
    ggn, functional = np.zeros((2, offsets[-1], offsets[-1]))
    widest = max(max(W.shape) + 1 for W in net.weights)
    step = max(1, _MOST_ENTRIES // widest**2)
    for start in range(0, len(net.gradients), step):
        rows = slice(start, start + step)
        backward = _backward(net, rows)
        for upper in range(len(net.weights)):
            _add_layer(net, rows, backward, upper, offsets, (ggn, functional))
    for matrix in (ggn, functional):
        field.reduce_(matrix)
        for start, stop in pairwise(offsets):
            matrix[:start, start:stop] = matrix[start:stop, :start].T
    return ggn, functional


def _part(values: Array | None, rows: slice) -> Array | None:
    return None if values is None else values[rows]


def _times(field: PrimeField, a: Array, W: Array) -> Array:
    """Return ``a_i @ W`` for all samples in one matrix product."""
    flat = field.matmul(a.reshape(-1, a.shape[-1]), W)
    return flat.reshape(*a.shape[:-1], W.shape[1])


def _diagonal(values: Array) -> Array:
    return values[:, :, None] * np.eye(values.shape[1])


def _backward(net: ResidueNet, rows: slice) -> _Backward:
    """Carry gradients and curvatures from the outputs to every layer."""
    field = net.field
    g = net.gradients[rows]
    n, outputs = g.shape
    shared = len(net.curvatures) == 1
    Q = net.curvatures if shared else net.curvatures[rows]
    found = _Backward(
        gradients=[g],
        ggn=[np.broadcast_to(Q, (n, outputs, outputs))],
        functional=[None],
    )
    for index in range(len(net.weights) - 2, -1, -1):
        W, slope = net.weights[index + 1], _part(net.slopes[index], rows)
        bend = _part(net.bends[index], rows)
        through = field.matmul(found.gradients[0], W)
        g = through if slope is None else field.product(through, slope)
        ggn = _through_layer(field, found.ggn[0], W, slope)
        last = found.functional[0]
        functional = None if last is None else _through_layer(field, last, W, slope)
        if bend is not None:
            own = _diagonal(field.product(through, bend))
            functional = own if functional is None else field.reduce_(functional + own)
        found.gradients.insert(0, g)
        found.ggn.insert(0, ggn)
        found.functional.insert(0, functional)
    return found


def _through_layer(field: PrimeField, Q: Array, W: Array, slope: Array | None) -> Array:
    """Return ``D W' Q W D`` of symmetric ``Q``."""
    right = _times(field, Q, W).transpose(0, 2, 1)
    both = _times(field, right, W)
    if slope is None:
        return both
    both = field.product(both, slope[:, :, None])
    return field.product(both, slope[:, None, :])


def _add_layer(
    net: ResidueNet,
    rows: slice,
    backward: _Backward,
    upper: int,
    offsets: np.ndarray,
    matrices: tuple[Array, Array],
) -> None:
    """Add the blocks of layer ``upper`` with itself and those before it; no entry is reduced."""
    field = net.field
    ggn, functional = matrices
    own = slice(offsets[upper], offsets[upper + 1])
    inputs = net.extended(upper, rows)
    E: Array | None = None
    for lower in range(upper, -1, -1):
        other = slice(offsets[lower], offsets[lower + 1])
        below = net.extended(lower, rows)
        T = None
        if lower < upper:
            E = _to_inputs(net, rows, E, upper, lower)
            T = field.matmul(net.weights[upper], E)
            second = _second_term(
                field, backward.gradients[upper], below, E, bias=net.biased[upper]
            )
            functional[own, other] += second
        pairs = field.product(inputs[:, :, None], below[:, None, :])
        for matrix, Q in (
            (ggn, backward.ggn[upper]),
            (functional, backward.functional[upper]),
        ):
            if Q is not None:
                matrix[own, other] += _first_term(field, Q, T, pairs)


def _to_inputs(
    net: ResidueNet, rows: slice, E: Array | None, upper: int, lower: int
) -> Array:
    """Return ``E_lk`` from ``E_l,k+1``."""
    slope = _part(net.slopes[lower], rows)
    if E is None:
        n, width = len(net.gradients[rows]), net.weights[upper].shape[1]
        return _diagonal(np.ones((n, width)) if slope is None else slope)
    E = _times(net.field, E, net.weights[lower + 1])
    return E if slope is None else net.field.product(E, slope[:, None, :])


def _first_term(field: PrimeField, Q: Array, T: Array | None, pairs: Array) -> Array:
    QT = Q if T is None else field.matmul(Q, T)
    n, a, c = QT.shape
    b, e = pairs.shape[1:]
    block = field.matmul(QT.reshape(n, -1).T, pairs.reshape(n, -1))
    return block.reshape(a, c, b, e).transpose(0, 2, 1, 3).reshape(a * b, c * e)


def _second_term(
    field: PrimeField, gradients: Array, below: Array, E: Array, *, bias: bool
) -> Array:
    n, b, c = E.shape
    outer = field.product(gradients[:, :, None], below[:, None, :])
    a, e = outer.shape[1:]
    block = field.matmul(outer.reshape(n, -1).T, E.reshape(n, -1))
    block = block.reshape(a, e, b, c).transpose(0, 2, 3, 1)
    if bias:  # nothing goes through the one that belongs to a bias
        block = np.concatenate([block, np.zeros((a, 1, c, e))], axis=1)
    return block.reshape(-1, c * e)
