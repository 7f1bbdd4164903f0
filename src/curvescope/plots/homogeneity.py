"""Loss and label agreement against step length, one colour a kind of direction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from curvescope.plots.axes import log_axis
from curvescope.plots.landscape import loss_label, wide_range
from curvescope.plots.style import (
    BAND_ALPHA,
    PALETTE,
    WIDE,
    array,
    house_style,
    is_narrow,
    new_figure,
    set_figure_title,
)
from curvescope.results import Homogeneity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = (0, (4.0, 2.0))


@dataclass(frozen=True)
class _Style:
    color: str
    marker: str
    words: str


_STYLES = {
    "top": _Style("vermilion", "o", "top {n} eigenvectors"),
    "bottom": _Style("blue", "s", "bottom {n} eigenvectors"),
    "complement": _Style("green", "^", "complement of the top ones ({n} dimensions)"),
    "random": _Style("muted", "D", "random directions, the control"),
}


def plot_homogeneity(
    result: Homogeneity,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw loss and label agreement against step length, with the range of the draws.

    Lines are medians over the draws, bands reach from the lowest to the highest draw;
    other data are dashed, without bands.

    Args:
        result: What was measured.
        size: Width and height in inches; below 5 inches of width the panels stand one
            above the other.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_homogeneity(found)  # doctest: +SKIP
    """
    size = size or homogeneity_size(result, WIDE[0])
    panels = 2 if result.agreements else 1
    with house_style():
        figure = new_figure(size)
        shape = (panels, 1) if is_narrow(size) else (1, panels)
        grid = np.atleast_1d(figure.subplots(*shape)).ravel()
        _draw(grid[0], result, result.losses, result.test_losses)
        _loss_axis(grid[0], result)
        if panels == 2:
            _draw(grid[1], result, result.agreements, result.test_agreements)
            grid[1].set_ylim(-0.03, 1.03)
            grid[1].set_ylabel("label agreement")
        for axes in grid:
            steps = array(result.step_lengths)
            low, high = float(steps[0]), float(steps[-1])
            room = 1.15 if high > low else 3.0
            log_axis(axes, "x", low=low / room, high=high * room, most=7)
            axes.set_xlabel("step length in parameter space")
        text = "Steps along top, flat and random directions" if title is None else title
        if text:
            set_figure_title(figure, text)
        handles, labels = grid[0].get_legend_handles_labels()
        columns = 1 if is_narrow(size) else 2
        figure.legend(handles, labels, loc="outside lower left", ncols=columns)
    return figure


def homogeneity_size(result: Homogeneity, width: float) -> tuple[float, float]:
    """Return the size at which the panels can be read."""
    lines = len(result.kinds) + 1 + bool(result.test_losses)
    if is_narrow((width, 0.0)):
        return (width, (6.0 if result.agreements else 3.4) + 0.2 * lines)
    return (width, 3.7 + 0.1 * lines)


def _draw(
    axes: Axes,
    result: Homogeneity,
    measured: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
) -> None:
    x = array(result.step_lengths)
    for kind, draws in measured.items():
        style = _STYLES[kind]
        values, color = array(draws), PALETTE[style.color]
        if len(values) > 1:
            axes.fill_between(
                x,
                values.min(axis=0),
                values.max(axis=0),
                color=color,
                alpha=BAND_ALPHA,
                linewidth=0,
            )
        axes.plot(
            x,
            np.median(values, axis=0),
            color=color,
            marker=style.marker,
            markersize=4.5,
            label=style.words.format(n=result.num_vectors[kind]),
        )
        if kind in other:
            axes.plot(
                x, np.median(array(other[kind]), axis=0), color=color, linestyle=_DASHES
            )
    if other:
        axes.plot([], [], color=PALETTE["ink"], linestyle=_DASHES, label="other data")


def _loss_axis(axes: Axes, result: Homogeneity) -> None:
    axes.axhline(
        result.loss, color=PALETTE["ink"], linestyle=":", label="at the present weights"
    )
    every = [
        array(v).ravel()
        for v in (*result.losses.values(), *result.test_losses.values())
    ]
    values = np.concatenate([*every, [result.loss]])
    finite = values[np.isfinite(values)]
    if wide_range(finite):
        low, high = float(finite.min()), float(finite.max())
        log_axis(axes, "y", low=low / 1.5, high=high * 1.5, most=7)
    axes.set_ylabel(loss_label(result))
