"""H, GGN and functional Hessian as heat maps with the layers' borders."""

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
from curvescope.results import BlockPicture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Smaller entries, relative to the largest, all have the darkest colour.
_RANGE = 1e-9
_HATCH = "////"


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
        norm = _norm(pictures)
        shades: Any = None
        inches = size[0] - 1.6 if narrow else (size[0] - 1.6) / max(count, 1)
        for place, (axes, name) in enumerate(zip(panels, pictures, strict=True)):
            drawn = _heat_map(axes, pictures[name], norm)
            shades = shades or drawn
            _borders(axes, result.borders)
            _name_layers(axes, result, inches, named_rows=narrow or place == 0)
            style = MATRIX_STYLES.get(name)
            heading = name if style is None else style.name
            axes.set_title(heading, fontsize=9.5, fontweight="normal", parse_math=False)
        if shades is not None:
            _color_bar(figure, shades, list(panels), result, size)
        if title is None:
            title = "Block by block: magnitudes of the entries"
        if title:
            set_figure_title(figure, title)
        _legend(figure)
    return figure


def block_picture_size(num_pictures: int, width: float) -> tuple[float, float]:
    """Return the size at which the pictures are square and as large as fits."""
    if is_narrow((width, 0.0)):
        return (width, 2.75 * num_pictures + 1.3)
    return (width, (width - 1.6) / max(num_pictures, 1) + 1.9)


def _norm(pictures: dict[str, np.ndarray]) -> Any:
    """Return one logarithmic scale for all pictures; ``None`` if all are zero."""
    from matplotlib.colors import LogNorm

    sizes = [picture[picture > 0] for picture in pictures.values()]
    positive = np.concatenate([np.zeros(0), *sizes])
    if positive.size == 0:
        return None
    largest, smallest = float(positive.max()), float(positive.min())
    low = max(smallest, _RANGE * largest)
    return LogNorm(low if low < largest else largest / 10, largest)


def _heat_map(axes: Axes, picture: np.ndarray, norm: Any) -> Any:
    import matplotlib as mpl
    from matplotlib.patches import Rectangle

    axes.grid(visible=False)
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(1.0, 0.0)
    axes.set_aspect("equal")
    for spine in axes.spines.values():
        spine.set_visible(True)
    zeros = Rectangle(
        (0, 0),
        1,
        1,
        facecolor="none",
        edgecolor=PALETTE["line"],
        hatch=_HATCH,
        linewidth=0.0,
        zorder=0.5,
    )
    axes.add_patch(zeros)
    if norm is None:
        return None
    colors = mpl.colormaps["viridis"].with_extremes(bad=(0, 0, 0, 0))
    return axes.imshow(
        np.ma.masked_equal(picture, 0.0),
        extent=(0, 1, 1, 0),
        norm=norm,
        cmap=colors,
        interpolation="nearest",
        interpolation_stage="data",
        aspect="equal",
        zorder=1,
    )


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
    axes.set_xticks(places, labels=names, rotation=90)
    axes.set_yticks(places, labels=names if named_rows else [""] * len(names))
    axes.tick_params(length=2.0)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set(parse_math=False, fontsize=8.0, color=PALETTE["ink"])


def _color_bar(
    figure: Figure,
    shades: Any,
    panels: list[Axes],
    result: BlockPicture,
    size: tuple[float, float],
) -> None:
    from matplotlib.ticker import NullLocator

    values = [array(picture).ravel() for picture in result.pictures.values()]
    sizes = np.abs(np.concatenate(values))
    any_below = bool(((sizes > 0) & (sizes < shades.norm.vmin)).any())
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
    bar.set_label(with_unit("|entry|", result, min(size[1], 3.4)), fontsize=9.0)
    bar.outline.set_visible(False)


def _legend(figure: Figure) -> None:
    from matplotlib.patches import Patch

    zero = Patch(facecolor="none", edgecolor=PALETTE["line"], hatch=_HATCH)
    figure.legend([zero], ["exactly zero"], loc="outside lower left")
