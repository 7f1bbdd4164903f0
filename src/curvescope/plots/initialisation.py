"""Step sizes, layers under several initialisations, and what balancing did."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from curvescope.plots.axes import log_axis, magnitude_axis, plain_label
from curvescope.plots.layers import layer_size
from curvescope.plots.style import (
    PALETTE,
    WIDE,
    array,
    house_style,
    is_narrow,
    new_figure,
    set_figure_title,
    set_title,
    shorten,
    with_unit,
)
from curvescope.results import (
    Balance,
    InitialisationReport,
    InitialisationRow,
    StepSize,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = (0, (4.0, 2.0))
_PARTS = (
    ("frobenius_norm", "whole block", "ink", "o"),
    ("linearisation_norm", "linearisation part", "blue", "s"),
    ("curvature_norm", "curvature part", "vermilion", "D"),
)
_MOST_NAMED = 6


def plot_step_size(
    result: StepSize,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the objective along the gradient step beside its quadratic model.

    Verticals are the best step, 2 / sharpness and the optimiser's learning rate, where
    they lie within twice the range of the curve.

    Args:
        result: What was measured.
        size: Width and height in inches.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_step_size(found)  # doctest: +SKIP
    """
    size = size or step_size_size(WIDE[0])
    s = array(result.step_sizes)
    with house_style():
        figure = new_figure(size)
        axes = figure.subplots()
        axes.plot(
            s, array(result.losses), color=PALETTE["ink"], marker="o", label="measured"
        )
        fine = torch.linspace(0.0, float(s[-1]), 201, dtype=torch.float64)
        axes.plot(
            array(fine),
            array(result.quadratic_losses(fine)),
            color=PALETTE["vermilion"],
            linestyle=_DASHES,
            label="quadratic model",
        )
        lines = (
            (result.step_size, "best step", "green", "-"),
            (result.stability_limit, "2 / sharpness", "purple", ":"),
            (result.learning_rate, "learning rate", "blue", "-."),
        )
        shown = 2.0 * float(s[-1])
        for value, words, color, style in lines:
            if value is not None and 0.0 < value <= shown:
                label = f"{words} {plain_label(float(f'{value:.3g}'))}"
                axes.axvline(value, color=PALETTE[color], linestyle=style, label=label)
        scaled = result.preconditioner != "none"
        along = "step size along the gradient"
        axes.set_xlabel(f"{along},\n{result.preconditioner}" if scaled else along)
        axes.set_ylabel(f"loss ({result.of.reduction or 'objective'})")
        _loss_limits(axes, result)
        set_title(axes, title, "The loss along the gradient")
        columns = 2 if is_narrow(size) else 3
        figure.legend(loc="outside lower left", ncols=columns)
    return figure


def step_size_size(width: float) -> tuple[float, float]:
    """Return the size at which curve and legend can be read."""
    return (width, 4.2 if is_narrow((width, 0.0)) else 4.1)


def _loss_limits(axes: Axes, result: StepSize) -> None:
    """Keep the quadratic model's valley in view where the measured loss explodes."""
    losses = array(result.losses)
    every = np.concatenate([losses, array(result.quadratic_losses())])
    every = every[np.isfinite(every)]
    low, start = float(every.min()), result.loss
    high = float(every.max())
    depth = max(start - low, 1e-12 * max(abs(start), 1e-300))
    if high > start + 4.0 * depth:
        axes.set_ylim(low - 0.15 * depth, start + 4.0 * depth)


