"""Pictures of numbers on a grid: their cells, their scale of colours, and its bar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from curvescope.plots.axes import signed_log_ticks, tick_labels
from curvescope.plots.style import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def color_scale(values: Any, *, logarithmic: bool) -> Any:
    """Return the scale of colours from the smallest to the largest finite value."""
    from matplotlib.colors import LogNorm, Normalize

    finite = np.ma.masked_invalid(values).compressed()
    if finite.size == 0:
        return Normalize(0.0, 1.0)
    low, high = float(finite.min()), float(finite.max())
    if logarithmic:
        return LogNorm(low, high)
    return Normalize(low, high if high > low else low + 1.0)


def draw_cells(
    axes: Axes, x: np.ndarray, y: np.ndarray, values: Any, norm: Any, *, equal: bool
) -> Any:
    """Draw ``values[j, i]`` at ``(x[i], y[j])``, each in the middle of its cell.

    Args:
        axes: Where.
        x: Ascending, evenly spaced.
        y: Likewise.
        values: What is not finite stays empty.
        norm: The scale of colours.
        equal: Whether both axes have one scale.
    """
    steps = [(axis[1] - axis[0]) / 2 for axis in (x, y)]
    axes.grid(visible=False)
    return axes.imshow(
        np.ma.masked_invalid(values),
        extent=(x[0] - steps[0], x[-1] + steps[0], y[0] - steps[1], y[-1] + steps[1]),
        origin="lower",
        norm=norm,
        cmap="viridis",
        interpolation="nearest",
        interpolation_stage="data",
        aspect="equal" if equal else "auto",
    )


def mark_present_weights(axes: Axes, *, size: float) -> None:
    """Mark the middle of a surface."""
    axes.plot(
        [0.0],
        [0.0],
        linestyle="none",
        marker="D",
        markersize=size,
        color=PALETTE["surface"],
        markeredgecolor=PALETTE["ink"],
        label="present weights",
    )


def color_bar(
    figure: Figure,
    axes: Any,
    shades: Any,
    *,
    label: str | None = None,
    most: int = 6,
    shrink: float = 1.0,
    aspect: float = 20.0,
    pad: float = 0.02,
) -> None:
    """Draw the bar of a picture's colours beside its axes.

    Args:
        figure: Where.
        axes: One or several.
        shades: What `draw_cells` returned, or another picture.
        label: What is shown.
        most: Ticks at most.
        shrink: Part of the height that the bar takes.
        aspect: Its height over its width.
        pad: Its distance from the axes.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator, NullLocator

    bar = figure.colorbar(shades, ax=axes, shrink=shrink, aspect=aspect, pad=pad)
    if bar.solids is not None:
        # As vectors the bar would be 256 polygons in colours that no page can exchange.
        bar.solids.set_rasterized(True)
    if isinstance(shades.norm, LogNorm):
        low, high = float(shades.norm.vmin or 1.0), float(shades.norm.vmax or 1.0)
        ticks = signed_log_ticks(low, high, low, most=most)
        ticks = [tick for tick in ticks if low <= tick <= high]
        bar.set_ticks(ticks, labels=tick_labels(ticks))
        bar.ax.yaxis.set_minor_locator(NullLocator())
    else:
        bar.locator = MaxNLocator(most)
        bar.update_ticks()
    if label is not None:
        bar.set_label(label, fontsize=9.0)
    bar.outline.set_visible(False)
