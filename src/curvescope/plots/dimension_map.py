"""Effective dimension and losses over widths and depths, as heat maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from curvescope.plots.axes import tick_labels
from curvescope.plots.shades import color_bar, color_scale
from curvescope.plots.style import (
    PALETTE,
    WIDE,
    array,
    house_style,
    is_narrow,
    new_figure,
    set_figure_title,
)
from curvescope.results import DimensionMap
from curvescope.results.dimension_sweep import DIMENSION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = (0, (4.0, 2.0))
_NUM_CONTOURS = 5
# Values that span more than this have logarithmic colours.
_SPAN = 20.0


def plot_dimension_map(
    result: DimensionMap,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw effective dimension, test loss and train loss over widths and depths.

    Every cell is one width and depth, named at its middle; widths are evenly spaced
    whatever their distances. Dashed lines join networks of equally many parameters, the
    solid one those whose train loss is small; both interpolate logarithms between cells.

    Args:
        result: The map.
        size: Width and height in inches; below 5 inches of width the maps stand one
            above the other.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_dimension_map(found)  # doctest: +SKIP

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, figure 2.
    """
    size = size or dimension_map_size(result, WIDE[0])
    narrow = is_narrow(size)
    quantities = (
        (DIMENSION, f"effective dimension, z = {result.main_z:.3g}"),
        ("test_loss", "test loss"),
        ("train_loss", "train loss"),
    )
    with house_style():
        figure = new_figure(size)
        panels = figure.subplots(3, 1, sharex=True)
        meanings: dict[str, Any] = {}
        for axes, (name, words) in zip(panels, quantities, strict=True):
            _draw(figure, axes, result, name, words, meanings)
        panels[-1].set_xlabel("width")
        text = "Effective dimension and losses over widths and depths"
        text = text if title is None else title
        if text:
            set_figure_title(figure, text)
        figure.legend(
            list(meanings.values()),
            list(meanings),
            loc="outside lower left",
            ncols=1 if narrow else 2,
        )
    return figure


def dimension_map_size(result: DimensionMap, width: float) -> tuple[float, float]:
    """Return the size at which the cells of three maps can be read."""
    rows = len(result.depths)
    each = min(max(0.34 * rows + 0.55, 1.5), 3.4)
    return (width, 3 * each + (1.5 if is_narrow((width, 0.0)) else 1.2))


def _draw(
    figure: Figure,
    axes: Axes,
    result: DimensionMap,
    name: str,
    words: str,
    meanings: dict[str, Any],
) -> None:
    values = np.ma.masked_invalid(array(result.means(name)))
    shades = axes.imshow(
        values,
        origin="lower",
        norm=color_scale(values, logarithmic=name != DIMENSION and _wide(values)),
        cmap="Blues",
        aspect="auto",
        interpolation="nearest",
        interpolation_stage="data",
    )
    axes.set_xticks(range(len(result.widths)), labels=[str(w) for w in result.widths])
    axes.set_yticks(range(len(result.depths)), labels=[str(d) for d in result.depths])
    if len(result.widths) > 16:
        axes.tick_params(axis="x", labelrotation=90)
    axes.grid(visible=False)
    axes.set_ylabel("depth")
    axes.set_title(words, fontsize=9.5, fontweight="normal", pad=4.0)
    _contours(axes, result, meanings)
    color_bar(figure, axes, shades, most=4, aspect=12, pad=0.02)


def _wide(values: Any) -> bool:
    finite = values.compressed()
    return bool(finite.size and 0 < finite.min() * _SPAN < finite.max())


def _contours(axes: Axes, result: DimensionMap, meanings: dict[str, Any]) -> None:
    from matplotlib.lines import Line2D

    if len(result.widths) < 2 or len(result.depths) < 2:
        return
    params = np.log10(array(result.means("num_params")))
    losses = array(result.means("train_loss"))
    levels = _round_levels(10 ** np.nanmin(params), 10 ** np.nanmax(params))
    if levels:
        drawn = axes.contour(
            params,
            levels=np.log10(levels),
            colors=PALETTE["ggn"],
            linestyles=[_DASHES],
            linewidths=1.4,
        )
        names = dict(zip(drawn.levels, tick_labels(levels), strict=True))
        axes.clabel(drawn, fmt=names, fontsize=7.5, inline=True)
        label = "equally many parameters"
        meanings[label] = Line2D([], [], color=PALETTE["ggn"], linestyle=_DASHES)
    level = result.small_train_loss
    positive = losses[np.isfinite(losses) & (losses > 0)]
    if positive.size and positive.min() < level < positive.max():
        axes.contour(
            np.log10(np.maximum(losses, positive.min())),
            levels=[np.log10(level)],
            colors=PALETTE["vermilion"],
            # By default levels below 0, which logarithms are, are dashed.
            linestyles=["solid"],
            linewidths=1.8,
        )
        label = f"train loss {level:g}"
        meanings[label] = Line2D([], [], color=PALETTE["vermilion"], linewidth=1.8)


def _round_levels(low: float, high: float) -> list[float]:
    """Return a few numbers 1, 2 or 5 times a power of ten inside, evenly thinned."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    inside = [
        m * 10.0**p for p in powers for m in (1, 2, 5) if low < m * 10.0**p < high
    ]
    step = max(1, round(len(inside) / _NUM_CONTOURS))
    return inside[::step]
