"""Curvature over linearisation part of every layer, against the scale of the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from curvescope.plots.axes import log_axis, plain_label
from curvescope.plots.init_training import SERIES
from curvescope.plots.style import (
    PALETTE,
    WIDE,
    array,
    house_style,
    is_narrow,
    new_figure,
    set_figure_title,
)
from curvescope.results import ChainRule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = (0, (4.0, 2.0))


def plot_chain_rule(
    result: ChainRule,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the ratio of every layer's two parts against the scale of all weights.

    One panel an activation and depth; marks are the seeds, lines join their means, and
    dashed lines are the law, through the mean at the smallest scale. Layers whose curvature
    part is zero are named, not drawn.

    Args:
        result: The measurement.
        size: Width and height in inches; below 5 inches of width the panels stand one
            above the other.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_chain_rule(found)  # doctest: +SKIP
    """
    size = size or chain_rule_size(result, WIDE[0])
    with house_style():
        figure = new_figure(size)
        columns = _columns(result, size[0])
        shown = _shown(result)
        rows = -(-len(shown) // columns)
        panels = figure.subplots(
            rows, columns, sharex=True, sharey=True, squeeze=False
        ).ravel()
        for axes, (activation, depth) in zip(panels, shown, strict=False):
            _panel(axes, result, activation, depth)
        for axes in panels[len(shown) :]:
            axes.set_visible(False)
        _axes(panels, result, len(shown), columns)
        text = "Curvature part over linearisation part, by layer"
        text = text if title is None else title
        flat = [kind for kind in result.kinds if kind not in shown]
        if flat:
            names = dict.fromkeys(activation for activation, _ in flat)
            note = f"{', '.join(names)}: no curvature part in any layer"
            color = PALETTE["muted"]
            figure.supxlabel(note, x=0.012, ha="left", fontsize=9.0, color=color)
        if text:
            set_figure_title(figure, text)
    return figure


def chain_rule_size(result: ChainRule, width: float) -> tuple[float, float]:
    """Return the size at which all panels can be read."""
    rows = -(-len(_shown(result)) // _columns(result, width))
    return (width, 0.9 + 2.9 * rows)


def _columns(result: ChainRule, width: float) -> int:
    """Return so many columns that activations make rows, where there is room."""
    if is_narrow((width, 0.0)):
        return 1
    depths = len(dict.fromkeys(depth for _, depth in _shown(result)))
    return max(1, depths if depths <= 3 else 2)


def _shown(result: ChainRule) -> list[tuple[str, int]]:
    """Return the kinds of networks that have a curvature part; one at least."""
    having = [
        kind
        for kind in result.kinds
        if any(
            row["measured"] is not None
            for row in result.powers
            if (row["activation"], row["depth"]) == kind
        )
    ]
    return having or [result.kinds[0]]


def _panel(axes: Axes, result: ChainRule, activation: str, depth: int) -> None:
    x = np.array(result.scales)
    for layer in range(1, depth + 1):
        row = result.power(activation, depth, layer)
        if row["measured"] is None:
            continue
        color, marker = SERIES[(layer - 1) % len(SERIES)]
        ratios = array(result.ratios(activation, depth, layer))
        means = np.exp(np.nanmean(np.log(ratios), axis=1))
        power = plain_label(round(row["measured"], 3))
        label = f"layer {layer}: power {power}"
        if row["predicted"] is not None:
            label += f" (law {plain_label(row['predicted'])})"
            law = means[0] * (x / x[0]) ** row["predicted"]
            axes.plot(x, law, color=PALETTE[color], linestyle=_DASHES, linewidth=1.0)
        axes.plot(
            x, means, color=PALETTE[color], marker=marker, markersize=4.0, label=label
        )
        axes.plot(
            np.repeat(x, ratios.shape[1]),
            ratios.ravel(),
            color=PALETTE[color],
            marker=".",
            markersize=2.5,
            linestyle="",
        )
    axes.axhline(1.0, color=PALETTE["muted"], linewidth=0.8)
    axes.set_title(f"{activation}, {depth} layers", fontsize=10.0, fontweight="normal")
    axes.legend(loc="best", fontsize=8.0)


def _axes(panels: np.ndarray, result: ChainRule, shown: int, columns: int) -> None:
    values = np.array([row["ratio"] or np.nan for row in result.records])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.1, 10)
    for place, axes in enumerate(panels[:shown]):
        log_axis(axes, "y", low=low / 3, high=high * 3, most=6)
        scales = result.scales
        log_axis(axes, "x", low=scales[0] / 1.4, high=scales[-1] * 1.4, most=5)
        if place % columns == 0:
            axes.set_ylabel("curvature / linearisation")
        if place + columns >= shown:
            axes.set_xlabel("standard deviation of all weights")
            axes.tick_params(labelbottom=True)
