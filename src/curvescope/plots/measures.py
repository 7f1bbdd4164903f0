"""Measures beside what they are to foretell: scatters, and their rank correlations."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

import numpy as np

from curvescope.plots.axes import magnitude_axis, tick_labels
from curvescope.plots.style import (
    PALETTE,
    WIDE,
    house_style,
    is_narrow,
    new_figure,
    set_figure_title,
    set_title,
)
from curvescope.results import CorrelationTable, MeasureComparison, RankCorrelation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL_HEIGHT = 2.5
# Beyond this ratio of largest to smallest an axis is logarithmic.
_LOGARITHMIC = 20.0
_GROUPS = (("blue", "o"), ("vermilion", "s"), ("green", "^"), ("purple", "D"))


def plot_measures(
    result: MeasureComparison,
    *,
    correlations: CorrelationTable | None = None,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the target against each measure, one panel a measure, one mark a record.

    Records that are not compared are small and hollow.

    Args:
        result: The records.
        correlations: Their rank correlations, written above the panels.
        size: Width and height in inches.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_measures(comparison, correlations=table)  # doctest: +SKIP
    """
    size = size or measures_size(result, WIDE[0])
    columns = _columns(result, size[0])
    rows = math.ceil(len(result.measures) / columns)
    with house_style():
        figure = new_figure(size)
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for place, (axes, measure) in enumerate(
            zip(grid, result.measures, strict=False)
        ):
            _scatter(axes, result, measure)
            axes.set_xlabel(_wrapped(result.called(measure), size[0] / columns))
            if place % columns == 0:
                axes.set_ylabel(result.called(result.target))
            text = _correlation_text(result, measure, correlations)
            axes.set_title(text, fontsize=9.0, fontweight="normal", loc="left")
        for axes in grid[len(result.measures) :]:
            axes.set_visible(False)
        y = _values(result, result.target)
        if _is_wide(y):
            magnitude_axis(grid[0], "y", y, most=6)
        words = result.called(result.target)
        default = f"{words[:1].upper()}{words[1:]} beside each measure"
        text = default if title is None else title
        if text:
            set_figure_title(figure, text)
        handles, labels = grid[0].get_legend_handles_labels()
        if len(handles) > 1:
            figure.legend(handles, labels, loc="outside lower left", ncols=2)
    return figure


def measures_size(result: MeasureComparison, width: float) -> tuple[float, float]:
    """Return the size at which the panels can be read."""
    rows = math.ceil(len(result.measures) / _columns(result, width))
    return (width, 0.8 + _PANEL_HEIGHT * rows)


def _wrapped(text: str, inches: float) -> str:
    return textwrap.fill(text, width=max(16, int(11.5 * (inches - 0.3))))


def _columns(result: MeasureComparison, width: float) -> int:
    return min(len(result.measures), 1 if is_narrow((width, 0.0)) else 3)


def _scatter(axes: Axes, result: MeasureComparison, measure: str) -> None:
    x, y = _values(result, measure), _values(result, result.target)
    chosen = np.array([result.is_chosen(record) for record in result.records])
    if _is_wide(x):
        _few_ticks(axes, x)
    if not chosen.all():
        axes.scatter(
            x[~chosen],
            y[~chosen],
            s=12,
            facecolors="none",
            edgecolors=PALETTE["muted"],
            linewidths=0.7,
            label="not compared",
        )
    parts = result.parts()
    # Strata are the chosen records once more, each for itself.
    shown = list(parts)[1:] if result.strata else list(parts)[:1]
    for index, words in enumerate(shown):
        # The first colour is that of all together, as in the table of correlations.
        color, marker = _GROUPS[(index + bool(result.strata)) % len(_GROUPS)]
        members = {id(record) for record in parts[words]}
        own = np.array([id(record) in members for record in result.records])
        axes.scatter(
            x[own],
            y[own],
            s=18,
            color=PALETTE[color],
            marker=marker,
            alpha=0.75,
            linewidths=0,
            label=words if result.strata else f"compared: {words}",
        )


