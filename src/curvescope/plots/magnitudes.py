"""Sorted magnitudes on a logarithmic axis, as a rank is read from them.

Rounding noise is part of the picture, so the axis reaches down to it; what is exactly
zero has no place on a logarithm and stands, marked as such, on the axis' floor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from curvescope.plots.axes import log_axis
from curvescope.plots.style import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Below these fractions of the largest value and of the threshold nothing is told apart.
_LOWEST = 1e-26
_FAR_BELOW = 1e-12
_MARKS = 400


class MatrixStyle(NamedTuple):
    """How one of the three matrices of a problem looks in every figure of ranks."""

    name: str
    color: str
    edge: str
    marker: str
    width: float


# Narrower lines lie on wider ones: where two ranks are equal both can be seen.
MATRIX_STYLES = {
    "hessian": MatrixStyle("Hessian", "hessian", "hessian-edge", "o", 3.8),
    "functional": MatrixStyle(
        "functional Hessian", "functional", "functional-edge", "s", 2.6
    ),
    "ggn": MatrixStyle("GGN", "ggn", "ggn-edge", "D", 1.5),
}


class Span(NamedTuple):
    """What a logarithmic axis shows: ``floor`` is the place of all that lies below."""

    low: float
    high: float
    floor: float

    @property
    def empty(self) -> bool:
        """Whether there is no positive value at all."""
        return self.high == 0.0


def span_of(values: np.ndarray, tolerance: float = 0.0) -> Span:
    """Choose the ends of an axis that shows values and threshold."""
    shown = np.append(values, tolerance)
    shown = shown[np.isfinite(shown) & (shown > 0)]
    if shown.size == 0:
        return Span(0.0, 0.0, 0.0)
    largest, smallest = float(shown.max()), float(shown.min())
    low = max(smallest, _LOWEST * largest, _FAR_BELOW * tolerance)
    factor = max((largest / low) ** 0.05, 4.0)
    return Span(low / factor**2, largest * factor, low / factor)


def magnitudes_axis(axes: Axes, span: Span, *, most: int = 8) -> None:
    """Make the y axis logarithmic over ``span``; without any value it has no ticks."""
    if span.empty:
        axes.set_yticks([])
        axes.set_ylim(-1.0, 1.0)
        return
    log_axis(axes, "y", low=span.low, high=span.high, most=most)


def draw_magnitudes(
    axes: Axes,
    values: np.ndarray,
    span: Span,
    *,
    color: str,
    label: str,
    first: int = 1,
    edge: str | None = None,
    marker: str = "o",
    hollow: bool = False,
) -> None:
    """Draw sorted values from index ``first`` on; those below the axis on its floor."""
    if len(values) == 0:
        return
    index = np.arange(first, first + len(values))
    shown = values >= span.floor if not span.empty else np.zeros(len(values), bool)
    if shown.any():
        many = int(shown.sum()) > _MARKS
        axes.plot(
            index[shown],
            values[shown],
            linestyle="-" if many else "none",
            linewidth=2.6,
            marker="" if many else marker,
            markersize=4.6 if len(values) <= 100 else 3.2,
            color=PALETTE[color],
            markerfacecolor=PALETTE["surface" if hollow else color],
            markeredgecolor=PALETTE[edge or color],
            markeredgewidth=0.9 if hollow else 0.6,
            label=label,
        )
    below = index[~shown]
    if len(below):
        exact = bool((values[~shown] == 0).all())
        why = "exactly zero" if exact else "zero, or below the axis"
        axes.plot(
            below,
            np.full(len(below), span.floor),
            linestyle="none",
            marker="v",
            markersize=4.2,
            markerfacecolor=PALETTE["surface"],
            markeredgecolor=PALETTE[edge or color],
            markeredgewidth=0.9,
            label=f"{len(below)} {why}",
        )


def note_inside(axes: Axes, text: str) -> None:
    """Write a remark into the middle of an empty panel."""
    axes.text(
        0.5,
        0.5,
        text,
        transform=axes.transAxes,
        ha="center",
        va="center",
        color=PALETTE["muted"],
        fontsize=9.0,
        bbox={"facecolor": PALETTE["surface"], "edgecolor": "none", "pad": 2.0},
    )
