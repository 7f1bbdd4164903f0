"""The layer table, a line a layer: names stay readable with 5 layers and with 60."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from curvescope.plots.axes import magnitude_axis
from curvescope.plots.style import (
    BAND_ALPHA,
    PALETTE,
    WIDE,
    house_style,
    is_narrow,
    new_figure,
    set_title,
    shorten,
    with_unit,
)
from curvescope.results import LayerTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class _Series(NamedTuple):
    field: str
    label: str
    color: str
    marker: str


_NORMS = (
    _Series("frobenius_norm", "whole block", "ink", "o"),
    _Series("linearisation_norm", "linearisation part", "blue", "s"),
    _Series("curvature_norm", "curvature part", "vermilion", "D"),
)
_TOP = (_Series("top_eigenvalue", "top eigenvalue", "green", "o"),)


def plot_layers(
    result: LayerTable,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw each layer's norms and top eigenvalue, with standard errors.

    Left the Frobenius norms of a layer's own block and, with bars, of its linearisation
    and curvature parts; right the eigenvalue of largest magnitude, with its residual norm
    as error bar. Axes are logarithmic, and signed where a value is zero or negative.

    Args:
        result: The table.
        size: Width and height in inches; by default as high as the layers need. Below
            5 inches of width the two panels stand one above the other.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_layers(layers)  # doctest: +SKIP
    """
    size = size or layer_size(len(result.layers), WIDE[0])
    narrow = is_narrow(size)
    with house_style():
        figure = new_figure(size)
        if narrow:
            left, right = figure.subplots(2, 1)
        else:
            left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.35, 1))
        _draw(left, result, _NORMS)
        _draw(right, result, _TOP)
        left.set_xlabel(with_unit("Frobenius norm", result, 3.9))
        right.set_xlabel(with_unit("top eigenvalue", result, 3.3))
        for axes in (left, right) if narrow else (left,):
            _name_layers(axes, result, length=18 if narrow else 30)
        set_title(left, title, "Curvature of each layer's own block")
        handles, labels = left.get_legend_handles_labels()
        if narrow:
            figure.legend(handles, labels, loc="outside upper left", ncols=2)
        else:
            figure.legend(handles, labels, loc="outside upper right", ncols=3)
    return figure


def layer_size(num_layers: int, width: float) -> tuple[float, float]:
    """Return the size at which the names of all layers can be read."""
    line = 0.32 if num_layers <= 10 else 0.24 if num_layers <= 24 else 0.175
    panels = 2 if is_narrow((width, 0.0)) else 1
    return (width, panels * (1.15 + line * num_layers) + 0.4)


def _draw(axes: Axes, result: LayerTable, series: tuple[_Series, ...]) -> None:
    places = np.arange(len(result.layers), dtype=float)
    offsets = np.linspace(-0.2, 0.2, len(series)) if len(series) > 1 else np.zeros(1)
    crowded = len(places) > 24
    everything = []
    for one, offset in zip(series, offsets, strict=True):
        values = np.array([getattr(row, one.field) for row in result.layers])
        errors = np.array([getattr(row, f"{one.field}_error") for row in result.layers])
        # A norm's lower end may reach below zero, where it has no meaning.
        below = np.minimum(errors, 0.999 * values) if len(series) > 1 else errors
        axes.errorbar(
            values,
            places + offset,
            xerr=[np.maximum(below, 0.0), errors],
            linestyle="none",
            marker=one.marker,
            markersize=3.2 if crowded else 4.8,
            color=PALETTE[one.color],
            elinewidth=1.1,
            capsize=0 if crowded else 2.5,
            label=one.label,
        )
        everything.append(values)
    magnitude_axis(axes, "x", np.concatenate(everything), most=5)
    axes.grid(visible=True, axis="both")
    low, high = axes.get_xlim()
    if len(series) > 1:
        _bars(axes, result, list(zip(series, offsets, strict=True)), max(low, 0.0))
        axes.set_xlim(low, high)
    if low < 0 < high:
        axes.axvline(0.0, color=PALETTE["line"], linewidth=0.9, zorder=1)
    axes.set_ylim(len(places) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _bars(
    axes: Axes,
    result: LayerTable,
    series: list[tuple[_Series, float]],
    start: float,
) -> None:
    """Draw the two parts as bars behind their marks; a whole is no third part."""
    height = 0.17 if len(result.layers) <= 24 else 0.13
    for one, offset in series:
        if one.field == "frobenius_norm":
            continue
        values = np.array([getattr(row, one.field) for row in result.layers])
        axes.barh(
            np.arange(len(values)) + offset,
            np.maximum(values - start, 0.0),
            height=height,
            left=start,
            color=PALETTE[one.color],
            alpha=BAND_ALPHA,
            linewidth=0.0,
            zorder=1.5,
        )


def _name_layers(axes: Axes, result: LayerTable, *, length: int) -> None:
    names = [shorten(row.name, length) for row in result.layers]
    axes.set_yticks(range(len(names)), labels=names)
    small = 9.0 if len(names) <= 10 else 8.0 if len(names) <= 24 else 7.0
    for label in axes.get_yticklabels():
        label.set(parse_math=False, fontsize=small, color=PALETTE["ink"])
