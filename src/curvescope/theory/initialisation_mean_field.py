r"""Mean-field theory of fully connected networks: each layer's GGN trace at random weights.

To leading order in the widths, and for one sample with :math:`A_0 = |x|^2`:

.. math::
    q_k &= s_k^2 A_{k-1} + t_k^2, \quad A_k = m_k\,\mathbb E\,\phi_k(\sqrt{q_k} z)^2 \\
    T_L &= \mathbb E \operatorname{tr} H_z, \quad
    T_k = m_k\,\mathbb E\,\phi_k'(\sqrt{q_k} z)^2\, s_{k+1}^2\, T_{k+1} \\
    \operatorname{tr} G_k &= (A_{k-1} + [\text{bias}])\, T_k

with widths :math:`m_k`, standard deviations :math:`s_k` of the weights and :math:`t_k` of
the biases. The first layer's part and, at a fixed output Hessian, homogeneous networks
are exact in the mean for every width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from curvescope._core.checks import message, positive_int, real
from curvescope.theory.initialisation_units import (
    Unit,
    gaussian_mean,
    second_moment,
    slope_moment,
)

_LOG_STEP = 0.2


@final
@dataclass(frozen=True, kw_only=True)
class MeanField:
    """What mean-field theory says of a network, one entry a layer; means over samples.

    Attributes:
        variances: ``q_k`` of the pre-activations.
        input_square_norms: ``A_{k-1}``, the squared length of what the layer gets.
        output_traces: ``T_k``, the trace of ``B_k' H_z B_k``.
        traces: Of the layer's block of the GGN, one sample's in the mean.
    """

    variances: tuple[float, ...]
    input_square_norms: tuple[float, ...]
    output_traces: tuple[float, ...]
    traces: tuple[float, ...]


def mean_field(
    widths: Sequence[int],
    *,
    weight_stds: Sequence[float],
    units: Sequence[Unit],
    input_square_norms: Sequence[float],
    output_trace: Callable[[float], float],
    bias_stds: Sequence[float] | None = None,
    has_bias: Sequence[bool] | None = None,
) -> MeanField:
    r"""Predict the trace of every layer's GGN block at random weights.

    Args:
        widths: Of input, hidden layers and output, ``L + 1`` of them.
        weight_stds: Standard deviation of each layer's weights.
        units: Activations between the layers, ``L - 1`` of them.
        input_square_norms: :math:`|x|^2` of samples that stand for all, equally many for
            each; the recursion runs for each one, and the results are averaged.
        output_trace: From the variance of the outputs to the expected trace of the
            loss's Hessian by them: see `cross_entropy_output_trace`.
        bias_stds: Standard deviation of each layer's biases; all zero by default.
        has_bias: Whether each layer's block has its bias in it; none by default.

    Returns:
        The moments and the traces.

    Raises:
        ValueError: If the arguments' lengths do not fit each other, or one is negative.

    Cost:
        About ``2 (L - 1)`` quadratures of 1000 evaluations for each sample.

    Example:
        >>> from curvescope.theory.initialisation_units import unit
        >>> field = mean_field(
        ...     (4, 100, 3),
        ...     weight_stds=(0.5, 0.1),
        ...     units=[unit("identity")],
        ...     input_square_norms=[4.0],
        ...     output_trace=lambda variance: 3.0,
        ... )
        >>> [round(trace, 6) for trace in field.traces]
        [12.0, 300.0]

    References:
        Schoenholz et al. (2017), arXiv:1611.01232, for the maps of variances.
    """
    sizes = [positive_int("widths", width) for width in widths]
    depth = len(sizes) - 1
    if depth < 1:
        raise ValueError(message("widths", "have at least two entries", len(sizes)))
    stds = _of_length("weight_stds", weight_stds, depth)
    biases = _of_length("bias_stds", bias_stds or [0.0] * depth, depth)
    if len(units) != depth - 1:
        raise ValueError(message("units", f"have {depth - 1} entries", len(units)))
    own = [False] * depth if has_bias is None else list(has_bias)
    if len(own) != depth:
        raise ValueError(message("has_bias", f"have {depth} entries", len(own)))
    if not input_square_norms:
        raise ValueError(message("input_square_norms", "not be empty", "nothing"))
    found = [
        _one_sample(
            sizes, stds, biases, units, real("|x|^2", x, minimum=0.0), output_trace
        )
        for x in input_square_norms
    ]
    traces = [
        [(a + flag) * t for a, t, flag in zip(A, T, own, strict=True)]
        for _, A, T in found
    ]
    return MeanField(
        variances=_means([q for q, _, _ in found]),
        input_square_norms=_means([A for _, A, _ in found]),
        output_traces=_means([T for _, _, T in found]),
        traces=_means(traces),
    )


def _one_sample(
    widths: Sequence[int],
    stds: Sequence[float],
    biases: Sequence[float],
    units: Sequence[Unit],
    square_norm: float,
    output_trace: Callable[[float], float],
) -> tuple[list[float], list[float], list[float]]:
    depth = len(stds)
    q, A = [], [square_norm]
    for k in range(depth):
        q.append(stds[k] ** 2 * A[k] + biases[k] ** 2)
        if k < depth - 1:
            A.append(widths[k + 1] * second_moment(units[k], variance=q[k]))
    T = [output_trace(q[-1])]
    for k in reversed(range(depth - 1)):
        slope = slope_moment(units[k], variance=q[k])
        T.append(widths[k + 1] * slope * stds[k + 1] ** 2 * T[-1])
    return q, A, T[::-1]


def _of_length(name: str, values: Sequence[float], length: int) -> list[float]:
    if len(values) != length:
        raise ValueError(message(name, f"have {length} entries", len(values)))
    return [real(name, value, minimum=0.0) for value in values]


def _means(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(math.fsum(c) / len(rows) for c in zip(*rows, strict=True))


def cross_entropy_output_trace(num_classes: int, *, variance: float) -> float:
    r"""Return the expected trace of cross-entropy's Hessian by the outputs.

    .. math:: \mathbb E \operatorname{tr}(\operatorname{diag} p - p p^\top)
        = 1 - \mathbb E \sum_i p_i^2, \quad p = \operatorname{softmax}(z),\
        z \sim \mathcal N(0, v I_K)

    ``1 - 1/K`` for outputs near zero. Exact for every variance and K, by
    :math:`1/x^2 = \int_0^\infty t e^{-tx} dt` and two nested quadratures.

    Args:
        num_classes: ``K``.
        variance: ``v`` of the independent logits.

    Returns:
        The trace; between 0 and ``1 - 1/K``.

    Raises:
        ValueError: If there are fewer than two classes, or the variance is negative.

    Example:
        >>> round(cross_entropy_output_trace(10, variance=0.0), 9)
        0.9
        >>> round(cross_entropy_output_trace(10, variance=1.0), 3)
        0.805
    """
    classes = positive_int("num_classes", num_classes, minimum=2)
    v = real("variance", variance, minimum=0.0)
    if v == 0.0:
        return 1.0 - 1.0 / classes
    # Trapezoids converge exponentially here: both integrands are smooth, in the Gaussian
    # variable and in log t, and fall off on both sides.
    scale = math.sqrt(v)
    spread = 9.0 * scale
    grid = _gaussian_grid(scale)
    low, high = -spread - 20.0, spread + math.log(60.0)
    steps = math.ceil((high - low) / _LOG_STEP)
    step = (high - low) / steps
    total = 0.0
    for i in range(steps + 1):
        log_t = low + i * step
        squared = plain = 0.0
        for weight, logit in grid:
            if log_t + logit < 6.5:  # else e^-w is nothing
                w = math.exp(log_t + logit)
                mass = weight * math.exp(-w)
                squared += w * w * mass
                plain += mass
        total += squared * plain ** (classes - 1)
    return 1.0 - classes * total * step


def _gaussian_grid(scale: float) -> list[tuple[float, float]]:
    """Return (weight, scale z) of a standard normal z on an even grid."""
    half = math.ceil(9.0 * max(4.0, 3.0 * scale))
    nodes = [9.0 * i / half for i in range(-half, half + 1)]
    masses = [math.exp(-0.5 * z * z) for z in nodes]
    whole = math.fsum(masses)
    return [(m / whole, scale * z) for m, z in zip(masses, nodes, strict=True)]


def bernoulli_output_trace(*, variance: float) -> float:
    r"""Return the expected Hessian of binary cross-entropy by one logit.

    .. math:: \mathbb E\,\sigma(z)\,\sigma(-z), \quad z \sim \mathcal N(0, v)

    Args:
        variance: ``v`` of the logit.

    Returns:
        The mean; 1/4 for logits near zero.

    Raises:
        ValueError: If the variance is negative.

    Example:
        >>> bernoulli_output_trace(variance=0.0)
        0.25
    """

    def slope(z: float) -> float:
        e = math.exp(-abs(z))
        return e / (1.0 + e) ** 2

    return gaussian_mean(slope, variance=variance)
