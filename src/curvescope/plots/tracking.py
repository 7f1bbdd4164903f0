"""Curvature along a training: one small panel a quantity, over a common axis of steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from curvescope.plots.axes import log_axis, magnitude_axis
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
from curvescope.results import TrackingCurve, student_t_quantile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

_DASHES = (0, (5.0, 2.0))
_COLORS = ("blue", "vermilion", "green", "purple", "ggn-edge", "hessian-edge")
_STYLES = ("-", (0, (4.0, 1.5)), (0, (1.2, 1.2)))
_FEW = 15
_FAR = 4.0
_DECADE = 10.0
_MOST_LAYERS, _MOST_LONG_NAMES, _SHORT, _LONG = 12, 6, 14, 26
# A legend's handle with its space, in characters; and their number on 72 points.
_HANDLE = 8
_CHARACTERS = 140.0
_INTERVAL = "95\u00a0% interval"


class _Panel(NamedTuple):
    name: str
    draw: Callable[[Axes, TrackingCurve], None]


def tracking_size(result: TrackingCurve, width: float) -> tuple[float, float]:
    """Return the size at which all panels can be read."""
    columns = 1 if is_narrow((width, 0.0)) else 2
    rows = math.ceil(len(_panels(result)) / columns)
    # Above each panel there are one or two lines of legend, of many layers more.
    named = 0 if result.layer_norms is None else min(len(result.layers), 6)
    extra = 0.17 * max(named - 2, 0)
    return (width, 0.6 + 2.75 * max(rows, 1) + extra)


def plot_tracking(
    result: TrackingCurve,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw what was tracked, one panel a quantity, over the steps of the training.

    The dashed line beside the eigenvalues is the edge of stability: what the sharpness
    in the optimiser's metric must stay below for its steps not to grow. Bands are 95 %
    intervals of estimates; hollow marks are eigenvalues that did not converge. Legends
    stand above their panels, where they cover nothing.

    Args:
        result: The curve.
        size: Width and height in inches; by default as high as the panels need.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_tracking(curve)  # doctest: +SKIP
    """
    size = size or tracking_size(result, WIDE[0])
    panels = _panels(result)
    columns = 1 if is_narrow(size) or len(panels) == 1 else 2
    with house_style():
        figure = new_figure(size)
        shape = (math.ceil(len(panels) / columns), columns)
        grid = figure.subplots(*shape, squeeze=False).ravel()
        for axes, panel in zip(grid, panels, strict=False):
            panel.draw(axes, result)
            _steps_axis(axes, result)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for axes in grid[max(len(panels) - columns, 0) : len(panels)]:
            axes.set_xlabel("steps")
        default = f"Curvature along the training of {_subject(result)}"
        text = default if title is None else title
        if text:
            set_figure_title(figure, text)
    return figure


def _subject(result: TrackingCurve) -> str:
    return result.of.description.split(",")[0]


def _panels(result: TrackingCurve) -> list[_Panel]:
    """Return the panels of what was measured."""
    there = {
        "loss": (result.loss, _draw_loss),
        "eigenvalues": (result.eigenvalues, _draw_eigenvalues),
        "preconditioned": (result.preconditioned_sharpness, _draw_preconditioned),
        "alignment": (result.alignment, _draw_alignment),
        "trace": (result.trace, _draw_trace),
        "effective dimension": (result.effective_dimension, _draw_dimension),
        "layers": (result.layer_norms, _draw_layers),
    }
    return [
        _Panel(name, draw)
        for name, (values, draw) in there.items()
        if values is not None
    ]


