"""Double descent: losses and effective dimension of trained networks on twin axes."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from curvescope.plots.axes import log_axis, plain_label
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
from curvescope.results import DimensionSweep
from curvescope.results.dimension_sweep import DIMENSION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = (0, (4.0, 2.0))
# Of the effective dimension at other z than the main one: colour and mark, in turn.
_MARKS = (
    ("purple", "v"),
    ("ggn-edge", "^"),
    ("muted", "P"),
    ("vermilion", "X"),
    ("ink", "*"),
)
_WORDS = {"width": "width", "depth": "depth"}
# An axis that spans more than this is logarithmic.
_SPAN = 8.0
# Marks of the peaks stand above each other, so that equal places stay apart.
_ROW = 0.1


def plot_dimension_sweep(
    result: DimensionSweep,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw losses on the left axis and the effective dimension on the right one.

    Lines are means over the seeds, bands reach from the lowest to the highest; that of an
    estimated effective dimension over all its 95 % intervals. Where the
    mean train loss is not small the ground is grey: nothing is claimed there. Below, test
    loss and the effective dimension at every ``z``, each divided by its largest mean, so
    that the places of the peaks can be compared.

    Args:
        result: The sweep.
        size: Width and height in inches.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_dimension_sweep(sweep)  # doctest: +SKIP

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, figure 1.
    """
    size = size or dimension_sweep_size(result, WIDE[0])
    with house_style():
        figure = new_figure(size)
        left, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 3))
        right = left.twinx()
        _draw_losses(left, result)
        _draw_dimension(right, result)
        for color, meaning in _band_meanings(result):
            left.fill_between(
                [], [], color=PALETTE[color], alpha=BAND_ALPHA, label=meaning
            )
        _draw_peaks(below, result)
        _shade(left, result, named=True)
        _shade(below, result, named=False)
        _place_axis(below, result, size[0])
        text = f"Losses and effective dimension against {result.axis}"
        text = text if title is None else title
        if text:
            set_figure_title(figure, text)
        narrow = is_narrow(size)
        found = [axes.get_legend_handles_labels() for axes in (left, right, below)]
        figure.legend(
            [handle for handles, _ in found for handle in handles],
            [label for _, labels in found for label in labels],
            loc="outside lower left",
            ncols=1 if narrow else 2,
        )
    return figure


def dimension_sweep_size(result: DimensionSweep, width: float) -> tuple[float, float]:
    """Return the size at which both panels can be read."""
    lines = len(result.z) + 2
    if is_narrow((width, 0.0)):
        return (width, 6.2 + 0.2 * lines)
    return (width, 6.2 + 0.08 * lines)


def _draw_losses(axes: Axes, result: DimensionSweep) -> None:
    for name, color, marker in (
        ("test_loss", "blue", "o"),
        ("train_loss", "vermilion", "s"),
    ):
        _line_and_band(axes, result, name, color, marker, name.replace("_", " "))
    axes.set_ylim(bottom=0.0)
    axes.set_ylabel("loss (mean over samples)")


def _draw_dimension(axes: Axes, result: DimensionSweep) -> None:
    label = f"effective dimension at z = {result.main_z:.3g} (right axis)"
    _line_and_band(axes, result, DIMENSION, "green", "D", label)
    axes.set_ylim(bottom=0.0)
    axes.grid(visible=False)
    axes.spines["right"].set_visible(True)
    axes.spines["right"].set_color(PALETTE["green"])
    axes.tick_params(axis="y", colors=PALETTE["green"], labelcolor=PALETTE["green"])
    axes.set_ylabel("effective dimension", color=PALETTE["green"])


def _has_intervals(result: DimensionSweep) -> bool:
    return f"{DIMENSION}_low" in result.records[0]


def _band_meanings(result: DimensionSweep) -> list[tuple[str, str]]:
    """Say what the bands of each colour are; nothing of those without a height."""
    found, number = [], len(result.seeds)
    if number > 1:
        found.append(("muted", f"bands: lowest to highest of {number} seeds"))
    if _has_intervals(result):
        every = " of all seeds" if number > 1 else ""
        found.append(("green", f"green band: 95 % intervals{every}"))
    return found


