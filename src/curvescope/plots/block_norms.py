"""Norms of the blocks between layers, as heat maps of H and of its two parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from curvescope.plots.axes import signed_log_ticks, tick_labels
from curvescope.plots.magnitudes import MATRIX_STYLES
from curvescope.plots.style import (
    PALETTE,
    WIDE,
    array,
    house_style,
    is_narrow,
    new_figure,
    set_figure_title,
    shorten,
    with_unit,
)
from curvescope.results import BlockNorms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Smaller norms, relative to the largest, all have the darkest colour.
_RANGE = 1e-6
_HATCH = "////"
# More cells than this hold no numbers.
_MOST_NUMBERS = 6


def plot_block_norms(
    result: BlockNorms,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the norms of all blocks, one panel a matrix, on one logarithmic colour scale.

    Every cell is a pair of layers, whatever their sizes; the diagonal holds the layers'
    own blocks. Hatched paper is exactly zero. Few cells hold their numbers, too.

    Args:
        result: The norms.
        size: Width and height in inches. Below 5 inches of width the panels stand one
            below the other.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_block_norms(norms)  # doctest: +SKIP
    """
    count, layers = len(result.norms), len(result.layers)
    size = size or block_norms_size(count, WIDE[0])
    narrow = is_narrow(size)
    norms = {name: array(values) for name, values in result.norms.items()}
    with house_style():
        figure = new_figure(size)
        shape = (count, 1) if narrow else (1, count)
        panels = figure.subplots(*shape, squeeze=False).ravel()
        scale = _scale(norms)
        shades: Any = None
        for place, (axes, name) in enumerate(zip(panels, norms, strict=True)):
            drawn = _heat_map(axes, norms[name], scale)
            shades = shades or drawn
            if layers <= _MOST_NUMBERS:
                _numbers(axes, norms[name], scale, narrow=narrow)
            _name_layers(axes, result, named_rows=narrow or place == 0)
            style = MATRIX_STYLES.get(name)
            heading = name if style is None else style.name
            axes.set_title(heading, fontsize=9.5, fontweight="normal", parse_math=False)
        if shades is not None:
            _color_bar(figure, shades, list(panels), result, size)
        if title is None:
            title = "Norms of the blocks between layers"
        if title:
            set_figure_title(figure, title)
        if any((values == 0).any() for values in norms.values()):
            _legend(figure)
    return figure


def block_norms_size(num_matrices: int, width: float) -> tuple[float, float]:
    """Return the size at which cells are square and names can be read."""
    if is_narrow((width, 0.0)):
        return (width, 2.75 * num_matrices + 1.3)
    return (width, (width - 1.9) / max(num_matrices, 1) + 2.0)


def _scale(norms: dict[str, np.ndarray]) -> Any:
    """Return one logarithmic scale for all panels; ``None`` if all are zero."""
    from matplotlib.colors import LogNorm

    found = [values[values > 0] for values in norms.values()]
    positive = np.concatenate([np.zeros(0), *found])
    if positive.size == 0:
        return None
    largest, smallest = float(positive.max()), float(positive.min())
    low = max(smallest, _RANGE * largest)
    return LogNorm(low if low < largest else largest / 10, largest)


def _heat_map(axes: Axes, values: np.ndarray, scale: Any) -> Any:
    import matplotlib as mpl
    from matplotlib.patches import Rectangle

    count = len(values)
    axes.grid(visible=False)
    axes.set_xlim(-0.5, count - 0.5)
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_aspect("equal")
    for spine in axes.spines.values():
        spine.set_visible(True)
    zeros = Rectangle(
        (-0.5, -0.5),
        count,
        count,
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
        norm=scale,
        cmap=colors,
        interpolation="nearest",
        interpolation_stage="data",
        aspect="equal",
        zorder=1,
    )


def _numbers(axes: Axes, values: np.ndarray, scale: Any, *, narrow: bool) -> None:
    """Write each norm into its cell, light on dark and dark on light."""
    small = 7.5 if narrow or len(values) <= 4 else 6.0
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            if value == 0.0 or scale is None:
                continue
            light = float(scale(value)) < 0.55
            axes.text(
                j,
                i,
                f"{value:.2g}",
                ha="center",
                va="center",
                fontsize=small,
                color=PALETTE["surface" if light else "ink"],
                zorder=3,
            )


def _name_layers(axes: Axes, result: BlockNorms, *, named_rows: bool) -> None:
    count = len(result.layers)
    step = -(-count // 20)
    places = list(range(0, count, step))
    names = [shorten(result.layers[place], 16) for place in places]
    axes.set_xticks(places, labels=names, rotation=90)
    axes.set_yticks(places, labels=names if named_rows else [""] * len(names))
    axes.tick_params(length=2.0)
    small = 8.0 if count <= 12 else 6.5
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set(parse_math=False, fontsize=small, color=PALETTE["ink"])


def _color_bar(
    figure: Figure,
    shades: Any,
    panels: list[Axes],
    result: BlockNorms,
    size: tuple[float, float],
) -> None:
    from matplotlib.ticker import NullLocator

    values = np.concatenate([array(v).ravel() for v in result.norms.values()])
    any_below = bool(((values > 0) & (values < shades.norm.vmin)).any())
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
    low, high = shades.norm.vmin, shades.norm.vmax
    ticks = [t for t in signed_log_ticks(low, high, low, most=6) if low <= t <= high]
    bar.set_ticks(ticks, labels=tick_labels(ticks))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    label = with_unit("Frobenius norm", result, min(size[1], 3.4))
    bar.set_label(label, fontsize=9.0)
    bar.outline.set_visible(False)


def _legend(figure: Figure) -> None:
    from matplotlib.patches import Patch

    zero = Patch(facecolor="none", edgecolor=PALETTE["line"], hatch=_HATCH)
    figure.legend([zero], ["exactly zero"], loc="outside lower left")
