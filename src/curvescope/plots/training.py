"""Losses, and accuracies where there are any, along a training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from curvescope.plots.axes import log_axis
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
from curvescope.results import TrainingResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

_WHICH = (("train", "vermilion"), ("test", "blue"))
_DECADES = 30.0


def training_size(result: TrainingResult, width: float) -> tuple[float, float]:
    """Return the size of the figure: two panels stand below each other on a phone."""
    two = result.train_accuracy is not None
    return (width, 5.6 if two and is_narrow((width, 0.0)) else 3.9)


def plot_training(
    result: TrainingResult,
    *,
    size: tuple[float, float] = WIDE,
    title: str | None = None,
) -> Figure:
    """Draw the losses of training and test data, and the accuracies beside them.

    Of many networks the line is the median, and the band reaches from the lowest to the
    highest. The loss has a logarithmic axis where it spans more than a factor of 30.

    Args:
        result: The curve.
        size: Width and height in inches.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_training(result)  # doctest: +SKIP
    """
    two = result.train_accuracy is not None
    with house_style():
        figure = new_figure(size)
        shape = (2, 1) if is_narrow(size) else (1, 2)
        panels = figure.subplots(*(shape if two else (1, 1)), squeeze=False).ravel()
        loss: Axes = panels[0]
        _draw(loss, result, result.train_loss, result.test_loss)
        _loss_axis(loss, result)
        loss.set_ylabel("loss")
        if two:
            accuracies = result.train_accuracy, result.test_accuracy
            _draw(panels[1], result, *accuracies)
            panels[1].set_ylim(-0.02, 1.02)
            panels[1].set_ylabel("accuracy")
        loss.legend(loc="best")
        default = f"Training of {result.of.description.split(',')[0]}"
        text = default if title is None else title
        if text:
            set_figure_title(figure, text)
    return figure


def _draw(
    axes: Axes, result: TrainingResult, train: Tensor | None, test: Tensor | None
) -> None:
    x = array(result.at)
    for (name, color), curve in zip(_WHICH, (train, test), strict=True):
        if curve is None:
            continue
        values = np.atleast_2d(array(curve))
        # A network that diverged is not drawn from there on.
        values = np.where(np.isfinite(values), values, np.nan)
        kept = np.isfinite(values).any(axis=0)
        if not kept.any():
            continue
        marker = "o" if kept.sum() <= 15 else ""
        axes.plot(
            x[kept],
            np.nanmedian(values[:, kept], axis=0),
            color=PALETTE[color],
            marker=marker,
            markersize=3.5,
            label=name if len(values) == 1 else f"{name}, median of {len(values)}",
        )
        if len(values) > 1:
            axes.fill_between(
                x[kept],
                np.nanmin(values[:, kept], axis=0),
                np.nanmax(values[:, kept], axis=0),
                color=PALETTE[color],
                alpha=BAND_ALPHA,
                linewidth=0,
                label=f"_{name} band",
            )
    axes.set_xlabel(f"{result.axis}s")


def _loss_axis(axes: Axes, result: TrainingResult) -> None:
    curves = [c for c in (result.train_loss, result.test_loss) if c is not None]
    values = np.concatenate([array(curve).ravel() for curve in curves])
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    if positive.size == values.size and values.size:
        low, high = float(positive.min()), float(positive.max())
        if high > _DECADES * low:
            log_axis(axes, "y", low=low / 1.3, high=high * 1.3, most=7)
            return
    axes.set_ylim(bottom=min(0.0, float(values.min())) if values.size else 0.0)
