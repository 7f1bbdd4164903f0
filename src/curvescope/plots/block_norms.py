"""Norms of the blocks between layers, as heat maps of H and of its two parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from curvescope.plots.magnitude_maps import (
    magnitude_bar,
    magnitude_map,
    magnitude_scale,
    name_layers,
    name_matrix,
    zero_legend,
)
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

# Norms that are smaller than the largest by more all have the darkest colour.
_DECADES = 6.0
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
        maps = list(norms.values())
        scale = magnitude_scale(maps, decades=_DECADES)
        shades: Any = None
        for place, (axes, name) in enumerate(zip(panels, norms, strict=True)):
            extent = (-0.5, layers - 0.5)
            drawn = magnitude_map(axes, norms[name], scale, extent=extent)
            shades = shades or drawn
            if layers <= _MOST_NUMBERS:
                _numbers(axes, norms[name], scale, narrow=narrow)
            _name_layers(axes, result, named_rows=narrow or place == 0)
            name_matrix(axes, name)
        if shades is not None:
            label = with_unit("Frobenius norm", result, min(size[1], 3.4))
            magnitude_bar(figure, shades, list(panels), maps, label, size)
        if title is None:
            title = "Norms of the blocks between layers"
        if title:
            set_figure_title(figure, title)
        if any((values == 0).any() for values in norms.values()):
            zero_legend(figure)
    return figure


def block_norms_size(num_matrices: int, width: float) -> tuple[float, float]:
    """Return the size at which cells are square and names can be read."""
    if is_narrow((width, 0.0)):
        return (width, 2.75 * num_matrices + 1.3)
    return (width, (width - 1.9) / max(num_matrices, 1) + 2.0)


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
    places = list(range(0, count, -(-count // 20)))
    names = [shorten(result.layers[place], 16) for place in places]
    fontsize = 8.0 if count <= 12 else 6.5
    name_layers(axes, places, names, named_rows=named_rows, fontsize=fontsize)