def _line_and_band(
    axes: Axes, result: DimensionSweep, name: str, color: str, marker: str, label: str
) -> None:
    values = array(result.values(name))
    means = np.nanmean(values, axis=1)
    low, high = np.nanmin(values, axis=1), np.nanmax(values, axis=1)
    if name == DIMENSION and _has_intervals(result):
        low = np.nanmin(array(result.values(f"{name}_low")), axis=1)
        high = np.nanmax(array(result.values(f"{name}_high")), axis=1)
    axes.fill_between(
        result.places, low, high, color=PALETTE[color], alpha=BAND_ALPHA, linewidth=0
    )
    axes.plot(
        result.places,
        means,
        color=PALETTE[color],
        marker=marker,
        markersize=3.5,
        label=label,
    )


def _draw_peaks(axes: Axes, result: DimensionSweep) -> None:
    """Draw every curve as a part of its largest mean, and mark where that is."""
    curves: list[tuple[str, float | None, str, str, str, Any]] = [
        ("test_loss", None, "test loss", "blue", "o", _DASHES)
    ]
    marks = itertools.cycle(_MARKS)
    for z in result.z:
        color, marker = ("green", "D") if z == result.main_z else next(marks)
        curves.append((DIMENSION, z, f"N_eff, z = {z:.3g}", color, marker, "-"))
    for row, (name, at, label, color, marker, dashes) in enumerate(curves):
        means = np.nanmean(array(result.values(name, z=at)), axis=1)
        largest = float(np.nanmax(means))
        share = means / largest if largest > 0 else means
        axes.plot(
            result.places,
            share,
            color=PALETTE[color],
            linestyle=dashes,
            linewidth=1.2,
        )
        axes.plot(
            [result.peak(name, z=at)],
            [1.08 + _ROW * row],
            color=PALETTE[color],
            marker=marker,
            markersize=5.5,
            linestyle=dashes,
            label=f"{label}: largest at {result.peak(name, z=at)}",
            markeredgewidth=0,
        )
    axes.set_ylim(0.0, 1.08 + _ROW * len(curves))
    axes.set_yticks([0.0, 0.5, 1.0])
    axes.set_ylabel("part of the\nlargest mean")


def _shade(axes: Axes, result: DimensionSweep, *, named: bool) -> None:
    """Make the ground grey where the mean train loss is not small."""
    means = np.nanmean(array(result.values("train_loss")), axis=1)
    trained = means < result.small_train_loss
    edges = _edges(np.array(result.places, dtype=float), _is_wide(result))
    for place, good in enumerate(trained):
        if good:
            continue
        label = f"train loss above {result.small_train_loss:g}: no claim is made"
        axes.axvspan(
            edges[place],
            edges[place + 1],
            color=PALETTE["line"],
            alpha=0.28,
            linewidth=0,
            zorder=0,
            label=label if named else None,
        )
        named = False


def _edges(places: np.ndarray, logarithmic: bool) -> np.ndarray:  # noqa: FBT001
    if len(places) == 1:
        return np.array([places[0] / 1.3, places[0] * 1.3])
    x = np.log(places) if logarithmic else places
    middles = (x[1:] + x[:-1]) / 2
    first, last = x[0] - (middles[0] - x[0]), x[-1] + (x[-1] - middles[-1])
    edges = np.concatenate([[first], middles, [last]])
    return np.asarray(np.exp(edges) if logarithmic else edges)


def _is_wide(result: DimensionSweep) -> bool:
    places = result.places
    return places[0] > 0 and places[-1] > _SPAN * places[0]


def _place_axis(axes: Axes, result: DimensionSweep, inches: float) -> None:
    from matplotlib.ticker import NullLocator

    places = result.places
    edges = _edges(np.array(places, dtype=float), _is_wide(result))
    if _is_wide(result):
        log_axis(axes, "x", low=float(edges[0]), high=float(edges[-1]))
    else:
        axes.set_xlim(float(edges[0]), float(edges[-1]))
    ticks = _apart(places, inches, logarithmic=_is_wide(result))
    axes.set_xticks(ticks, labels=[plain_label(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(_WORDS.get(result.axis, result.axis))


def _apart(places: tuple[int, ...], inches: float, *, logarithmic: bool) -> list[int]:
    """Return places whose labels do not touch, each at its own value."""
    x = np.log(places) if logarithmic else np.array(places, dtype=float)
    least = float(x[-1] - x[0]) / (2.4 * inches)
    kept: list[int] = []
    for index in range(len(places)):
        if all(abs(x[index] - x[other]) >= least for other in kept):
            kept.append(index)
    return [places[index] for index in kept]
