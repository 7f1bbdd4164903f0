"""Numbers as a reader wants them: rounded where their error says so."""

import math
from collections.abc import Mapping
from typing import Any

PLUS_MINUS = "\u00b1"
MINUS = "\u2212"
_NARROW_SPACE = "\u202f"


def number(value: float, *, digits: int = 5) -> str:
    """Write a number with ``digits`` significant digits and a true minus sign.

    Example:
        >>> number(1234567.0), number(1.5e-9), number(0.25)
        ('1.2346e+06', '1.5e-09', '0.25')
    """
    return (
        f"{value:.{digits}g}".replace("-", MINUS, 1)
        if value < 0
        else (f"{value:.{digits}g}")
    )


def with_error(value: float, error: float) -> str:
    """Write ``value`` and its error to the error's second digit.

    Example:
        >>> with_error(12.3456, 0.04321)
        '12.346 \u00b1 0.043'
        >>> with_error(3.0, 0.0)
        '3'
    """
    if error == 0.0 or not (math.isfinite(value) and math.isfinite(error)):
        suffix = "" if error == 0.0 else f" {PLUS_MINUS} {number(error, digits=2)}"
        return number(value) + suffix
    size = max(abs(value), error)
    power = math.floor(math.log10(size))
    scale = 0 if -4 <= power < 6 else power
    last = math.floor(math.log10(error))
    if power - last > 6:
        # An error below all digits worth reading: the value, and the error apart.
        return f"{number(value, digits=7)} {PLUS_MINUS} {number(error, digits=2)}"
    value, error = value / 10.0**scale, error / 10.0**scale
    places = max(0, scale + 1 - last)
    text = f"{value:.{places}f} {PLUS_MINUS} {error:.{places}f}".replace("-", MINUS)
    return text if scale == 0 else f"({text}){_power(scale)}"


def _power(scale: int) -> str:
    return f"e{scale:+03d}" if scale else ""


def count(value: int) -> str:
    """Write a count with thin spaces between thousands."""
    return f"{value:,}".replace(",", _NARROW_SPACE)


def duration(seconds: float) -> str:
    """Write a time for a reader.

    Example:
        >>> duration(0.25), duration(75), duration(7300)
        ('0.25 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def cell(value: Any) -> str:
    """Write any value of a settings, environment or checks table."""
    if value is None:
        return "\u2013"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value) if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return number(value, digits=6)
    if isinstance(value, (list, tuple)):
        return ", ".join(cell(item) for item in value)
    return str(value)


def flatten(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Lay nested settings out as pairs of a dotted name and a text."""
    pairs: list[tuple[str, str]] = []
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            pairs += flatten(value, f"{name}.")
        else:
            # A seed or an id is a name, not a quantity: no grouping of its digits.
            plain = isinstance(value, int) and not isinstance(value, bool)
            pairs.append((name, str(value) if plain else cell(value)))
    return pairs