def _few_ticks(axes: Axes, x: np.ndarray) -> None:
    """Make the axis logarithmic, with two or three labels that a small panel holds."""
    from matplotlib.ticker import NullLocator

    finite = x[np.isfinite(x)]
    low, high = float(finite.min()), float(finite.max())
    room = (high / low) ** 0.06
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        ticks = [m * 10.0**d for d in decades for m in mantissas]
        ticks = [tick for tick in ticks if low / room <= tick <= high * room]
        if len(ticks) >= 2:
            break
    ticks = ticks[:: math.ceil(len(ticks) / 3)]
    axes.set(xscale="log", xlim=(low / room, high * room))
    axes.set_xticks(ticks, labels=tick_labels(ticks))
    axes.xaxis.set_minor_locator(NullLocator())


def _values(result: MeasureComparison, field: str) -> np.ndarray:
    values = [record[field] for record in result.records]
    return np.array([math.nan if v is None else float(v) for v in values])


def _is_wide(values: np.ndarray) -> bool:
    finite = values[np.isfinite(values)]
    if finite.size == 0 or finite.min() <= 0.0:
        return False
    return bool(finite.max() / finite.min() > _LOGARITHMIC)


def _correlation_text(
    result: MeasureComparison, measure: str, table: CorrelationTable | None
) -> str:
    rows = () if table is None else table.correlations
    own = {row.among: row for row in rows if row.measure == result.called(measure)}
    first, *others = result.parts()
    if first not in own or math.isnan(own[first].rank_correlation):
        return ""
    row = own[first]
    text = f"\u03c1 = {row.rank_correlation:.2f} ({row.low:.2f} to {row.high:.2f})"
    if result.strata and all(words in own for words in others):
        apart = ", ".join(f"{own[words].rank_correlation:.2f}" for words in others)
        text = f"\u03c1 = {apart}; mixed {row.rank_correlation:.2f}"
    return text.replace("-", "\u2212")


def plot_correlations(
    result: CorrelationTable,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw each measure's rank correlation with its interval, a marker a group of points.

    Args:
        result: The correlations.
        size: Width and height in inches.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_correlations(table)  # doctest: +SKIP
    """
    size = size or correlations_size(result, WIDE[0])
    measures = list(dict.fromkeys(row.measure for row in result.correlations))
    groups = list(dict.fromkeys(row.among for row in result.correlations))
    with house_style():
        figure = new_figure(size)
        axes = figure.add_subplot()
        for index, among in enumerate(groups):
            rows = [row for row in result.correlations if row.among == among]
            shift = 0.22 * (index - (len(groups) - 1) / 2.0)
            places = [measures.index(row.measure) + shift for row in rows]
            _intervals(axes, rows, places, index, among)
        axes.axvline(0.0, color=PALETTE["line"], linewidth=1.0)
        axes.set_yticks(range(len(measures)), labels=measures)
        axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
        axes.set_ylim(len(measures) - 0.5, -0.5)
        axes.set_xlim(-1.04, 1.04)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"rank correlation with {result.target}")
        set_title(axes, title, f"What goes with {result.target}")
        figure.legend(loc="outside lower left", ncols=1 if is_narrow(size) else 2)
    return figure


def correlations_size(result: CorrelationTable, width: float) -> tuple[float, float]:
    """Return a size with a line for each measure."""
    count = len({row.measure for row in result.correlations})
    return (width, 1.6 + 0.34 * count)


def _intervals(
    axes: Axes,
    rows: list[RankCorrelation],
    places: list[float],
    index: int,
    among: str,
) -> None:
    color, marker = _GROUPS[index % len(_GROUPS)]
    values = np.array([row.rank_correlation for row in rows])
    low = np.array([row.low for row in rows])
    high = np.array([row.high for row in rows])
    # A percentile interval need not hold the value itself.
    reach = np.clip([values - low, high - values], 0.0, None)
    axes.errorbar(
        values,
        places,
        xerr=reach,
        fmt=marker,
        color=PALETTE[color],
        markersize=4.5,
        linewidth=1.4,
        capsize=2.5,
        label=f"{among} ({max(row.num_points for row in rows)} points)",
    )
