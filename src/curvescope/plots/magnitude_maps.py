"""Heat maps of sizes on one logarithmic colour scale, where zero is no colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from curvescope.plots.axes import signed_log_ticks, tick_labels
from curvescope.plots.magnitudes import MATRIX_STYLES
from curvescope.plots.style import PALETTE, is_narrow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HATCH = "////"


def magnitude_scale(maps: Sequence[np.ndarray], *, decades: float) -> Any:
    """Return one logarithmic scale for all maps; ``None`` if all are zero.

    Args:
        maps: Sizes, none negative.
        decades: What is smaller than the largest by more powers of ten has the darkest
            colour.
    """
    from matplotlib.colors import LogNorm

    positive = np.concatenate([np.zeros(0), *(m[m > 0] for m in maps)])
    if positive.size == 0:
        return None
    largest, smallest = float(positive.max()), float(positive.min())
    low = max(smallest, largest * 10.0**-decades)
    return LogNorm(low if low < largest else largest / 10, largest)


def magnitude_map(
    axes: Axes, values: np.ndarray, scale: Any, *, extent: tuple[float, float]
) -> Any:
    """Draw a square map over hatched paper, which shows where it is exactly zero.

    Args:
        axes: Where to draw.
        values: Sizes; row 0 stands on top.
        scale: Of `magnitude_scale`.
        extent: Both axes' range.

    Returns:
        What a colour bar is made of; ``None`` if there is no scale.
    """
    import matplotlib as mpl
    from matplotlib.patches import Rectangle

    low, high = extent
    axes.grid(visible=False)
    axes.set_xlim(low, high)
    axes.set_ylim(high, low)
    axes.set_aspect("equal")
    for spine in axes.spines.values():
        spine.set_visible(True)
    zeros = Rectangle(
        (low, low),
        high - low,
        high - low,
        facecolor="none",
        edgecolor=PALETTE["line"],
        hatch=_HATCH,
        linewidth=0.0,
        zorder=0.5,
    )
    axes.add_patch(zeros)
    if scale is None:
        return None
    colors = mpl.colormaps["viridis"].with_extremes(bad=(0, 0, 0, 0))
    return axes.imshow(
        np.ma.masked_equal(values, 0.0),
        extent=(low, high, high, low),
        norm=scale,
        cmap=colors,
        interpolation="nearest",
        interpolation_stage="data",
        aspect="equal",
        zorder=1,
    )


def name_matrix(axes: Axes, name: str) -> None:
    """Write a matrix's name above its panel."""
    style = MATRIX_STYLES.get(name)
    heading = name if style is None else style.name
    axes.set_title(heading, fontsize=9.5, fontweight="normal", parse_math=False)


def name_layers(
    axes: Axes,
    places: Sequence[float],
    names: Sequence[str],
    *,
    named_rows: bool,
    fontsize: float = 8.0,
) -> None:
    """Name layers below the panel, and beside it where ``named_rows``."""
    axes.set_xticks(places, labels=names, rotation=90)
    axes.set_yticks(places, labels=names if named_rows else [""] * len(names))
    axes.tick_params(length=2.0)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set(parse_math=False, fontsize=fontsize, color=PALETTE["ink"])


def magnitude_bar(
    figure: Figure,
    shades: Any,
    panels: list[Axes],
    maps: Sequence[np.ndarray],
    label: str,
    size: tuple[float, float],
) -> None:
    """Draw the colour bar of all panels; its lower end is pointed if sizes lie below."""
    from matplotlib.ticker import NullLocator

    low, high = shades.norm.vmin, shades.norm.vmax
    any_below = any(bool(((m > 0) & (m < low)).any()) for m in maps)
    bar = figure.colorbar(
        shades,
        ax=panels,
        location="right",
        shrink=0.5 if is_narrow(size) else 0.7,
        extend="min" if any_below else "neither",
        aspect=18,
        pad=0.02,
    )
    # As vectors the bar would be 256 polygons in colours that no page can exchange.
    if bar.solids is not None:
        bar.solids.set_rasterized(True)
    for patch in bar.ax.patches:
        patch.set_rasterized(True)
    ticks = [t for t in signed_log_ticks(low, high, low, most=6) if low <= t <= high]
    bar.set_ticks(ticks, labels=tick_labels(ticks))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.set_label(label, fontsize=9.0)
    bar.outline.set_visible(False)


def zero_legend(figure: Figure) -> None:
    """Say what hatched paper means."""
    from matplotlib.patches import Patch

    zero = Patch(facecolor="none", edgecolor=PALETTE["line"], hatch=_HATCH)
    figure.legend([zero], ["exactly zero"], loc="outside lower left")
