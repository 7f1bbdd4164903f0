"""A net with its data modulo a prime: what the matrices are assembled from.

Piecewise-linear activations and squared errors are evaluated without any rounding. What
is no polynomial is rounded once, to float64, and exact from there on: the value t of a
tanh (its derivatives are ``1 - t^2`` and ``-2 t (1 - t^2)``) or s of a sigmoid, value and
both derivatives of any other activation, the probabilities of a softmax. In a loss it is
the distance of t or s from one that is rounded where that is the smaller number: so a
curvature is zero only where it underflows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from curvescope.exact.activations import Activation
from curvescope.exact.modular.field import Array, PrimeField
from curvescope.exact.network import FeedForward, Samples
from curvescope.losses import (
    AbstractLoss,
    BCEWithLogits,
    CrossEntropy,
    LogCosh,
    SquaredError,
)


@final
@dataclass(frozen=True, kw_only=True)
class ResidueNet:
    """Residues of a feed-forward net at n samples; layer l maps ``hidden[l]`` onwards.

    Attributes:
        field: The prime field.
        weights: ``(out, in)`` of every layer.
        biased: Whether each layer has a bias; its values are in ``hidden``.
        hidden: Input of every layer, ``(n, in)``; the first are the data.
        slopes: ``sigma'`` between the layers, ``(n, width)``; ``None`` for ones.
        bends: ``sigma''`` likewise; ``None`` for zeros.
        gradients: Of the summed loss by the outputs, ``(n, K)``.
        curvatures: Its Hessians by the outputs, ``(n, K, K)``, or ``(1, K, K)`` for all.
        centred: Whether gradients and the rows of the Hessians add up to zero.
    """

    field: PrimeField
    weights: tuple[Array, ...]
    biased: tuple[bool, ...]
    hidden: tuple[Array, ...]
    slopes: tuple[Array | None, ...]
    bends: tuple[Array | None, ...]
    gradients: Array
    curvatures: Array
    centred: bool = False

    @property
    def is_linear(self) -> bool:
        """Whether no activation does anything."""
        return all(slope is None for slope in self.slopes)

    def extended(self, layer: int, rows: slice = slice(None)) -> Array:
        """Return the inputs of a layer with a one for the bias, if it has one."""
        inputs = self.hidden[layer][rows]
        if not self.biased[layer]:
            return inputs
        return np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)


def residues_of(
    net: FeedForward, samples: Sequence[Samples], field: PrimeField
) -> ResidueNet:
    """Return net and samples modulo the prime of ``field``."""
    weights = tuple(field.dyadic(_array(layer.weight)) for layer in net.layers)
    parts = [_batch(net, weights, batch, field) for batch in samples]
    hidden, slopes, bends = (
        tuple(_joined(per_layer) for per_layer in zip(*kind, strict=True))
        for kind in zip(*(part[0] for part in parts), strict=True)
    )
    bends = tuple(None if b is None or not b.any() else b for b in bends)
    shared = type(net.problem.loss) is SquaredError
    curvatures = [part[2] for part in parts]
    return ResidueNet(
        field=field,
        weights=weights,
        biased=tuple(layer.bias is not None for layer in net.layers),
        hidden=tuple(h for h in hidden if h is not None),
        slopes=slopes,
        bends=bends,
        gradients=np.concatenate([part[1] for part in parts]),
        curvatures=curvatures[0] if shared else np.concatenate(curvatures),
        centred=type(net.problem.loss) is CrossEntropy,
    )


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to(device="cpu", dtype=torch.float64).numpy()


def _joined(arrays: Sequence[Array | None]) -> Array | None:
    given = [array for array in arrays if array is not None]
    return np.concatenate(given) if given else None


def _batch(
    net: FeedForward, weights: tuple[Array, ...], samples: Samples, field: PrimeField
) -> tuple[tuple[list, list, list], Array, Array]:
    """Return (hidden, slopes, bends), gradients, curvatures of some samples."""
    with torch.no_grad():
        pre = net.forward(samples.inputs)
    hidden = [field.dyadic(_array(samples.inputs))]
    slopes: list[Array | None] = []
    bends: list[Array | None] = []
    z = hidden[0]
    for index, layer in enumerate(net.layers):
        z = field.matmul(hidden[-1], weights[index].T)
        if layer.bias is not None:
            z = field.reduce_(z + field.dyadic(_array(layer.bias)))
        if index < len(net.activations):
            activation = net.activations[index]
            value, slope, bend = _activated(activation, pre[index], z, field)
            hidden.append(value)
            slopes.append(slope)
            bends.append(bend)
    loss, targets = net.problem.loss, samples.targets
    gradients, curvatures = _loss(loss, samples.outputs, z, targets, field)
    return (hidden, slopes, bends), gradients, curvatures


def _activated(
    activation: Activation, z: Tensor, residues: Array, field: PrimeField
) -> tuple[Array, Array | None, Array | None]:
    """Return sigma, sigma' and sigma'' (``None``: one, zero) at pre-activations ``z``."""
    if activation.linear:
        return residues, None, None
    if activation.homogeneous:
        slope = field.dyadic(_array(activation.slope(z)))
        return field.product(residues, slope), slope, None
    value = field.dyadic(_array(activation.value(z)))
    if activation.name == "tanh":
        slope = field.reduce_(1 - value * value)
        return value, slope, field.reduce_(-2 * field.product(value, slope))
    if activation.name == "sigmoid":
        slope = field.reduce_(value - value * value)
        return value, slope, field.reduce_((1 - 2 * value) * slope)
    slope = field.dyadic(_array(activation.slope(z)))
    if activation.bend is None:
        return value, slope, None
    return value, slope, field.dyadic(_array(activation.bend(z)))