def plot_initialisation(
    result: InitialisationReport,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the layers' block norms under each initialisation, one panel each.

    All panels have one logarithmic scale: a level line is a balanced network, and the
    number in the corner is the largest norm over the smallest. Bars are standard
    deviations over seeds. A last panel has the traces against theory's.

    Args:
        result: The report.
        size: Width and height in inches.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_initialisation(found)  # doctest: +SKIP
    """
    size = size or initialisation_size(result, WIDE[0])
    candidates = result.candidates
    panels = len(candidates) + _has_theory(result)
    columns = _columns(panels, size[0])
    rows = math.ceil(panels / columns)
    with house_style():
        figure = new_figure(size)
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        low, high = _norm_range(result)
        for place, (axes, name) in enumerate(zip(grid, candidates, strict=False)):
            _candidate(axes, result.of_candidate(name))
            log_axis(axes, "y", low=low, high=high, most=5)
            _head(axes, name.replace("_", " "), size)
            _ratio(axes, result.balance(name))
            _name_layers(axes, result, last=place + columns >= len(candidates))
            if place % columns:
                axes.set_yticklabels([])
            else:
                axes.set_ylabel("block norm")
        if _has_theory(result):
            _traces(grid[len(candidates)], result)
            _head(grid[len(candidates)], "trace against theory", size)
        for axes in grid[panels:]:
            axes.set_visible(False)
        text = "Layers' own blocks under several initialisations"
        text = text if title is None else title
        if text:
            set_figure_title(figure, text)
        handles, labels = grid[0].get_legend_handles_labels()
        narrow = is_narrow(size)
        figure.legend(
            handles, labels, loc="outside lower left", ncols=2 if narrow else 3
        )
    return figure


def initialisation_size(
    result: InitialisationReport, width: float
) -> tuple[float, float]:
    """Return the size at which all panels can be read."""
    panels = len(result.candidates) + _has_theory(result)
    rows = math.ceil(panels / _columns(panels, width))
    return (width, 1.75 * rows + 1.5)


def _columns(panels: int, width: float) -> int:
    if is_narrow((width, 0.0)):
        return 2
    return 4 if panels > 9 else 3


def _has_theory(result: InitialisationReport) -> bool:
    return any(row.predicted_trace is not None for row in result.layers)


def _head(axes: Axes, words: str, size: tuple[float, float]) -> None:
    small = 8.0 if is_narrow(size) else 9.0
    axes.set_title(words, fontsize=small, parse_math=False, pad=4.0)


def _ratio(axes: Axes, ratio: float) -> None:
    """Write the largest norm over the smallest into the panel's corner."""
    if math.isfinite(ratio):
        axes.text(
            0.97,
            0.95,
            f"{ratio:.3g}\u00d7",
            transform=axes.transAxes,
            ha="right",
            va="top",
            fontsize=9.0,
            color=PALETTE["muted"],
        )


def _name_layers(axes: Axes, result: InitialisationReport, *, last: bool) -> None:
    """Name few layers below the lowest panels; number many."""
    names = result.layer_names
    if len(names) > _MOST_NAMED:
        if last:
            axes.set_xlabel("layer, in order", fontsize=9.0)
        return
    places = list(range(1, len(names) + 1))
    if not last:
        axes.set_xticks(places, labels=[""] * len(places))
        return
    axes.set_xticks(
        places,
        labels=[shorten(name, 14) for name in names],
        rotation=35,
        ha="right",
        rotation_mode="anchor",
        fontsize=8.0,
    )
    for label in axes.get_xticklabels():
        label.set_parse_math(False)


def _norm_range(result: InitialisationReport) -> tuple[float, float]:
    values = np.array(
        [getattr(row, field) for row in result.layers for field, *_ in _PARTS]
    )
    values = values[np.isfinite(values) & (values > 0)]
    if not values.size:
        return 0.1, 10.0
    low, high = float(values.min()), float(values.max())
    # What is rounding beside the rest (a part that is almost zero) sets no scale.
    low = max(low, 1e-7 * high)
    return low / 1.6, high * 1.6


def _candidate(axes: Axes, rows: tuple[InitialisationRow, ...]) -> None:
    places = np.arange(1, len(rows) + 1)
    for field, label, color, marker in _PARTS:
        values = np.array([getattr(row, field) for row in rows])
        spreads = np.array([getattr(row, f"{field}_spread") for row in rows])
        values = np.where(values > 0, values, np.nan)
        below = np.minimum(spreads, 0.9 * values)
        axes.errorbar(
            places,
            values,
            yerr=[np.nan_to_num(below), spreads],
            color=PALETTE[color],
            marker=marker,
            markersize=3.6,
            linewidth=1.2 if field == "frobenius_norm" else 0.8,
            elinewidth=0.9,
            label=label,
        )
    axes.set_xlim(0.6, len(rows) + 0.4)


def _traces(axes: Axes, result: InitialisationReport) -> None:
    rows = [row for row in result.layers if row.predicted_trace is not None]
    predicted = np.array([row.predicted_trace for row in rows], dtype=float)
    measured = np.array([row.linearisation_trace for row in rows])
    spreads = np.array([row.linearisation_trace_spread for row in rows])
    good = (predicted > 0) & (measured > 0)
    every = np.concatenate([predicted[good], measured[good]])
    low, high = float(every.min()) / 1.6, float(every.max()) * 1.6
    axes.plot(
        [low, high], [low, high], color=PALETTE["line"], linestyle=_DASHES, zorder=1
    )
    axes.errorbar(
        predicted[good],
        measured[good],
        yerr=[np.minimum(spreads, 0.9 * measured)[good], spreads[good]],
        color=PALETTE["green"],
        linestyle="none",
        marker="^",
        markersize=3.6,
        elinewidth=0.9,
    )
    for which in ("x", "y"):
        log_axis(axes, which, low=low, high=high, most=4)
    axes.set_xlabel("predicted", fontsize=9.0)


def plot_balance(
    result: Balance,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw each layer's block norm before and after balancing.

    Args:
        result: What was done.
        size: Width and height in inches.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_balance(done)  # doctest: +SKIP
    """
    size = size or balance_size(result, WIDE[0])
    rows = [row for row in result.layers if row.norm_before is not None]
    places = np.arange(len(rows), dtype=float)
    before = np.array([row.norm_before for row in rows], dtype=float)
    after = np.array([row.norm_after for row in rows], dtype=float)
    with house_style():
        figure = new_figure(size)
        axes = figure.subplots()
        axes.hlines(places, before, after, color=PALETTE["line"], linewidth=1.2)
        axes.plot(before, places, "o", color=PALETTE["muted"], label="before")
        axes.plot(after, places, "D", color=PALETTE["green"], label="after")
        if rows:
            magnitude_axis(axes, "x", np.concatenate([before, after]), most=6)
        names = [shorten(row.layer, 18 if is_narrow(size) else 34) for row in rows]
        axes.set_yticks(places, labels=names)
        for label in axes.get_yticklabels():
            label.set(parse_math=False, color=PALETTE["ink"])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(
            with_unit("Frobenius norm of the weights' block", result, size[0])
        )
        set_title(axes, title, "Balancing the layers' own blocks")
        figure.legend(loc="outside lower left", ncols=2)
    return figure


def balance_size(result: Balance, width: float) -> tuple[float, float]:
    """Return the size at which all layers' names can be read."""
    height = layer_size(len(result.layers), WIDE[0])[1]
    return (width, height + 0.6)
