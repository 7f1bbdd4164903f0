r"""Activations in plain arithmetic, and their moments under a Gaussian.

Everything that mean-field theory asks of an activation :math:`\phi` is a function of the
variance ``q`` of what goes in: :math:`\mathbb E\,\phi(u)^2` for the forward pass and
:math:`\mathbb E\,\phi'(u)^2` for the backward one, :math:`u \sim \mathcal N(0, q)`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import final

from curvescope._core.checks import message, one_of, real

Function = Callable[[float], float]

# Nodes and weights of five-point Gauss-Legendre on [-1, 1].
_GAUSS = (
    (0.0, 0.5688888888888889),
    (0.5384693101056831, 0.47862867049936647),
    (-0.5384693101056831, 0.47862867049936647),
    (0.906179845938664, 0.23692688505618908),
    (-0.906179845938664, 0.23692688505618908),
)
_REACH = 12.0  # standard deviations: beyond lies 1e-32 of a Gaussian
_PANELS = 96


@final
@dataclass(frozen=True, kw_only=True)
class Unit:
    """One elementwise activation.

    Attributes:
        name: As `unit` takes it.
        value: ``phi(u)``.
        slope: ``phi'(u)``, almost everywhere.
        odd: Whether it is smooth and odd with slope 1 at zero.
        homogeneous: Whether ``phi(a u) = a phi(u)`` for ``a > 0``.
    """

    name: str
    value: Function
    slope: Function
    odd: bool = False
    homogeneous: bool = False


def _sigmoid(u: float) -> float:
    if u >= 0:
        return 1.0 / (1.0 + math.exp(-u))
    e = math.exp(u)
    return e / (1.0 + e)


def _normal_cdf(u: float) -> float:
    return 0.5 * math.erfc(-u / math.sqrt(2.0))


def _normal_pdf(u: float) -> float:
    return math.exp(-0.5 * u * u) / math.sqrt(2.0 * math.pi)


def _softplus(u: float) -> float:
    return max(u, 0.0) + math.log1p(math.exp(-abs(u)))


def _leaky(parameter: float | None, *, name: str = "leaky_relu") -> Unit:
    a = 0.01 if parameter is None else parameter
    return Unit(
        name=name,
        value=lambda u: u if u > 0 else a * u,
        slope=lambda u: 1.0 if u > 0 else a,
        homogeneous=True,
    )


def _elu(parameter: float | None) -> Unit:
    a = 1.0 if parameter is None else parameter
    return Unit(
        name="elu",
        value=lambda u: u if u > 0 else a * math.expm1(u),
        slope=lambda u: 1.0 if u > 0 else a * math.exp(u),
    )


def _soft(parameter: float | None) -> Unit:
    b = 1.0 if parameter is None else parameter
    return Unit(
        name="softplus",
        value=lambda u: _softplus(b * u) / b,
        slope=lambda u: _sigmoid(b * u),
    )


_IDENTITY = Unit(
    name="identity", value=lambda u: u, slope=lambda _: 1.0, odd=True, homogeneous=True
)
_TANH = Unit(
    name="tanh", value=math.tanh, slope=lambda u: 1.0 - math.tanh(u) ** 2, odd=True
)
_SIGMOID = Unit(
    name="sigmoid", value=_sigmoid, slope=lambda u: _sigmoid(u) * _sigmoid(-u)
)
_GELU = Unit(
    name="gelu",
    value=lambda u: u * _normal_cdf(u),
    slope=lambda u: _normal_cdf(u) + u * _normal_pdf(u),
)
_SILU = Unit(
    name="silu",
    value=lambda u: u * _sigmoid(u),
    slope=lambda u: _sigmoid(u) * (1.0 + u * _sigmoid(-u)),
)
_UNITS: dict[str, Callable[[float | None], Unit]] = {
    "identity": lambda _: _IDENTITY,
    "tanh": lambda _: _TANH,
    "relu": lambda _: _leaky(0.0, name="relu"),
    "leaky_relu": _leaky,
    "sigmoid": lambda _: _SIGMOID,
    "gelu": lambda _: _GELU,
    "silu": lambda _: _SILU,
    "elu": _elu,
    "softplus": _soft,
}
UNITS = tuple(_UNITS)


def unit(name: str, *, parameter: float | None = None) -> Unit:
    """Return an activation by name.

    Args:
        name: One of `UNITS`.
        parameter: Slope below zero of ``leaky_relu`` (0.01 by default), ``alpha`` of
            ``elu``, ``beta`` of ``softplus`` (1 by default); others have none.

    Returns:
        The activation.

    Raises:
        ValueError: If there is no such name, or ``parameter`` is none that it can have.

    Example:
        >>> unit("relu").value(2.0), unit("leaky_relu", parameter=0.1).slope(-2.0)
        (2.0, 0.1)
    """
    one_of("name", name, UNITS)
    if parameter is not None:
        if name not in ("leaky_relu", "elu", "softplus"):
            raise ValueError(message("parameter", f"be None for {name}", parameter))
        above = 0.0 if name == "softplus" else None
        real("parameter", parameter, minimum=above, strict=True)
    return _UNITS[name](parameter)


def second_moment(phi: Unit, *, variance: float) -> float:
    r"""Return the mean square of an activation's output.

    .. math:: \mathbb E\,\phi(u)^2, \quad u \sim \mathcal N(0, q)

    Args:
        phi: The activation.
        variance: ``q``.

    Returns:
        The moment, by quadrature; relative error below 1e-8.

    Raises:
        ValueError: If the variance is negative.

    Example:
        >>> round(second_moment(unit("relu"), variance=2.0), 9)
        1.0
    """
    return gaussian_mean(lambda u: phi.value(u) ** 2, variance=variance)


def slope_moment(phi: Unit, *, variance: float) -> float:
    r"""Return the mean square of an activation's slope.

    .. math:: \mathbb E\,\phi'(u)^2, \quad u \sim \mathcal N(0, q)

    Args:
        phi: The activation.
        variance: ``q``.

    Returns:
        The moment, by quadrature; relative error below 1e-8.

    Raises:
        ValueError: If the variance is negative.

    Example:
        >>> round(slope_moment(unit("relu"), variance=7.0), 9)
        0.5
    """
    return gaussian_mean(lambda u: phi.slope(u) ** 2, variance=variance)


def gaussian_mean(function: Function, *, variance: float) -> float:
    r"""Return the mean of a function of a centred Gaussian, kinks at zero allowed.

    Args:
        function: Smooth on both sides of zero.
        variance: Of the Gaussian; 0 gives the mean of the two limits at zero.

    Returns:
        The mean, by Gauss-Legendre on panels that are graded towards zero.

    Raises:
        ValueError: If the variance is negative.

    Example:
        >>> round(gaussian_mean(lambda u: u**4, variance=2.0), 9)
        12.0
    """
    scale = math.sqrt(real("variance", variance, minimum=0.0))
    if scale == 0.0:
        return 0.5 * (function(5e-324) + function(-5e-324))
    total = 0.0
    edges = [_REACH * (i / _PANELS) ** 3 for i in range(_PANELS + 1)]
    for low, high in pairwise(edges):
        middle, half = 0.5 * (low + high), 0.5 * (high - low)
        for node, weight in _GAUSS:
            z = middle + half * node
            both = function(scale * z) + function(-scale * z)
            total += weight * half * _normal_pdf(z) * both
    return total