def _steps_axis(axes: Axes, result: TrackingCurve) -> None:
    """Make the axis of steps logarithmic where they were chosen so."""
    at = array(result.at)
    steps = at[at > 0]
    if len(steps) >= 4:
        ratios, gaps = steps[1:] / steps[:-1], np.diff(steps)
        if steps[-1] / steps[0] >= _DECADE and gaps.max() > 3 * np.median(gaps):
            even = ratios[len(ratios) // 2 :].max() < 3.0
            if even:
                from matplotlib.scale import SymmetricalLogScale

                scale = SymmetricalLogScale(axes.xaxis, linthresh=float(steps[0]))
                axes.set(xscale=scale, xlim=(0.0, at[-1] * 1.1))
                return
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_xlim(at.min() if len(at) else 0.0, at.max() if len(at) else 1.0)
    if len(at) == 1:
        axes.set_xlim(at[0] - 1, at[0] + 1)


def _line(
    axes: Axes,
    result: TrackingCurve,
    values: Tensor,
    *,
    color: str,
    label: str = "",
    style: object = "-",
    width: float = 1.6,
) -> None:
    y = array(values)
    kept = np.isfinite(y)
    axes.plot(
        array(result.at)[kept],
        y[kept],
        color=PALETTE[color],
        linestyle=style,
        linewidth=width,
        marker="o" if kept.sum() <= _FEW else "",
        markersize=3.0,
        label=label or "_",
    )


def _legend(axes: Axes, *, fontsize: float = 9.0) -> None:
    """Put the legend above the panel, in as many columns as fit its width."""
    figure = axes.get_figure()
    grid = axes.get_gridspec()
    assert figure is not None
    assert grid is not None
    labels = axes.get_legend_handles_labels()[1]
    inches = figure.bbox.width / figure.dpi / grid.ncols - 0.6
    lengths = [len(label) + _HANDLE for label in labels]
    legend = axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=_columns(lengths, room=_CHARACTERS / fontsize * inches),
        fontsize=fontsize,
        borderaxespad=0.1,
        borderpad=0.2,
        columnspacing=1.2,
        labelspacing=0.25,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _columns(lengths: list[int], *, room: float) -> int:
    """Return how many columns fit, filled one after the other as matplotlib does."""
    for columns in range(len(lengths), 1, -1):
        short, longer = divmod(len(lengths), columns)
        sizes = [short + (i < longer) for i in range(columns)]
        places = itertools.accumulate(sizes, initial=0)
        widths = [
            max(lengths[at : at + n]) for at, n in zip(places, sizes, strict=False)
        ]
        if sum(widths) <= room:
            return columns
    return 1


def _band(
    axes: Axes,
    result: TrackingCurve,
    low: Tensor,
    high: Tensor,
    *,
    color: str,
    label: str = "",
) -> None:
    if not bool((high > low).any()):
        return  # exact throughout
    axes.fill_between(
        array(result.at),
        array(low),
        array(high),
        color=PALETTE[color],
        alpha=BAND_ALPHA,
        linewidth=0,
        label=label or "_",
    )


def _positive_axis(axes: Axes, values: np.ndarray) -> None:
    """Make the axis logarithmic where positive values span more than a decade."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return
    low, high = float(finite.min()), float(finite.max())
    if low > 0 and high > _DECADE * low:
        log_axis(axes, "y", low=low / 1.25, high=high * 1.25, most=5)


def _draw_loss(axes: Axes, result: TrackingCurve) -> None:
    _line(axes, result, result.loss, color="ink", label="loss")
    everything = [array(result.loss)]
    if result.gradient_norm is not None:
        norm = result.gradient_norm
        _line(
            axes, result, norm, color="purple", style=_STYLES[1], label="gradient norm"
        )
        everything.append(array(norm))
        _legend(axes)
    axes.set_ylabel("loss")
    _positive_axis(axes, np.concatenate(everything))


def _limit(axes: Axes, result: TrackingCurve) -> np.ndarray:
    """Draw the edge of stability, as far as it changes anything to see."""
    assert result.limit is not None
    y = array(result.limit)
    kept = np.isfinite(y)
    axes.plot(
        array(result.at)[kept],
        y[kept],
        color=PALETTE["ink"],
        linestyle=_DASHES,
        linewidth=1.2,
        label=result.formula.replace("eta", "\u03b7").replace(" ", "\u00a0"),
        zorder=3,
    )
    return y[kept]


def _draw_eigenvalues(axes: Axes, result: TrackingCurve) -> None:
    assert result.eigenvalues is not None
    assert result.converged is not None
    values, good = array(result.eigenvalues), result.converged.numpy()
    for i in range(values.shape[1]):
        first = i == 0
        _line(
            axes,
            result,
            result.eigenvalues[:, i],
            color="blue" if first else "line",
            width=1.8 if first else 1.1,
            label="largest" if first else "next ones" if i == 1 else "",
        )
        bad = ~good[:, i] & np.isfinite(values[:, i])
        axes.plot(
            array(result.at)[bad],
            values[bad, i],
            linestyle="none",
            marker="o",
            markersize=4.5,
            markerfacecolor="none",
            color=PALETTE["vermilion"],
            label="not converged" if first and bad.any() else "_",
        )
    axes.set_ylabel("eigenvalues")
    seen = values[np.isfinite(values)]
    if result.limit is not None and not result.adaptive:
        limit = _limit(axes, result)
        if limit.size and seen.size:
            low, high = float(seen.min()), float(seen.max())
            # An edge that is far away would squeeze everything else.
            if limit.min() > _FAR * high:
                line = axes.get_lines()[-1]
                line.set_label(f"{line.get_label()}: above")
            else:
                low, high = min(low, float(limit.min())), max(high, float(limit.min()))
            margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
            axes.set_ylim(low - margin, high + margin)
    _legend(axes)


def _draw_preconditioned(axes: Axes, result: TrackingCurve) -> None:
    assert result.preconditioned_sharpness is not None
    values = array(result.preconditioned_sharpness)
    _line(
        axes,
        result,
        result.preconditioned_sharpness,
        color="green",
        label="largest, in the optimiser's metric",
    )
    everything = [values]
    if result.limit is not None:
        everything.append(_limit(axes, result))
    axes.set_ylabel("preconditioned eigenvalue")
    _positive_axis(axes, np.concatenate(everything))
    _legend(axes)


def _draw_alignment(axes: Axes, result: TrackingCurve) -> None:
    assert result.alignment is not None
    _line(axes, result, result.alignment, color="vermilion")
    axes.set_ylim(-0.03, 1.03)
    width = 1 if result.eigenvalues is None else result.eigenvalues.shape[1]
    axes.set_ylabel(f"gradient in the top {width}")


def _draw_trace(axes: Axes, result: TrackingCurve) -> None:
    assert result.trace is not None
    _line(axes, result, result.trace, color="purple", label="trace")
    if result.trace_error is not None:
        # The spread of Hutchinson's samples is known better than from themselves.
        degrees = 2.0 * max(4, int(result.settings.get("num_probes", 4)))
        half = student_t_quantile(0.975, degrees) * result.trace_error
        low, high = result.trace - half, result.trace + half
        _band(axes, result, low, high, color="purple", label=_INTERVAL)
        _legend(axes)
    axes.set_ylabel("trace")


def _draw_dimension(axes: Axes, result: TrackingCurve) -> None:
    assert result.effective_dimension is not None
    bands = result.effective_dimension_band
    last = -1
    if bands is not None:
        spread = (bands[:, :, 1] > bands[:, :, 0]).any(dim=0).tolist()
        last = max((i for i, wide in enumerate(spread) if wide), default=-1)
    for i, z in enumerate(result.z):
        color, style = _COLORS[i % len(_COLORS)], _STYLES[i // len(_COLORS) % 3]
        values = result.effective_dimension[:, i]
        _line(axes, result, values, color=color, style=style, label=f"z = {z:g}")
        if bands is not None:
            low, high = bands[:, i].unbind(dim=1)
            label = _INTERVAL if i == last else ""
            _band(axes, result, low, high, color=color, label=label)
    axes.set_ylabel("effective dimension")
    _legend(axes)


def _ending(name: str) -> str:
    """Cut the beginning off a long name: layers of a stack differ behind it."""
    return name if len(name) <= _LONG else f"\u2026{name[1 - _LONG :]}"


def _draw_layers(axes: Axes, result: TrackingCurve) -> None:
    assert result.layer_norms is not None
    norms = array(result.layer_norms[:, :, 0])
    # Of many layers the largest ones are named, and all are drawn.
    ranked = np.argsort(-np.nan_to_num(norms).max(axis=0, initial=0.0))
    short = max(map(len, result.layers), default=0) <= _SHORT
    most = _MOST_LAYERS if short else _MOST_LONG_NAMES
    named = set(ranked[:most].tolist())
    for i, name in enumerate(result.layers):
        place = i % (len(_COLORS) * len(_STYLES))
        _line(
            axes,
            result,
            result.layer_norms[:, i, 0],
            color=_COLORS[place % len(_COLORS)],
            style=_STYLES[place // len(_COLORS)],
            label=_ending(name) if i in named else "",
            width=1.4,
        )
    magnitude_axis(axes, "y", norms.ravel(), most=5)
    axes.set_ylabel("layers' norms")
    _legend(axes, fontsize=8.0)
