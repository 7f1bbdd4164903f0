"""Logarithmic and signed-logarithmic axes with plain-text tick labels.

Labels are Unicode text, not mathtext: in an SVG they stay text that a browser sets in
the page's own font.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SUPERSCRIPTS = str.maketrans(
    "-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
)
_MANTISSAS = ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))


def power_label(value: float) -> str:
    """Write a number as mantissa times a power of ten.

    Example:
        >>> power_label(-0.001) == "\u221210\u207b\u00b3"
        True
    """
    if value == 0:
        return "0"
    sign = "\u2212" if value < 0 else ""
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    mantissa = abs(value) / 10.0**exponent
    power = "10" + str(exponent).translate(_SUPERSCRIPTS)
    if abs(mantissa - 1) < 1e-6:
        return sign + power
    return f"{sign}{mantissa:.3g}\u00d7{power}"


def plain_label(value: float) -> str:
    """Write a number of moderate size, with a true minus sign."""
    text = f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return text.replace("-", "\u2212")


def tick_labels(ticks: list[float]) -> list[str]:
    """Write all ticks of an axis in one way: plainly, or as powers of ten."""
    sizes = [abs(tick) for tick in ticks if tick != 0]
    plain = all(1e-3 <= size < 1e5 for size in sizes)
    return [plain_label(tick) if plain else power_label(tick) for tick in ticks]


def signed_log_ticks(
    low: float, high: float, threshold: float, *, most: int = 9
) -> list[float]:
    """Choose ticks on the axis ``asinh(value / threshold)`` between two values.

    Powers of ten, evenly thinned to at most ``most``; with 0 where it lies inside;
    multiples of powers of ten where the range holds fewer than three powers.
    """
    largest = max(abs(low), abs(high))
    if not largest > 0:
        return [0.0]
    bottom = math.ceil(math.log10(threshold) - 1e-9)
    top = math.floor(math.log10(largest) + 1e-9)

    def inside(values: list[float]) -> list[float]:
        slack = 1e-9 * (high - low)
        return sorted({v for v in values if low - slack <= v <= high + slack})

    for mantissas in _MANTISSAS:
        decades = range(bottom - 1, top + 1)
        sizes = [m * 10.0**d for d in decades for m in mantissas]
        sizes = [size for size in sizes if size >= 0.999 * threshold]
        ticks = inside([0.0, *sizes, *(-size for size in sizes)])
        if len(ticks) >= 4:
            break
    else:
        return ticks
    step = 1
    while len(ticks) > most and len(mantissas) == 1:
        step += 1
        sizes = [10.0**d for d in range(top, bottom - 1, -step)]
        ticks = inside([0.0, *sizes, *(-size for size in sizes)])
    return _spread(ticks, low, high, threshold, most)


def _spread(
    ticks: list[float], low: float, high: float, threshold: float, most: int
) -> list[float]:
    """Drop ticks that would touch a more important one (0, then the largest)."""
    least = float(np.ptp(np.arcsinh(np.array([low, high]) / threshold))) / (1.6 * most)
    kept: list[float] = []
    for tick in sorted(ticks, key=lambda t: (t != 0, -abs(t))):
        place = math.asinh(tick / threshold)
        if all(abs(place - math.asinh(k / threshold)) >= least for k in kept):
            kept.append(tick)
    return sorted(kept)


def signed_log_axis(
    axes: Axes,
    which: Literal["x", "y"],
    *,
    low: float,
    high: float,
    threshold: float,
    most: int = 9,
    margin: float = 0.04,
) -> None:
    """Make one axis ``asinh(value / threshold)``: logarithmic on both sides of 0."""
    from matplotlib.scale import AsinhScale
    from matplotlib.ticker import MaxNLocator, NullLocator

    ends = np.arcsinh(np.array([low, high]) / threshold)
    pad = margin * max(float(ends[1] - ends[0]), 0.2)
    low, high = (float(v) for v in threshold * np.sinh(ends + np.array([-pad, pad])))
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": AsinhScale(axis, linear_width=threshold)})
    axes.set(**{f"{which}lim": (low, high)})
    ticks = signed_log_ticks(low, high, threshold, most=most)
    if len(ticks) < 3:
        ticks = list(MaxNLocator(6).tick_values(low, high))
        ticks = [tick for tick in ticks if low <= tick <= high]
    axis.set_ticks(ticks, labels=tick_labels(ticks))
    axis.set_minor_locator(NullLocator())


def log_axis(
    axes: Axes, which: Literal["x", "y"], *, low: float, high: float, most: int = 9
) -> None:
    """Make one axis logarithmic between two positive values."""
    from matplotlib.ticker import MaxNLocator, NullLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    # Far above its threshold the signed-log axis is the logarithmic one.
    ticks = [t for t in signed_log_ticks(low, high, low, most=most) if t > 0]
    if len(ticks) < 3:
        ticks = [t for t in MaxNLocator(6).tick_values(low, high) if low <= t <= high]
    axis.set_ticks(ticks, labels=tick_labels(ticks))
    axis.set_minor_locator(NullLocator())


def magnitude_axis(
    axes: Axes, which: Literal["x", "y"], values: np.ndarray, *, most: int = 9
) -> None:
    """Choose a logarithmic axis for positive values, a signed one for any others.

    A zero is a finding (a linear layer has no curvature part): it stays on the axis.
    """
    finite = values[np.isfinite(values)]
    sizes = np.abs(finite[finite != 0])
    if sizes.size == 0:
        return
    smallest, largest = float(sizes.min()), float(sizes.max())
    if (finite > 0).all():
        factor = max((largest / smallest) ** 0.06, 1.15)
        log_axis(axes, which, low=smallest / factor, high=largest * factor, most=most)
        return
    threshold = max(smallest, 1e-8 * largest)
    signed_log_axis(
        axes,
        which,
        low=float(finite.min()),
        high=float(finite.max()),
        threshold=threshold,
        most=most,
    )
