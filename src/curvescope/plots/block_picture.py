"""H, GGN and functional Hessian as heat maps with the layers' borders."""

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
from curvescope.results import BlockPicture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Entries that are smaller than the largest by more all have the darkest colour.
_DECADES = 9.0


def plot_block_picture(
    result: BlockPicture,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the matrices side by side on one logarithmic colour scale.

    Lines are the borders between layers. Hatched paper is exactly zero, which no colour
    means: a small entry is dark, a zero one is not there.

    Args:
        result: The pictures.
        size: Width and height in inches. Below 5 inches of width the matrices stand
            one below the other.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_block_picture(picture)  # doctest: +SKIP
    """
    count = len(result.pictures)
    size = size or block_picture_size(count, WIDE[0])
    narrow = is_narrow(size)
    pictures = {name: np.abs(array(p)) for name, p in result.pictures.items()}
    with house_style():
        figure = new_figure(size)
        shape = (count, 1) if narrow else (1, count)
        panels = figure.subplots(*shape, squeeze=False).ravel()
        maps = list(pictures.values())
        scale = magnitude_scale(maps, decades=_DECADES)
        shades: Any = None
        inches = size[0] - 1.6 if narrow else (size[0] - 1.6) / max(count, 1)
        for place, (axes, name) in enumerate(zip(panels, pictures, strict=True)):
            drawn = magnitude_map(axes, pictures[name], scale, extent=(0.0, 1.0))
            shades = shades or drawn
            _borders(axes, result.borders)
            _name_layers(axes, result, inches, named_rows=narrow or place == 0)
            name_matrix(axes, name)
        if shades is not None:
            label = with_unit("|entry|", result, min(size[1], 3.4))
            magnitude_bar(figure, shades, list(panels), maps, label, size)
        if title is None:
            title = "Block by block: magnitudes of the entries"
        if title:
            set_figure_title(figure, title)
        zero_legend(figure)
    return figure


def block_picture_size(num_pictures: int, width: float) -> tuple[float, float]:
    """Return the size at which the pictures are square and as large as fits."""
    if is_narrow((width, 0.0)):
        return (width, 2.75 * num_pictures + 1.3)
    return (width, (width - 1.6) / max(num_pictures, 1) + 1.9)


def _borders(axes: Axes, borders: tuple[float, ...]) -> None:
    """Draw inner borders twice, so that they show on dark and on light colours."""
    inner = borders[1:-1]
    for color, width in (("surface", 1.8), ("ink", 0.7)):
        for place in inner:
            label = "_border" if color == "ink" else "_casing"
            for draw in (axes.axvline, axes.axhline):
                draw(
                    place,
                    color=PALETTE[color],
                    linewidth=width,
                    label=label,
                    zorder=2,
                )


def _name_layers(
    axes: Axes, result: BlockPicture, inches: float, *, named_rows: bool
) -> None:
    """Name each layer at its block's middle, the large ones first, as far as fits."""
    middles = [
        (low + high) / 2
        for low, high in zip(result.borders[:-1], result.borders[1:], strict=True)
    ]
    sizes = np.diff(result.borders)
    least = 0.15 / inches
    chosen: list[int] = []
    for layer in sorted(range(len(middles)), key=lambda i: -sizes[i]):
        if all(abs(middles[layer] - middles[k]) >= least for k in chosen):
            chosen.append(layer)
    chosen.sort()
    places = [middles[layer] for layer in chosen]
    names = [shorten(result.layers[layer], 16) for layer in chosen]
    name_layers(axes, places, names, named_rows=named_rows)
