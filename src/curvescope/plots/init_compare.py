"""Training curves from several initialisations, their initial norms, and their order."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from curvescope.plots.axes import log_axis
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
from curvescope.results import InitComparison, InitRanking, student_t_quantile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Many bands lie above each other.
_ALPHA = 0.13
_SPAN = 30.0
# What is so many times as far from the best as the next one is not drawn in scale.
_FAR = 4.0
_LABELS = {
    "train_loss": "train loss (mean)",
    "test_loss": "test loss (mean)",
    "test_accuracy": "test accuracy",
}


def plot_init_compare(
    result: InitComparison,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw losses and accuracy against the iteration, and the layers' initial norms.

    Lines are means over the seeds, bands their 95 % intervals. In the last panel a balanced
    initialisation is a level line.

    Args:
        result: The trainings.
        size: Width and height in inches; below 5 inches of width the panels stand one
            above the other.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_init_compare(found)  # doctest: +SKIP
    """
    size = size or init_compare_size(result, WIDE[0])
    narrow = is_narrow(size)
    with house_style():
        figure = new_figure(size)
        shape = (4, 1) if narrow else (2, 2)
        panels = figure.subplots(*shape).ravel()
        for axes, column in zip(panels, result.CURVES, strict=False):
            _curves(axes, result, column)
            axes.set_ylabel(_LABELS[column])
            axes.set_xlabel("iteration")
        _norms(panels[3], result)
        text = "Trainings from several initialisations" if title is None else title
        if text:
            set_figure_title(figure, text)
        handles, labels = panels[0].get_legend_handles_labels()
        columns = 2 if narrow else 4
        figure.legend(handles, labels, loc="outside lower left", ncols=columns)
    return figure


def init_compare_size(result: InitComparison, width: float) -> tuple[float, float]:
    """Return the size at which all panels can be read."""
    if is_narrow((width, 0.0)):
        return (width, 9.2 + 0.2 * math.ceil(len(result.schemes) / 2))
    return (width, 5.4 + 0.2 * math.ceil(len(result.schemes) / 4))


def _curves(axes: Axes, result: InitComparison, column: str) -> None:
    x = np.array(result.iterations)
    positive: list[np.ndarray] = []
    for place, scheme in enumerate(result.schemes):
        color, marker = SERIES[place % len(SERIES)]
        values = array(result.curve(column, scheme))
        kept = np.isfinite(values).all(axis=0)  # until the first of them diverges
        if not kept.any():
            continue
        values, at = values[:, kept], x[kept]
        means = values.mean(axis=0)
        axes.plot(
            at,
            means,
            color=PALETTE[color],
            marker=marker,
            markersize=3.5,
            markevery=(place % 4, max(4, len(at) // 5)),
            linewidth=1.3,
            label=scheme.replace("_", " "),
        )
        count = len(values)
        if count > 1:
            half = student_t_quantile(0.975, count - 1) / math.sqrt(count)
            band = half * values.std(axis=0, ddof=1)
            low, high = means - band, means + band
            axes.fill_between(
                at,
                np.maximum(low, values.min(axis=0)),
                np.minimum(high, values.max(axis=0)),
                color=PALETTE[color],
                alpha=_ALPHA,
                linewidth=0,
            )
        positive.append(means)
    if column == "test_accuracy":
        axes.set_ylim(-0.02, 1.02)
    elif positive:
        every = np.concatenate(positive)
        low, high = float(every.min()), float(every.max())
        if low > 0 and high > _SPAN * low:
            log_axis(axes, "y", low=low / 1.5, high=high * 1.5, most=6)
        else:
            axes.set_ylim(0.0, 1.06 * high)


def _norms(axes: Axes, result: InitComparison) -> None:
    x = np.arange(len(result.layers))
    every: list[np.ndarray] = []
    for place, scheme in enumerate(result.schemes):
        color, marker = SERIES[place % len(SERIES)]
        values = array(result.norms(scheme))
        if not np.isfinite(values).any():
            continue
        means = np.nanmean(values, axis=0)
        axes.plot(
            x,
            means,
            color=PALETTE[color],
            marker=marker,
            markersize=4.5,
            linewidth=1.3,
        )
        every.append(means[means > 0])
    found = np.concatenate(every) if every else np.array([1.0])
    if found.size:
        low, high = float(found.min()) / 1.6, float(found.max()) * 1.6
        log_axis(axes, "y", low=low, high=high, most=6)
    axes.set_xticks(x, labels=[str(k + 1) for k in x])
    axes.set_xlim(-0.3, len(x) - 0.7)
    axes.set_xlabel("layer, before the training")
    axes.set_ylabel("Hessian norm")


def plot_init_ranking(
    result: InitRanking,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw what every initialisation reached, and how far it is behind the best one.

    Bars are intervals: of the mean over the seeds on the left; on the right of the paired
    difference, in which what the seeds have in common cancels. A scheme that is far behind
    all others is a number at the edge.

    Args:
        result: The order.
        size: Width and height in inches; below 5 inches of width the panels stand one
            above the other.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_init_ranking(ranking)  # doctest: +SKIP
    """
    size = size or init_ranking_size(result, WIDE[0])
    narrow = is_narrow(size)
    with house_style():
        figure = new_figure(size)
        shape = (2, 1) if narrow else (1, 2)
        left, right = figure.subplots(*shape, sharey=True).ravel()
        _bars(left, result, ("mean", "low", "high"))
        _bars(right, result, ("difference", "difference_low", "difference_high"))
        right.axvline(0.0, color=PALETTE["muted"], linewidth=0.8)
        names = [row["scheme"].replace("_", " ") for row in result.table]
        left.set_yticks(range(len(names)), labels=names)
        left.set_xlabel(result.quantity)
        right.set_xlabel(f"paired difference from {names[0]}")
        text = f"Initialisations by {result.quantity}" if title is None else title
        if text:
            set_figure_title(figure, text)
    return figure


def init_ranking_size(result: InitRanking, width: float) -> tuple[float, float]:
    """Return the size at which all names can be read."""
    rows = len(result.table)
    if is_narrow((width, 0.0)):
        return (width, 2.2 + 0.5 * rows)
    return (width, 1.5 + 0.26 * rows)


def _bars(axes: Axes, result: InitRanking, names: tuple[str, str, str]) -> None:
    rows = [tuple(row[name] for name in names) for row in result.table]
    limit = _limit([row for row in rows if row[0] is not None])
    for place, (value, low, high) in enumerate(rows):
        if value is None or value > limit:
            lost = result.table[place]["diverged"]
            text = f"{lost} of {result.num_seeds} diverged"
            if value is not None:
                text = f"{value:.3g} \u2192"
            axes.annotate(
                text,
                (0.98, place),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="center",
                fontsize=9.0,
            )
            continue
        if low is not None:
            axes.plot([low, high], [place, place], color=PALETTE["blue"], linewidth=2.2)
        axes.plot([value], [place], color=PALETTE["ink"], marker="o", markersize=4.5)
    # Best on top; a row that holds text only counts too.
    axes.set_ylim(len(rows) - 0.5, -0.5)


def _limit(rows: list[tuple[Any, ...]]) -> float:
    """Return beyond which a mean is written, not drawn: it would press all others flat."""
    ends = sorted((value if high is None else high, value) for value, _, high in rows)
    if not ends:
        return math.inf
    start = min(value if low is None else low for value, low, _ in rows)
    for (near, _), (far, value) in pairwise(ends):
        if near > start and far - start > _FAR * (near - start):
            return math.nextafter(value, -math.inf)
    return math.inf
