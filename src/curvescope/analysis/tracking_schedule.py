"""At which steps of a training to measure."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from curvescope._core.checks import describe, message, positive_int

Schedule = Callable[[int], bool]


def schedule(every: Any) -> Schedule:
    """Return the function that tells whether a step is to be measured.

    Args:
        every: A number, of whose multiples (0 among them) all are; or the steps
            themselves; or a function of the step.

    Returns:
        The function.

    Raises:
        TypeError: If ``every`` is of no such kind.
        ValueError: If a number is below 1, or a step below 0.

    Example:
        >>> [step for step in range(10) if schedule(4)(step)]
        [0, 4, 8]
    """
    if callable(every):
        return lambda step: bool(every(step))
    if hasattr(every, "__index__"):
        period = positive_int("every", every)
        return lambda step: step % period == 0
    if isinstance(every, Iterable) and not isinstance(every, (str, bytes)):
        steps = frozenset(positive_int("every", s, minimum=0) for s in every)
        if not steps:
            raise ValueError(message("every", "have at least one step", "none"))
        return lambda step: step in steps
    contract = "be a number, steps, or a function of the step"
    raise TypeError(message("every", contract, describe(every)))


def log_spaced(last: int, *, per_decade: int = 5) -> tuple[int, ...]:
    """Return steps from 0 to ``last``, evenly spaced on a logarithmic axis.

    Curvature changes most in the first steps of a training.

    Args:
        last: The last step, at least 1; it is always among them.
        per_decade: How many of them between a step and its tenfold.

    Returns:
        The steps, ascending, each once.

    Raises:
        ValueError: If an argument is below 1.

    Example:
        >>> log_spaced(100, per_decade=3)
        (0, 1, 2, 5, 10, 22, 46, 100)
    """
    last = positive_int("last", last)
    per_decade = positive_int("per_decade", per_decade)
    count = math.floor(per_decade * math.log10(last) + 1e-9)
    steps = {round(10.0 ** (i / per_decade)) for i in range(count + 1)}
    return (0, *sorted({step for step in steps if step <= last} | {last}))
