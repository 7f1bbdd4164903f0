"""Layers' Hessian norms and the loss of untrained networks against the weights' sd."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from curvescope.plots.axes import log_axis
from curvescope.plots.init_training import SERIES
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
from curvescope.results import InitScan
from curvescope.results.init_experiments import norm_column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = (0, (4.0, 2.0))


def plot_init_scan(
    result: InitScan,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw every layer's Hessian norm, and the loss, against the standard deviation.

    Lines are means over the seeds, bands reach from the lowest to the highest. Where all
    layers vary, the dashed line is the power law of networks whose predictions are uniform.

    Args:
        result: The untrained networks.
        size: Width and height in inches; below 5 inches of width the panels stand one
            above the other.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_init_scan(untrained)  # doctest: +SKIP
    """
    size = size or init_scan_size(result, WIDE[0])
    narrow = is_narrow(size)
    with house_style():
        figure = new_figure(size)
        shape = (2, 1) if narrow else (1, 2)
        norms, losses = figure.subplots(*shape, sharex=True).ravel()
        x = np.array(result.sds)
        span: list[np.ndarray] = []
        for place, layer in enumerate(result.layers):
            color, marker = SERIES[place % len(SERIES)]
            values = array(result.values(norm_column(layer)))
            _line(norms, x, values, color, marker, f"layer {place + 1}")
            span.append(np.nanmean(values, axis=1))
        if result.power is not None:
            span.append(_law(norms, x, span[0], result.power))
        _line(losses, x, array(result.values("loss")), "ink", "o", None)
        _log_axis(norms, np.concatenate(span))
        losses.set_ylim(bottom=0.0)
        if float(np.nanmax(array(result.values("loss")))) > 30.0:
            _log_axis(losses, array(result.values("loss")))
        for axes in (norms, losses):
            log_axis(axes, "x", low=x.min() / 1.4, high=x.max() * 1.4, most=6)
            if not narrow or axes is losses:
                which = "layer 1" if result.vary == "layer1" else "all layers"
                axes.set_xlabel(f"sd of the weights of {which}")
        norms.set_ylabel("Hessian norm (Frobenius)")
        losses.set_ylabel("loss (mean)")
        text = "Untrained networks: norm of each layer's block, and loss"
        text = text if title is None else title
        if text:
            set_figure_title(figure, text)
        figure.legend(loc="outside lower left", ncols=2 if narrow else 4)
    return figure


def init_scan_size(result: InitScan, width: float) -> tuple[float, float]:
    """Return the size at which both panels can be read."""
    lines = len(result.layers) + (result.power is not None)
    if is_narrow((width, 0.0)):
        return (width, 5.2 + 0.2 * ((lines + 1) // 2))
    return (width, 3.5 + 0.2 * ((lines + 3) // 4))


def _line(
    axes: Axes,
    x: np.ndarray,
    values: np.ndarray,
    color: str,
    marker: str,
    label: str | None,
) -> None:
    kept = np.isfinite(values).any(axis=1)
    if not kept.any():
        return
    values, x = values[kept], x[kept]
    axes.plot(
        x,
        np.nanmean(values, axis=1),
        color=PALETTE[color],
        marker=marker,
        markersize=3.5,
        label=label,
    )
    axes.fill_between(
        x,
        np.nanmin(values, axis=1),
        np.nanmax(values, axis=1),
        color=PALETTE[color],
        alpha=BAND_ALPHA,
        linewidth=0,
    )


def _law(axes: Axes, x: np.ndarray, means: np.ndarray, power: int) -> np.ndarray:
    """Draw the power law through the first layer's smallest networks; return it."""
    law = means[0] * (x / x[0]) ** power
    # Where predictions are far from uniform the law says nothing.
    near = law <= 30.0 * np.nanmax(means)
    axes.plot(
        x[near],
        law[near],
        color=PALETTE["muted"],
        linestyle=_DASHES,
        linewidth=1.2,
        label=f"power {power} of the sd",
        zorder=4,
    )
    return np.asarray(law[near])


def _log_axis(axes: Axes, values: np.ndarray) -> None:
    positive = values[np.isfinite(values) & (values > 0)]
    if positive.size:
        low, high = float(positive.min()), float(positive.max())
        log_axis(axes, "y", low=low / 1.5, high=high * 1.5, most=7)
