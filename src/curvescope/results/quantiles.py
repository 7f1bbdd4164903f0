"""Quantiles of Student's t, for the intervals of estimates with few probes."""

import math

import torch

_MOST_TERMS = 10_000
_TINY = 1e-300


def student_t_quantile(probability: float, degrees: float) -> float:
    """Return the quantile of Student's t, by bisection on the incomplete beta.

    Right to ten digits at any degrees above 0, as long as it is a float's size.

    Args:
        probability: Between 0 and 1, both left out.
        degrees: Degrees of freedom; more than a million are taken for infinite.

    Example:
        >>> round(student_t_quantile(0.975, 10), 4)
        2.2281
    """
    if math.isinf(degrees) or degrees > 1e6:
        return math.sqrt(2.0) * float(
            torch.erfinv(torch.tensor(2 * probability - 1.0, dtype=torch.float64))
        )
    if probability == 0.5:
        return 0.0
    tail = min(probability, 1.0 - probability)
    # Logarithms: with few degrees quantiles are of any size.
    low, high = -340.0, 340.0
    for _ in range(64):
        middle = (low + high) / 2.0
        if _tail(math.exp(middle), degrees) > tail:
            low = middle
        else:
            high = middle
    return math.copysign(math.exp((low + high) / 2.0), probability - 0.5)


def _tail(t: float, degrees: float) -> float:
    """Return the probability of more than ``t > 0``."""
    # Both parts are small where they are, and neither is one less the other.
    near, far = t * t / (degrees + t * t), degrees / (degrees + t * t)
    a, b = degrees / 2.0, 0.5
    if far < (a + 1.0) / (a + b + 2.0):
        return 0.5 * _incomplete_beta(far, near, a, b)
    return 0.5 * (1.0 - _incomplete_beta(near, far, b, a))


def _incomplete_beta(x: float, rest: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function, for ``rest = 1 - x``.

    References:
        Press et al. (2007), Numerical Recipes, section 6.4: a continued fraction, by the
        method of Lentz.
    """
    if x == 0.0:
        return 0.0
    size = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    size += a * math.log(x) + b * math.log(rest)
    c, d = 1.0, 1.0 / _not_zero(1.0 - (a + b) * x / (a + 1.0))
    fraction = d
    for m in range(1, _MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        for term in (even, odd):
            d = 1.0 / _not_zero(1.0 + term * d)
            c = _not_zero(1.0 + term / c)
            fraction *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return math.exp(size) * fraction / a


def _not_zero(x: float) -> float:
    return x if abs(x) > _TINY else _TINY
