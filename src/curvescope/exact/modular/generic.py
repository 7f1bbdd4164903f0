"""The generic-rank oracle: ranks of nets with random integers, exact modulo a prime.

Ranks of matrices whose entries are polynomials take their largest value almost
everywhere, and random integers modulo a large prime find it with near certainty. Nothing
of any formula is in here: that is what makes it an oracle for them.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from curvescope._core import checks
from curvescope._core.checks import message
from curvescope.exact.modular.elimination import rank_modulo
from curvescope.exact.modular.field import PRIMES, Array, PrimeField
from curvescope.exact.modular.layered import layered_matrices
from curvescope.exact.modular.linear import linear_matrices
from curvescope.exact.modular.residues import ResidueNet

ActivationName = Literal["linear", "relu", "leaky_relu"]
LossName = Literal["half_squared_error", "cross_entropy", "logcosh"]
_ACTIVATIONS = ("linear", "relu", "leaky_relu")
_LOSSES = ("half_squared_error", "cross_entropy", "logcosh")
# Slopes right and left of zero. A leaky unit is scaled by 100, which the next weights
# could undo: no rank notices.
_SLOPES = {"relu": (1, 0), "leaky_relu": (100, 1)}
_LARGEST = 1000  # of the integers whose signs decide what is active


def generic_ranks(
    widths: Sequence[int],
    *,
    num_samples: int,
    activation: ActivationName = "linear",
    bias: bool = False,
    loss: LossName = "half_squared_error",
    input_rank: int | None = None,
    residual_rank: int | None = None,
    weight_ranks: Sequence[int | None] | None = None,
    seed: int = 0,
    prime: int = PRIMES[0],
) -> dict[str, int]:
    """Return generic ranks of H, GGN and functional Hessian of an architecture.

    Weights, biases, inputs and residuals are random integers; deficient ranks are built
    in exactly, as products of thin matrices. With ``relu`` and ``leaky_relu`` a unit is
    active where its actual, integer pre-activation is positive, so the answer holds near
    this random net, and other activation patterns may have other ranks.

    Args:
        widths: ``(D, hidden widths ..., K)``.
        num_samples: Data points.
        activation: Between the layers.
        bias: Whether all layers have one.
        loss: What it tells is the output Hessian: the identity, a random diagonal
            (``logcosh``), or ``diag p - p p'`` with gradients that add up to zero.
        input_rank: Rank of the inputs; full by default.
        residual_rank: Rank of the gradients by the outputs, which bounds that of
            ``sum delta x'``; full by default.
        weight_ranks: Of every weight; ``None`` for full.
        seed: Of the draw.
        prime: An odd prime below ``2^22``.

    Returns:
        ``{"hessian": ..., "ggn": ..., "functional": ...}``. Each is a lower bound of the
        generic rank, and equal to it but for a chance of at most about the degree of
        a minor divided by the prime.

    Raises:
        ValueError: If a width, a rank or a name is none.

    Cost:
        Milliseconds at P = 150; ``O(N P^2 + P^3)``.

    Example:
        >>> generic_ranks((25, 5, 10, 10), num_samples=50)
        {'hessian': 250, 'ggn': 150, 'functional': 175}
    """
    checks.one_of("activation", activation, _ACTIVATIONS)
    checks.one_of("loss", loss, _LOSSES)
    sizes = [checks.positive_int("widths", width) for width in widths]
    if len(sizes) < 2:
        raise ValueError(message("widths", "name inputs and outputs", tuple(widths)))
    ranks = list(weight_ranks or [None] * (len(sizes) - 1))
    if len(ranks) != len(sizes) - 1:
        contract = f"have one entry for each of the {len(sizes) - 1} layers"
        raise ValueError(message("weight_ranks", contract, tuple(ranks)))
    count = checks.positive_int("num_samples", num_samples)
    field, generator = PrimeField(prime), np.random.default_rng(seed)
    data = _integers((count, sizes[0]), input_rank, "input_rank", generator)
    weights = [
        _integers((sizes[index + 1], sizes[index]), rank, "weight_ranks", generator)
        for index, rank in enumerate(ranks)
    ]
    biases = [
        _integers((size,), None, "bias", generator) if bias else None
        for size in sizes[1:]
    ]
    hidden, slopes = _forward(data, weights, biases, activation)
    gradients = _gradients(field, (count, sizes[-1]), residual_rank, loss, generator)
    net = ResidueNet(
        field=field,
        weights=tuple(field.integers(W) for W in weights),
        biased=(bias,) * len(weights),
        hidden=tuple(field.integers(h) for h in hidden),
        slopes=tuple(None if s is None else field.integers(s) for s in slopes),
        bends=(None,) * len(slopes),
        gradients=gradients,
        curvatures=_curvatures(field, (count, sizes[-1]), loss, generator),
        centred=loss == "cross_entropy",
    )
    if net.is_linear:
        layers = range(len(weights))
        ggn, functional = linear_matrices(net, layers=layers, compress=True)
    else:
        ggn, functional = layered_matrices(net)
    return {
        "hessian": rank_modulo(ggn + functional, prime),
        "ggn": rank_modulo(ggn, prime),
        "functional": rank_modulo(functional, prime),
    }


def _integers(
    shape: tuple[int, ...], rank: int | None, name: str, generator: np.random.Generator
) -> np.ndarray:
    """Return Python integers, of a given rank as the product of two thin matrices."""

    def draw(*size: int) -> np.ndarray:
        return generator.integers(-_LARGEST, _LARGEST + 1, size).astype(object)

    if rank is None or rank == min(shape):
        return draw(*shape)
    if not 0 <= rank < min(shape):
        contract = f"be from 0 to {min(shape)}, the rank of a full matrix {shape}"
        raise ValueError(message(name, contract, rank))
    return draw(shape[0], rank) @ draw(rank, shape[1]) if rank else draw(*shape) * 0


def _forward(
    data: np.ndarray,
    weights: list[np.ndarray],
    biases: list[np.ndarray | None],
    activation: ActivationName,
) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """Return the inputs of every layer and the slopes between, as Python integers."""
    hidden, slopes = [data], []
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        z = hidden[-1] @ weight.T
        z = z if bias is None else z + bias
        slope = None
        if activation != "linear":
            right, left = _SLOPES[activation]
            slope = np.where((z > 0).astype(bool), right, left).astype(object)
        hidden.append(z if slope is None else z * slope)
        slopes.append(slope)
    return hidden, slopes


def _gradients(
    field: PrimeField,
    shape: tuple[int, int],
    rank: int | None,
    loss: LossName,
    generator: np.random.Generator,
) -> Array:
    """Return random gradients by the outputs; of cross-entropy they add up to zero."""
    n, outputs = shape
    free = outputs - (loss == "cross_entropy")
    most = min(n, free)
    rank = most if rank is None else rank
    if not 0 <= rank <= most:
        contract = f"be from 0 to {most}, the most that {shape} gradients can have"
        raise ValueError(message("residual_rank", contract, rank))
    thin, wide = (
        field.random((n, rank), generator),
        field.random((rank, free), generator),
    )
    gradients = field.matmul(thin, wide)
    if loss != "cross_entropy":
        return gradients
    last = field.reduce_(-gradients.sum(1, keepdims=True))
    return np.concatenate([gradients, last], axis=1)


def _curvatures(
    field: PrimeField,
    shape: tuple[int, int],
    loss: LossName,
    generator: np.random.Generator,
) -> Array:
    unit = np.eye(shape[1])
    if loss == "half_squared_error":
        return unit[None]
    p = field.random(shape, generator)
    if loss == "logcosh":
        return p[:, :, None] * unit
    p[:, -1] = field.reduce_(1 - p[:, :-1].sum(1))
    return field.reduce_(
        p[:, :, None] * unit - field.product(p[:, :, None], p[:, None, :])
    )
