"""Spectra of all layers: top eigenvalues and traces by depth, one line a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from curvescope.plots.axes import magnitude_axis
from curvescope.plots.layers import layer_size
from curvescope.plots.style import (
    PALETTE,
    WIDE,
    house_style,
    is_narrow,
    new_figure,
    set_title,
    shorten,
    with_unit,
)
from curvescope.results import LayerSpectra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FURTHER = ("vermilion", "purple", "blue", "muted")


def plot_layer_spectra(
    result: LayerSpectra,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw every layer's top eigenvalues and its trace, the first layer on top.

    Left the eigenvalues of largest magnitude, the first as a bar, with their residual
    norms as error bars; an open mark is not converged. Right the trace, with its standard
    error. Axes are logarithmic, and signed where a value is zero or negative.

    Args:
        result: The spectra.
        size: Width and height in inches; by default as high as the layers need. Below
            5 inches of width the two panels stand one above the other.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_layer_spectra(spectra)  # doctest: +SKIP
    """
    size = size or layer_spectra_size(result, WIDE[0])
    narrow = is_narrow(size)
    with house_style():
        figure = new_figure(size)
        if narrow:
            left, right = figure.subplots(2, 1)
        else:
            left, right = figure.subplots(1, 2, sharey=True)
        _draw_eigenvalues(left, result)
        _draw_traces(right, result)
        left.set_xlabel(with_unit("eigenvalue", result, 3.3))
        right.set_xlabel(with_unit("trace", result, 3.3))
        for axes in (left, right) if narrow else (left,):
            _name_layers(axes, result, length=18 if narrow else 30)
        blocks = "Layers" if narrow else "Every layer's own block"
        default = f"{blocks} of the {result.of.matrix}"
        set_title(left, title, default)
        handles, labels = left.get_legend_handles_labels()
        if len(handles) > 1:
            columns = min(len(handles), 4)
            if narrow:
                figure.legend(handles, labels, loc="outside lower left", ncols=columns)
            else:
                figure.legend(handles, labels, loc="outside upper right", ncols=columns)
    return figure


def layer_spectra_size(result: LayerSpectra, width: float) -> tuple[float, float]:
    """Return the size at which the names of all layers can be read."""
    wide, high = layer_size(len(result.layers), width)
    return (wide, high + 0.2)


def _bar_height(count: int) -> float:
    return 0.6 if count <= 24 else 0.66


def _draw_eigenvalues(axes: Axes, result: LayerSpectra) -> None:
    rows = result.layers
    places = np.arange(len(rows), dtype=float)
    first = np.array([row.top_eigenvalue for row in rows])
    most = max(len(row.eigenvalues) for row in rows)
    everything = np.array([v for row in rows for v in row.eigenvalues])
    magnitude_axis(axes, "x", everything, most=5)
    low, high = axes.get_xlim()
    _bars(axes, places, first, "green", low)
    shown = min(most, 1 + len(_FURTHER))
    for rank in range(shown):
        color = "green" if rank == 0 else _FURTHER[rank - 1]
        marks = [
            (place, row.eigenvalues[rank], row.residual_norms[rank], row.converged)
            for place, row in zip(places, rows, strict=True)
            if rank < len(row.eigenvalues)
        ]
        for converged in (True, False):
            some = [mark[:3] for mark in marks if mark[3] == converged]
            if not some:
                continue
            label = _ordinal(rank) + ("" if converged else ", not converged")
            _mark(axes, np.array(some), color, label, rank=rank, filled=converged)
    _finish(axes, len(rows), low, high)


def _ordinal(rank: int) -> str:
    return "top" if rank == 0 else f"no. {rank + 1}"


def _mark(
    axes: Axes, some: np.ndarray, color: str, label: str, *, rank: int, filled: bool
) -> None:
    """Draw one rank's marks: places, values, errors in columns."""
    axes.errorbar(
        some[:, 1],
        some[:, 0],
        xerr=some[:, 2],
        linestyle="none",
        marker="osD^v"[rank],
        markersize=4.4 if rank == 0 else 3.6,
        markerfacecolor=PALETTE[color] if filled else PALETTE["surface"],
        color=PALETTE[color],
        elinewidth=1.0,
        label=label,
        zorder=3,
    )


def _draw_traces(axes: Axes, result: LayerSpectra) -> None:
    rows = result.layers
    places = np.arange(len(rows), dtype=float)
    traces = np.array([row.trace for row in rows])
    errors = np.array([row.trace_error for row in rows])
    magnitude_axis(axes, "x", traces, most=5)
    low, high = axes.get_xlim()
    _bars(axes, places, traces, "blue", low)
    axes.errorbar(
        traces,
        places,
        xerr=errors,
        linestyle="none",
        marker="o",
        markersize=4.0,
        color=PALETTE["blue"],
        elinewidth=1.1,
        zorder=3,
    )
    _finish(axes, len(rows), low, high)


def _bars(
    axes: Axes, places: np.ndarray, values: np.ndarray, color: str, low: float
) -> None:
    """Draw bars from zero, or from the axis' end where zero is not on it."""
    start = 0.0 if low <= 0.0 else low
    axes.barh(
        places,
        values - start,
        height=_bar_height(len(places)),
        left=start,
        color=PALETTE[color],
        alpha=0.3,
        linewidth=0.0,
        zorder=1.5,
    )


def _finish(axes: Axes, count: int, low: float, high: float) -> None:
    axes.set_xlim(low, high)
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")
    if low < 0 < high:
        axes.axvline(0.0, color=PALETTE["line"], linewidth=0.9, zorder=1)
    axes.set_ylim(count - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _name_layers(axes: Axes, result: LayerSpectra, *, length: int) -> None:
    names = [shorten(row.name, length) for row in result.layers]
    axes.set_yticks(range(len(names)), labels=names)
    small = 9.0 if len(names) <= 10 else 8.0 if len(names) <= 24 else 7.0
    for label in axes.get_yticklabels():
        label.set(parse_math=False, fontsize=small, color=PALETTE["ink"])
