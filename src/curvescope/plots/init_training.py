"""Loss and Hessian norm along trainings: the two panels of the published notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from curvescope.plots.axes import log_axis, plain_label, power_label
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
from curvescope.results import InitTraining

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours and marks of lines that are told apart, in turn.
SERIES = (
    ("blue", "o"),
    ("vermilion", "s"),
    ("green", "D"),
    ("purple", "v"),
    ("ggn-edge", "^"),
    ("ink", "P"),
    ("hessian-edge", "X"),
    ("muted", "*"),
    ("functional-edge", "h"),
)
_DASHES = (0, (4.0, 2.0))
# A panel whose positive values span more than this has a logarithmic axis.
_SPAN = 30.0
_WORDS = {
    "fresh": "fresh batches at every step",
    "same": "the same batch at every step",
}


def plot_init_training(
    result: InitTraining,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw loss and Hessian norm of the first layer against the iteration.

    Lines are medians over the seeds, bands reach from the lowest to the highest. Kinds of
    batches stand side by side; where every step has the same samples, the loss on these is
    dashed.

    Args:
        result: The trainings.
        size: Width and height in inches; below 5 inches of width all panels stand one
            above the other.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_init_training(training)  # doctest: +SKIP

    References:
        Skorski, Temperoni, Theobald (2021), arXiv:2004.09506: the published notebook,
        whose norm is one constant.
    """
    size = size or init_training_size(result, WIDE[0])
    kinds = result.batches
    with house_style():
        figure = new_figure(size)
        columns = 1 if is_narrow(size) else len(kinds)
        panels = figure.subplots(
            2 * len(kinds) // columns,
            columns,
            sharex=True,
            sharey="row" if columns > 1 else "none",
            squeeze=False,
        )
        for index, kind in enumerate(kinds):
            if columns > 1:
                losses, norms = panels[0, index], panels[1, index]
            else:
                losses, norms = panels[2 * index, 0], panels[2 * index + 1, 0]
            _draw(losses, result, "loss", kind)
            _draw(norms, result, "hessian_norm", kind)
            if kind == "same":
                _draw(losses, result, "trained_loss", kind, dashed=True)
            if index == 0 or columns == 1:
                losses.set_ylabel("loss (mean)")
                norms.set_ylabel("Hessian norm\nof layer 1")
            if len(kinds) > 1:
                losses.set_title(_WORDS[kind], fontsize=10.0, fontweight="normal")
            if (columns == 1 and index + 1 == len(kinds)) or columns > 1:
                norms.set_xlabel("iteration")
        _axes(panels, result)
        text = "Loss and Hessian norm along the training" if title is None else title
        if text:
            set_figure_title(figure, text)
        _legend(figure, panels, result, narrow=is_narrow(size))
    return figure


def init_training_size(result: InitTraining, width: float) -> tuple[float, float]:
    """Return the size at which all panels can be read."""
    rows = 2 * len(result.batches) if is_narrow((width, 0.0)) else 2
    lines = len(result.sds) + 2
    legend = 0.2 * lines if is_narrow((width, 0.0)) else 0.2 * (lines + 1) / 2
    return (width, 0.9 + 1.75 * rows + legend)


def _draw(
    axes: Axes, result: InitTraining, column: str, kind: str, *, dashed: bool = False
) -> None:
    x = np.array(result.iterations)
    for sd, (color, marker) in zip(result.sds, _in_turn(len(result.sds)), strict=True):
        values = array(result.curve(column, sd=sd, batches=kind))
        kept = np.isfinite(values).any(axis=0)
        if not kept.any():
            continue
        values, places = values[:, kept], x[kept]
        axes.plot(
            places,
            np.nanmedian(values, axis=0),
            color=PALETTE[color],
            linestyle=_DASHES if dashed else "-",
            linewidth=1.2 if dashed else 1.6,
            marker="" if dashed else marker,
            markersize=3.5,
            markevery=max(1, len(places) // 8),
            label=None if dashed else f"initial sd {_number(sd)}",
        )
        if len(values) > 1 and not dashed:
            axes.fill_between(
                places,
                np.nanmin(values, axis=0),
                np.nanmax(values, axis=0),
                color=PALETTE[color],
                alpha=BAND_ALPHA,
                linewidth=0,
            )


def _in_turn(count: int) -> list[tuple[str, str]]:
    return [SERIES[index % len(SERIES)] for index in range(count)]


def _axes(panels: np.ndarray, result: InitTraining) -> None:
    """Give the panels of one quantity one axis: logarithmic where values span decades."""
    quantities = ("loss", "hessian_norm")
    for place, axes in enumerate(panels.ravel()):
        row = place // panels.shape[1]
        column = quantities[row % 2]
        columns = (column, "trained_loss") if column == "loss" else (column,)
        found = [
            array(result.curve(name, sd=sd, batches=kind)).ravel()
            for name in columns
            for sd in result.sds
            for kind in result.batches
            if name != "trained_loss" or kind == "same"
        ]
        values = np.concatenate(found)
        values = values[np.isfinite(values)]
        if not values.size:
            continue
        low, high = float(values.min()), float(values.max())
        if low > 0 and high > _SPAN * low:
            log_axis(axes, "y", low=low / 1.3, high=high * 1.3, most=6)
        else:
            axes.set_ylim(0.0, 1.06 * high)


def _legend(
    figure: Figure, panels: np.ndarray, result: InitTraining, *, narrow: bool
) -> None:
    from matplotlib.lines import Line2D

    handles, labels = panels[0, 0].get_legend_handles_labels()
    if "same" in result.batches:
        ink = PALETTE["ink"]
        handles += [
            Line2D([], [], color=ink, linewidth=1.6),
            Line2D([], [], color=ink, linewidth=1.2, linestyle=_DASHES),
        ]
        labels += [
            f"on {result.num_probe:,} training images",
            f"on the {result.batch_size} images of the batch",
        ]
    figure.legend(handles, labels, loc="outside lower left", ncols=1 if narrow else 2)


def _number(value: float) -> str:
    return plain_label(value) if value >= 1e-3 else power_label(value)
