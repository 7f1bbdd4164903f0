r"""Laws of initialisation: how large layers' blocks of the Hessian are, and when alike.

Layer ``k = 1, ..., L`` maps :math:`a^{k-1}` to :math:`u^k = W^k a^{k-1} (+ b^k)`,
:math:`a^k = \phi(u^k)`; :math:`B_k = \partial z / \partial u^k` leads to the outputs z,
and :math:`H_z` is the loss's Hessian there. A layer's own block is
:math:`H_{W^k} = H_{u^k} \otimes a^{k-1} a^{k-1\top}` for each sample: **backward squared
times forward squared**. Its linearisation part is :math:`G_{W^k} = B_k^\top H_z B_k
\otimes a^{k-1} a^{k-1\top}`, the rest is its curvature part.

Every law says how far it is known, as data: see `LAWS`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, final

from curvescope._core.checks import message, positive_int, real
from curvescope.theory.initialisation_units import Unit, slope_moment

LawStatus = Literal["published", "derived", "verified"]


@final
@dataclass(frozen=True, kw_only=True)
class Law:
    """One statement about an initialised network, and how far it is known.

    Attributes:
        name: A short name.
        statement: The formula in plain text, with its conditions.
        status: ``"published"`` (stated in the cited work), ``"derived"`` (from the chain
            rule, here), ``"verified"`` (derived here, and measured by the tests).
        source: The cited work, or what it was derived from.
    """

    name: str
    statement: str
    status: LawStatus
    source: str

    def __str__(self) -> str:
        return f"{self.statement} ({self.status}: {self.source})"


_CHAIN_RULE = (
    "Hessian chain rule of a layer; the split into linearisation and curvature is that "
    "of Skorski, Temperoni, Theobald (2021), PMLR 157"
)
_LAWS = (
    Law(
        name="forward_variance",
        statement="s^2 = 1 / (c fan_in) keeps the mean square of the activations",
        status="published",
        source="LeCun et al. (1998) for c = 1; He et al. (2015) for ReLU, c = 1/2",
    ),
    Law(
        name="backward_variance",
        statement="s^2 = 1 / (c fan_out) keeps the mean square of the gradients",
        status="published",
        source="Glorot, Bengio (2010) for c = 1; He et al. (2015) for ReLU, c = 1/2",
    ),
    Law(
        name="hessian_variance",
        statement=(
            "s^2 = 2 / (c (fan_in + fan_out)), as a layer's block is the forward factor "
            "times the backward one"
        ),
        status="derived",
        source=(
            "the compromise of Glorot, Bengio (2010), extended by c; in kind what the "
            "abstract of Skorski, Temperoni, Theobald (2021) announces for smooth "
            "activations, dropout and ReLU; their constants were not compared"
        ),
    ),
    Law(
        name="curvature_ratio",
        statement=(
            "curvature part / linearisation part of layer k ~ s^(2k - L), smooth odd "
            "activations, all weights of small standard deviation s, no biases"
        ),
        status="verified",
        source=_CHAIN_RULE,
    ),
    Law(
        name="off_diagonal_ratio",
        statement=(
            "functional Hessian / GGN of two different layers ~ s^(-L), ReLU, no biases"
        ),
        status="verified",
        source=_CHAIN_RULE,
    ),
    Law(
        name="piecewise_linear",
        statement=(
            "a layer's own curvature part is zero where all that follows is piecewise "
            "linear; trace of the Hessian = trace of the GGN"
        ),
        status="verified",
        source=_CHAIN_RULE,
    ),
    Law(
        name="homogeneous_scale",
        statement=(
            "all weights times s multiply every layer's block by s^(2 (L - 1)) at a "
            "fixed output Hessian; positively homogeneous activations, no biases"
        ),
        status="verified",
        source=_CHAIN_RULE,
    ),
    Law(
        name="own_scale",
        statement=(
            "a layer's own block does not depend on the scale of its own weights, "
            "squared error, positively homogeneous activations, no biases; with "
            "cross-entropy only by the probabilities"
        ),
        status="verified",
        source=_CHAIN_RULE,
    ),
    Law(
        name="balance",
        statement=(
            "log ||H_k|| = constant + 2 sum over j != k of log s_j, so that log s_k = "
            "(log ||H_k|| - mean) / 2 makes all equal and keeps the function; positively "
            "homogeneous activations, weights' blocks"
        ),
        status="verified",
        source=_CHAIN_RULE,
    ),
    Law(
        name="mean_field_trace",
        statement=(
            "trace of layer k's GGN block = E |a|^2 (+ 1 with biases) x E tr B' H_z B, to "
            "leading order in the widths, fully connected, independent weights"
        ),
        status="verified",
        source=(
            "variance map of Schoenholz et al. (2017), arXiv:1611.01232, with the block's "
            "Kronecker form"
        ),
    ),
)
# Read-only, and with a docstring that a reference page can hold.
LAWS: Mapping[str, Law] = MappingProxyType({law.name: law for law in _LAWS})


def unit_constant(phi: Unit) -> float:
    r"""Return an activation's constant c in the variance laws.

    ``1`` for smooth odd activations with slope 1 at zero, whose units work near zero;
    exact for positively homogeneous ones (``1/2`` for ReLU, ``(1 + a^2)/2`` for a slope
    ``a`` below zero); :math:`\mathbb E\,\phi'(u)^2` at unit variance for the others.

    Args:
        phi: The activation.

    Returns:
        The constant.

    Example:
        >>> from curvescope.theory.initialisation_units import unit
        >>> unit_constant(unit("tanh")), unit_constant(unit("relu"))
        (1.0, 0.5)
    """
    if phi.homogeneous:
        return 0.5 * (phi.slope(1.0) ** 2 + phi.slope(-1.0) ** 2)
    return 1.0 if phi.odd else slope_moment(phi, variance=1.0)


def dropout_constant(keep_probability: float, *, rescaled: bool = True) -> float:
    r"""Return the factor by which dropout changes the mean square of what it passes.

    Args:
        keep_probability: The probability p that an entry is kept.
        rescaled: Whether kept entries are divided by p while training, as torch's are:
            the factor is then ``1/p``; else it is ``p``.

    Returns:
        The factor; c is multiplied by it. In eval mode dropout does nothing.

    Raises:
        ValueError: If the probability is not above 0 and at most 1.

    Example:
        >>> dropout_constant(0.5), dropout_constant(0.5, rescaled=False)
        (2.0, 0.5)
    """
    p = real("keep_probability", keep_probability, minimum=0.0, strict=True)
    if p > 1.0:
        raise ValueError(message("keep_probability", "be at most 1", p))
    return 1.0 / p if rescaled else p


def forward_variance(fan_in: int, *, constant: float = 1.0) -> float:
    r"""Return the variance of weights that keeps the activations' mean square.

    .. math:: \sigma^2 = \frac{1}{c\,\text{fan\_in}}

    Args:
        fan_in: Inputs of one unit.
        constant: ``c`` of the activation in front of the layer.

    Returns:
        The variance.

    Raises:
        ValueError: If an argument is not positive.

    Example:
        >>> forward_variance(100, constant=0.5)
        0.02

    References:
        LeCun et al. (1998); He et al. (2015), arXiv:1502.01852.
    """
    return 1.0 / (_constant(constant) * positive_int("fan_in", fan_in))


def backward_variance(fan_out: int, *, constant: float = 1.0) -> float:
    r"""Return the variance of weights that keeps the gradients' mean square.

    .. math:: \sigma^2 = \frac{1}{c\,\text{fan\_out}}

    Args:
        fan_out: Units that one input reaches.
        constant: ``c`` of the activation in front of the layer, whose slope the gradient
            passes next.

    Returns:
        The variance.

    Raises:
        ValueError: If an argument is not positive.

    Example:
        >>> backward_variance(50, constant=0.5)
        0.04

    References:
        Glorot, Bengio (2010); He et al. (2015), arXiv:1502.01852.
    """
    return 1.0 / (_constant(constant) * positive_int("fan_out", fan_out))


def hessian_variance(fan_in: int, fan_out: int, *, constant: float = 1.0) -> float:
    r"""Return the compromise between the forward and the backward law.

    .. math:: \sigma^2 = \frac{2}{c\,(\text{fan\_in} + \text{fan\_out})}

    Args:
        fan_in: Inputs of one unit.
        fan_out: Units that one input reaches.
        constant: ``c`` of the activation in front of the layer.

    Returns:
        The variance; the harmonic mean of the two laws' ones.

    Raises:
        ValueError: If an argument is not positive.

    Example:
        >>> hessian_variance(60, 40)
        0.02

    References:
        Glorot, Bengio (2010); Skorski, Temperoni, Theobald (2021), PMLR 157.
    """
    fans = positive_int("fan_in", fan_in) + positive_int("fan_out", fan_out)
    return 2.0 / (_constant(constant) * fans)


def curvature_ratio_exponent(layer: int, *, depth: int) -> int:
    r"""Return the power of s in a layer's curvature part over its linearisation part.

    .. math:: \|F_{kk}\| / \|G_{kk}\| \sim s^{2k - L}

    for smooth odd activations, biases zero and all weights of small standard deviation s:
    the linearisation part falls as :math:`s^{2(L-1)}`, the curvature part as
    :math:`s^{L + 2(k-1)}`. The last layer has none.

    Args:
        layer: ``k``, from 1 to ``depth - 1``.
        depth: ``L``, the number of layers.

    Returns:
        The exponent: negative where the curvature part wins as s goes to zero.

    Raises:
        ValueError: If there is no such layer.

    Example:
        >>> [curvature_ratio_exponent(k, depth=5) for k in (1, 2, 3, 4)]
        [-3, -1, 1, 3]
    """
    depth = positive_int("depth", depth, minimum=2)
    k = positive_int("layer", layer)
    if k >= depth:
        remedy = "The last layer is linear in its weights: its curvature part is zero."
        raise ValueError(message("layer", f"be below {depth}, the depth", k, remedy))
    return 2 * k - depth


def off_diagonal_ratio_exponent(*, depth: int) -> int:
    r"""Return the power of s in the functional Hessian over the GGN of two layers.

    .. math:: \|F_{jk}\| / \|G_{jk}\| \sim s^{-L}, \quad j \neq k

    for ReLU networks without biases: :math:`s^{L-2}` against :math:`s^{2(L-1)}`. So a
    network of small weights is far from its linearisation, though each of its own blocks
    is exactly that.

    Args:
        depth: ``L``, the number of layers.

    Returns:
        The exponent.

    Raises:
        ValueError: If the depth is below 2.

    Example:
        >>> off_diagonal_ratio_exponent(depth=3)
        -3
    """
    return -positive_int("depth", depth, minimum=2)


def homogeneous_norm_exponent(*, depth: int) -> int:
    r"""Return the power of s in a layer's block as all weights are multiplied by s.

    .. math:: \|H_{W^k}\| = s^{2(L-1)}\,\|H_z\|\cdot\text{constant}

    for positively homogeneous activations without biases; exact at a fixed output
    Hessian (squared error), and up to the probabilities with cross-entropy.

    Args:
        depth: ``L``, the number of layers.

    Returns:
        The exponent.

    Raises:
        ValueError: If the depth is below 1.

    Example:
        >>> homogeneous_norm_exponent(depth=3)
        4
    """
    return 2 * (positive_int("depth", depth) - 1)


def balancing_scales(norms: Sequence[float]) -> tuple[float, ...]:
    r"""Return factors of the layers' weights that make their blocks equally large.

    .. math:: \log s_k = \tfrac12 \left(\log \|H_k\| -
        \tfrac1L \textstyle\sum_j \log \|H_j\|\right)

    As layer k's block grows with the square of all OTHER layers' scales, and the factors'
    product is 1, its logarithm loses :math:`2 \log s_k`: all become the geometric mean.
    A positively homogeneous network computes the same function afterwards.

    Args:
        norms: Of the layers' weights' blocks, positive.

    Returns:
        One factor a layer; their product is 1.

    Raises:
        ValueError: If a norm is not positive and finite, or there is none.

    Example:
        >>> [round(s, 9) for s in balancing_scales([16.0, 1.0])]
        [2.0, 0.5]
    """
    if not norms:
        raise ValueError(message("norms", "have at least one entry", "none"))
    logs = [math.log(real("norms", norm, minimum=0.0, strict=True)) for norm in norms]
    mean = math.fsum(logs) / len(logs)
    return tuple(math.exp(0.5 * (value - mean)) for value in logs)


def _constant(value: float) -> float:
    return real("constant", value, minimum=0.0, strict=True)
