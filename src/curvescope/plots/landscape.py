"""The loss on a line or a plane through the weights, with its quadratic model."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from curvescope.plots.axes import log_axis
from curvescope.plots.shades import (
    color_bar,
    color_scale,
    draw_cells,
    mark_present_weights,
)
from curvescope.plots.style import (
    PALETTE,
    WIDE,
    array,
    house_style,
    is_narrow,
    new_figure,
    set_title,
)
from curvescope.results import LossSurface, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = (0, (4.0, 2.0))
# A loss that spans more than this is shown on a logarithmic scale.
_DECADES = 20.0
# Axes of which one is longer by more than this are not drawn in one scale.
_LONGEST = 3.0
_LEVELS = 7


def plot_loss_surface(
    result: LossSurface,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    r"""Draw the loss on a line or plane, and its quadratic model dashed.

    .. math:: L(\theta) + g^\top \Delta + \tfrac12 \Delta^\top H \Delta

    Axes are lengths in parameter space. A plane has one scale on both, unless one axis
    is longer than three times the other; colours are measured points, one a cell, and
    nothing is interpolated but the contours. The plane ends at its outermost points, in
    the middle of their cells.

    Args:
        result: The surface.
        size: Width and height in inches.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_loss_surface(surface)  # doctest: +SKIP
    """
    plane = len(result.coordinates) == 2
    size = size or loss_surface_size(result, WIDE[0])
    with house_style():
        figure = new_figure(size)
        if plane:
            axes = figure.add_subplot()
            _draw_plane(figure, axes, result, size)
        else:
            axes = _draw_line(figure, result, size)
        set_title(axes, title, f"Loss on a {'plane' if plane else 'line'}")
    return figure


def loss_surface_size(result: LossSurface, width: float) -> tuple[float, float]:
    """Return the size at which a surface can be read."""
    if len(result.coordinates) == 2:
        return (width, 0.95 * width + 0.6 if is_narrow((width, 0.0)) else 5.6)
    return (width, WIDE[1] + (1.3 if result.accuracies is not None else 0.0))


def loss_label(result: Result) -> str:
    """Label a loss with what it was divided by."""
    per = {"mean": "mean over all data", "sum": "sum over all data"}
    return f"loss ({per.get(result.of.reduction, 'as defined')})"


def wide_range(values: np.ndarray) -> bool:
    """Tell whether positive values span so much that they need a logarithmic scale."""
    finite = values[np.isfinite(values)]
    return bool(
        finite.size and finite.min() > 0 and finite.max() > _DECADES * finite.min()
    )


def _draw_line(figure: Figure, result: LossSurface, size: tuple[float, float]) -> Axes:
    x, losses = array(result.coordinates[0]), array(result.losses)
    if result.accuracies is None:
        axes = bottom = figure.add_subplot()
    else:
        axes, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        bottom.plot(x, array(result.accuracies), color=PALETTE["green"], marker=".")
        bottom.set_ylim(-0.04, 1.04)
        bottom.set_ylabel("accuracy")
    model = array(result.quadratic_losses())
    axes.plot(x, losses, color=PALETTE["blue"], marker="o", markersize=3, label="loss")
    axes.plot(
        x,
        model,
        color=PALETTE["vermilion"],
        linestyle=_DASHES,
        label=f"quadratic model, curvature {float(result.curvature[0, 0]):.4g}",
    )
    axes.plot(
        [0.0],
        [result.loss],
        linestyle="none",
        marker="D",
        color=PALETTE["ink"],
        label="present weights",
    )
    _loss_scale(axes, np.append(losses, result.loss))
    axes.set_ylabel(loss_label(result))
    bottom.set_xlabel(_axis_label(result, 0, size[0]), parse_math=False)
    bottom.set_xlim(float(x[0]), float(x[-1]))
    axes.legend(loc="best")
    return axes


def _loss_scale(axes: Axes, losses: np.ndarray) -> None:
    """Fit the axis to the measured losses: the model may leave it."""
    finite = losses[np.isfinite(losses)]
    if finite.size == 0:
        return
    low, high = float(finite.min()), float(finite.max())
    if wide_range(finite):
        log_axis(axes, "y", low=low / 1.3, high=high * 1.3, most=7)
        return
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    axes.set_ylim(low - room, high + room)


def _axis_label(result: LossSurface, axis: int, inches: float) -> str:
    text = f"step along {result.names[axis]}"
    return textwrap.fill(text, width=max(22, int(11.5 * (inches - 0.7))))


def _draw_plane(
    figure: Figure, axes: Axes, result: LossSurface, size: tuple[float, float]
) -> None:
    x, y = (array(axis) for axis in result.coordinates)
    losses = np.ma.masked_invalid(array(result.losses).T)
    norm = color_scale(losses, logarithmic=wide_range(losses.compressed()))
    lengths = (float(x[-1] - x[0]), float(y[-1] - y[0]))
    equal = max(lengths) <= _LONGEST * min(lengths)
    shades = draw_cells(axes, x, y, losses, norm, equal=equal)
    axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    meanings = _contours(axes, result, losses, _levels(norm))
    mark_present_weights(axes, size=6)
    axes.set_xlabel(_axis_label(result, 0, 0.85 * size[0]), parse_math=False)
    axes.set_ylabel(_axis_label(result, 1, 0.85 * size[1]), parse_math=False)
    color_bar(
        figure,
        axes,
        shades,
        label=loss_label(result),
        shrink=0.8,
        aspect=22,
        pad=0.02,
    )
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        [*meanings.values(), *handles],
        [f"same levels: {name}" for name in meanings] + labels,
        loc="outside lower left",
        ncols=1 if is_narrow(size) else 3,
        facecolor=PALETTE["line"],
        frameon=True,
        edgecolor="none",
    )


def _contours(
    axes: Axes, result: LossSurface, losses: Any, levels: np.ndarray
) -> dict[str, Any]:
    """Draw loss and quadratic model at the same levels; return a line of each."""
    x, y = (array(axis) for axis in result.coordinates)
    model = array(result.quadratic_losses()).T
    styles: tuple[tuple[str, Any, str, Any], ...] = (
        ("loss", losses, "surface", "solid"),
        ("quadratic model", model, "ggn", _DASHES),
    )
    for _, values, color, dashes in styles:
        axes.contour(
            x,
            y,
            values,
            levels=levels,
            colors=PALETTE[color],
            linestyles=[dashes],
            linewidths=1.0,
        )
    return {name: _line(PALETTE[color], dashes) for name, _, color, dashes in styles}


def _line(color: str, dashes: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=color, linestyle=dashes, linewidth=1.4)


def _levels(norm: Any) -> np.ndarray:
    from matplotlib.colors import LogNorm

    spread = np.geomspace if isinstance(norm, LogNorm) else np.linspace
    return spread(norm.vmin, norm.vmax, _LEVELS + 2)[1:-1]
