"""How the learning rate falls: the factor of the first one, by the part that is done."""

import math
from collections.abc import Callable

from curvescope._core.checks import describe, message

Schedule = Callable[[float], float]
_LAST = 0.01
_HOLD, _FALLEN = 0.5, 0.9


def constant(_: float) -> float:
    """Return 1."""
    return 1.0


def published(done: float) -> float:
    r"""Return 1 for the first half, then fall linearly to 0.01 until nine tenths.

    .. math:: 1 - 0.99\, \frac{t - 0.5}{0.4} \quad (0.5 < t \le 0.9)

    Args:
        done: The part :math:`t` of the training that is done, from 0 to 1.

    Returns:
        The factor of the first learning rate.

    Example:
        >>> published(0.5), round(published(0.7), 3), published(0.95)
        (1.0, 0.505, 0.01)

    References:
        Maddox et al. (2019), arXiv:1902.02476; used by Maddox, Benton, Wilson (2020)
        with 200 epochs.
    """
    if done <= _HOLD:
        return 1.0
    if done <= _FALLEN:
        return 1.0 - (1.0 - _LAST) * (done - _HOLD) / (_FALLEN - _HOLD)
    return _LAST


def cosine(done: float) -> float:
    """Return half a cosine's wave, from 1 to 0.

    Args:
        done: The part of the training that is done, from 0 to 1.

    Returns:
        The factor of the first learning rate.

    Example:
        >>> cosine(0.0)
        1.0
    """
    return 0.5 * (1.0 + math.cos(math.pi * done))


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "published": published,
    "cosine": cosine,
}


def resolve(schedule: str | Schedule) -> tuple[str, Schedule]:
    """Return a schedule and what it is called."""
    if isinstance(schedule, str) and schedule in SCHEDULES:
        return schedule, SCHEDULES[schedule]
    if callable(schedule):
        return getattr(schedule, "__qualname__", type(schedule).__name__), schedule
    names = ", ".join(repr(name) for name in SCHEDULES)
    contract = f"be one of {names}, or a function of the part that is done"
    raise ValueError(message("schedule", contract, describe(schedule)))