def _loss(
    loss: AbstractLoss, outputs: Tensor, f: Array, targets: Any, field: PrimeField
) -> tuple[Array, Array]:
    """Return gradients and Hessians by the outputs, whose residues are ``f``."""
    if type(loss) is SquaredError:
        factor = field.dyadic(np.array([2.0 * loss.scale]))
        difference = field.reduce_(f - field.dyadic(_array(targets)))
        return field.product(factor, difference), factor * np.eye(f.shape[1])[None]
    if type(loss) is LogCosh:
        return _log_cosh(outputs - targets, field)
    if type(loss) is BCEWithLogits:
        return _binary_cross_entropy(loss, outputs, targets, field)
    if type(loss) is CrossEntropy:
        return _cross_entropy(loss, outputs, targets, field)
    raise AssertionError(type(loss))


def _diagonal(values: Array) -> Array:
    return values[:, :, None] * np.eye(values.shape[1])


def _log_cosh(residual: Tensor, field: PrimeField) -> tuple[Array, Array]:
    """Return ``t = tanh`` and ``1 - t^2``; near one ``t`` is what ``1 - t`` leaves."""
    size = residual.abs()
    e = torch.exp(-2 * size)
    rest = field.dyadic(_array(2 * e / (1 + e)))
    near_one, positive = _array(size) > 0.5, _array(residual) > 0
    t = field.dyadic(_array(torch.tanh(size)))
    t = np.where(near_one, field.reduce_(1 - rest), t)
    rest = field.reduce_(1 - t)
    curvatures = field.product(rest, field.reduce_(1 + t))
    return np.where(positive, t, -t), _diagonal(curvatures)


def _sigmoid(outputs: Tensor, field: PrimeField) -> Array:
    """Return sigmoids; of s and 1 - s the smaller one is rounded, the other is exact."""
    smaller = field.dyadic(_array(torch.sigmoid(-outputs.abs())))
    return np.where(_array(outputs) > 0, field.reduce_(1 - smaller), smaller)


def _binary_cross_entropy(
    loss: BCEWithLogits, outputs: Tensor, targets: Tensor, field: PrimeField
) -> tuple[Array, Array]:
    """Return ``w (neg s - pos (1 - s))`` and ``w (neg + pos) s (1 - s)``."""

    def option(weight: Tensor | None) -> Array:
        given = outputs.new_ones(()) if weight is None else weight
        return field.dyadic(_array(given.to(outputs).expand_as(outputs)))

    y, s = field.dyadic(_array(targets)), _sigmoid(outputs, field)
    weight = option(loss.weight)
    positive = field.product(field.product(option(loss.pos_weight), y), weight)
    both = field.reduce_(field.product(weight, 1 - y) + positive)
    gradients = field.reduce_(both * s - positive)
    return gradients, _diagonal(field.product(both, field.reduce_(s - s * s)))


def _cross_entropy(
    loss: CrossEntropy, outputs: Tensor, targets: Tensor, field: PrimeField
) -> tuple[Array, Array]:
    """Return ``mass p - t`` and ``mass (diag p - p p')``, with ``sum p = 1`` exactly."""
    p = field.dyadic(_array(torch.softmax(outputs, -1)))
    # The largest probability is what the others leave: so it stays the closest to it.
    rows, largest = np.arange(len(p)), _array(outputs).argmax(1)
    p[rows, largest] = 0
    p[rows, largest] = field.reduce_(1 - p.sum(1))
    t = _target_masses(loss, outputs, targets, field)
    mass = field.reduce_(t.sum(1))[:, None]
    gradients = field.reduce_(mass * p - t)
    outer = field.product(p[:, :, None], p[:, None, :])
    curvatures = field.reduce_(_diagonal(p) - outer)
    return gradients, field.product(mass[:, :, None], curvatures)


def _target_masses(
    loss: CrossEntropy, outputs: Tensor, targets: Tensor, field: PrimeField
) -> Array:
    """Return the weight of every ``-log p_k`` in the loss of each sample, ``(n, K)``."""
    n, classes = outputs.shape
    smoothing = field.dyadic(np.array([loss.label_smoothing]))
    uniform = field.reduce_(smoothing * field.inverse(classes))
    if targets.is_floating_point():
        hard = field.dyadic(_array(targets))
        counted = np.ones((n, 1))
    else:
        labels = targets.detach().cpu().numpy().astype(np.int64)
        counted = (labels != loss.ignore_index).astype(np.float64)[:, None]
        hard = np.eye(classes)[np.clip(labels, 0, classes - 1)]
    masses = field.reduce_(field.product(1 - smoothing, hard) + uniform)
    if loss.weight is not None:
        masses = field.product(masses, field.dyadic(_array(loss.weight)))
    return masses * counted
