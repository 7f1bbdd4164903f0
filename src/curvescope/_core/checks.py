"""One wording for wrong arguments: ``"`argument` must <contract>; got <value>. <remedy>"``.

Checks run at the public boundary; inner code trusts its input.
"""

import math
from collections.abc import Collection, Iterable
from typing import Any

from torch import Tensor


def message(argument: str, contract: str, got: object, remedy: str = "") -> str:
    """Return the house's error text."""
    text = f"`{argument}` must {contract}; got {got}."
    return f"{text} {remedy}" if remedy else text


def describe(value: object) -> str:
    """Describe a value without printing a tensor's entries."""
    if isinstance(value, Tensor):
        shape = tuple(value.shape)
        return f"a tensor of shape {shape}, {value.dtype} on {value.device}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def positive_int(
    argument: str, value: Any, *, minimum: int = 1, remedy: str = ""
) -> int:
    """Return ``value`` as an ``int`` of at least ``minimum``."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(message(argument, "be an integer", describe(value), remedy))
    number = int(value.__index__())
    if number < minimum:
        raise ValueError(message(argument, f"be at least {minimum}", number, remedy))
    return number


def real(
    argument: str,
    value: Any,
    *,
    minimum: float | None = None,
    strict: bool = False,
    remedy: str = "",
) -> float:
    """Return ``value`` as a finite ``float``, above ``minimum`` where one is given."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        text = message(argument, "be a number", describe(value), remedy)
        raise TypeError(text) from None
    if not math.isfinite(number):
        raise ValueError(message(argument, "be finite", number, remedy))
    if minimum is not None and (number < minimum or (strict and number == minimum)):
        relation = "above" if strict else "at least"
        text = message(argument, f"be {relation} {minimum:g}", number, remedy)
        raise ValueError(text)
    return number


def one_of(argument: str, value: Any, options: Collection[Any]) -> Any:
    """Return ``value`` if it is among ``options``."""
    if value not in options:
        names = ", ".join(repr(option) for option in options)
        raise ValueError(message(argument, f"be one of {names}", describe(value)))
    return value


def unique(argument: str, values: Iterable[str]) -> tuple[str, ...]:
    """Return ``values`` as a tuple without repetitions."""
    names = tuple(values)
    if len(set(names)) != len(names):
        raise ValueError(message(argument, "have no repetition", describe(names)))
    return names
