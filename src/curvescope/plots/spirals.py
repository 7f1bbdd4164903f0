"""Decision boundaries before and after steps, and surfaces in one scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from curvescope.plots.landscape import loss_label, wide_range
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
    set_figure_title,
)
from curvescope.results import LossSurface, PerturbedClassifiers, SurfaceComparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = (0, (3.0, 1.5))
# Points that are drawn: more would hide the boundary.
_MOST_POINTS = 400


def plot_classifiers(
    result: PerturbedClassifiers,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    r"""Draw what steps do to a binary classifier of the plane, a row a kind of direction.

    .. math:: |p(\theta + s\,v) - p(\theta)|

    Colours are the change of the probability; the solid line is the decision boundary
    after the step, the dashed one that before it. The first panel of a row is the
    classifier itself with some of its training points.

    Args:
        result: The classifiers.
        size: Width and height in inches.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_classifiers(found)  # doctest: +SKIP

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, section 5.
    """
    from matplotlib.lines import Line2D

    size = size or classifiers_size(result, WIDE[0])
    kinds = list(dict.fromkeys(result.kinds))
    most = max(result.kinds.count(kind) for kind in kinds)
    with house_style():
        figure = new_figure(size)
        shape = _shape(len(kinds), most, narrow=is_narrow(size))
        grid = figure.subplots(*shape, squeeze=False).ravel()
        for axes in grid:
            axes.set_axis_off()
        _draw_base(grid[0], result)
        shades = None
        for step, kind in enumerate(result.kinds):
            row = kinds.index(kind)
            place = step - result.kinds.index(kind)
            index = row * (most + 1) + place + 1
            if is_narrow(size):
                index = 1 + step
            shades = _draw_step(grid[index], result, step, named=is_narrow(size))
            if place == 0 and not is_narrow(size):
                grid[index].set_ylabel(f"along {kind}", fontsize=8.5)
        if shades is not None:
            label = "change of the probability"
            color_bar(
                figure,
                list(grid),
                shades,
                label=label,
                shrink=0.5,
                aspect=24,
                pad=0.01,
            )
        text = "Decision boundaries after steps" if title is None else title
        if text:
            set_figure_title(figure, text)
        ink = PALETTE["ink"]
        figure.legend(
            [
                Line2D([], [], color=ink, linewidth=1.2),
                Line2D([], [], color=PALETTE["vermilion"], linestyle=_DASHES),
            ],
            ["boundary after the step", "at the present weights"],
            loc="outside lower left",
            ncols=1 if is_narrow(size) else 2,
        )
    return figure


def _shape(kinds: int, most: int, *, narrow: bool) -> tuple[int, int]:
    if not narrow:
        return kinds, most + 1
    return -(-(1 + kinds * most) // 2), 2


def classifiers_size(result: PerturbedClassifiers, width: float) -> tuple[float, float]:
    """Return the size at which boundaries can be told apart."""
    kinds = len(set(result.kinds))
    most = max(result.kinds.count(kind) for kind in result.kinds)
    rows, columns = _shape(kinds, most, narrow=is_narrow((width, 0.0)))
    return (width, rows * (0.8 * width / columns + 0.4) + 0.8)


def _limits(result: PerturbedClassifiers) -> tuple[float, float, float, float]:
    x, y = array(result.x), array(result.y)
    half_x, half_y = (x[1] - x[0]) / 2, (y[1] - y[0]) / 2
    return (x[0] - half_x, x[-1] + half_x, y[0] - half_y, y[-1] + half_y)


def _boundary(
    axes: Axes, result: PerturbedClassifiers, values: np.ndarray, color: str, style: Any
) -> None:
    if values.min() < 0.5 < values.max():
        axes.contour(
            array(result.x),
            array(result.y),
            values.T,
            levels=[0.5],
            colors=PALETTE[color],
            linestyles=[style],
            linewidths=1.0,
        )


def _draw_base(axes: Axes, result: PerturbedClassifiers) -> None:
    base = array(result.probabilities)
    _frame(axes)
    _boundary(axes, result, base, "vermilion", _DASHES)
    points, labels = array(result.points), array(result.labels) > 0.5
    step = max(1, len(points) // _MOST_POINTS)
    for which, color, marker in ((labels, "blue", "o"), (~labels, "ggn", "s")):
        own = points[which][::step]
        axes.plot(
            own[:, 0],
            own[:, 1],
            linestyle="none",
            marker=marker,
            markersize=1.6,
            color=PALETTE[color],
            markeredgewidth=0,
        )
    left, right, bottom, top = _limits(result)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_aspect("equal")
    axes.set_title("at the weights", fontsize=8.0, fontweight="normal", pad=3.0)


def _draw_step(
    axes: Axes, result: PerturbedClassifiers, step: int, *, named: bool
) -> Any:
    base, new = array(result.probabilities), array(result.perturbed[step])
    _frame(axes)
    shades = axes.imshow(
        np.abs(new - base).T,
        origin="lower",
        extent=_limits(result),
        cmap="Blues",
        vmin=0.0,
        vmax=1.0,
        interpolation="nearest",
        interpolation_stage="data",
    )
    _boundary(axes, result, base, "vermilion", _DASHES)
    _boundary(axes, result, new, "ink", "-")
    kind = f"along {result.kinds[step]}\n" if named else ""
    axes.set_title(
        f"{kind}step {result.step_lengths[step]:g}: loss {result.losses[step]:.2g}\n"
        f"{100 * result.agreements[step]:.1f} % same labels",
        fontsize=7.0,
        fontweight="normal",
        pad=3.0,
        loc="left",
    )
    return shades


def _frame(axes: Axes) -> None:
    axes.set_axis_on()
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_linewidth(0.5)


def plot_surface_comparison(
    result: SurfaceComparison,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the loss on several planes side by side, in one scale of colours.

    Axes are lengths in parameter space, the same on all planes.

    Args:
        result: The surfaces.
        size: Width and height in inches; below 5 inches of width the planes stand one
            above the other.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_surface_comparison(found)  # doctest: +SKIP

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, section 5, whose ticks say twice
        the true lengths.
    """
    size = size or surface_comparison_size(result, WIDE[0])
    narrow = is_narrow(size)
    count = len(result.surfaces)
    surfaces = result.surfaces
    values = np.concatenate([array(s.losses).ravel() for s in surfaces.values()])
    with house_style():
        figure = new_figure(size)
        shape = (count, 1) if narrow else (1, count)
        panels = figure.subplots(*shape, squeeze=False).ravel()
        norm = color_scale(values, logarithmic=wide_range(values))
        pictures = [
            _draw_surface(axes, name, surface, norm)
            for axes, (name, surface) in zip(panels, surfaces.items(), strict=True)
        ]
        label = loss_label(next(iter(surfaces.values())))
        color_bar(
            figure,
            list(panels),
            pictures[0],
            label=label,
            shrink=0.7,
            aspect=18,
            pad=0.02,
        )
        text = "Loss on planes through the weights" if title is None else title
        if text:
            set_figure_title(figure, text)
    return figure


def surface_comparison_size(
    result: SurfaceComparison, width: float
) -> tuple[float, float]:
    """Return the size at which the planes can be read."""
    count = len(result.surfaces)
    if is_narrow((width, 0.0)):
        return (width, count * (0.75 * width + 0.4) + 0.6)
    return (width, 0.78 * width / count + 1.1)


def _draw_surface(axes: Axes, name: str, surface: LossSurface, norm: Any) -> Any:
    x, y = (array(axis) for axis in surface.coordinates)
    losses = array(surface.losses)
    shades = draw_cells(axes, x, y, losses.T, norm, equal=True)
    mark_present_weights(axes, size=4)
    axes.set_title(
        f"{name}\n{np.nanmin(losses):.3g} to {np.nanmax(losses):.3g}",
        fontsize=8.5,
        fontweight="normal",
        pad=4.0,
    )
    axes.set_xlabel("step length", fontsize=9.0)
    axes.tick_params(labelsize=8.0)
    return shades
