"""What theory claims beside what was computed: identities, function-space homogeneity."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from curvescope.plots.axes import log_axis
from curvescope.plots.style import (
    PALETTE,
    WIDE,
    house_style,
    is_narrow,
    new_figure,
    set_figure_title,
)
from curvescope.results import FunctionSpaceHomogeneity, IdentityTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = (0, (4.0, 2.0))
_EPS = float(np.finfo(np.float64).eps)


def plot_identities(
    result: IdentityTable,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw how far the two sides of each identity are apart, beside the last digit.

    Args:
        result: The identities.
        size: Width and height in inches.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_identities(table)  # doctest: +SKIP
    """
    size = size or identities_size(result, WIDE[0])
    room = _room(size[0])
    names = [textwrap.fill(row.name, width=room) for row in result.identities]
    found = np.array([row.relative_difference for row in result.identities])
    # What is equal to the last bit has no logarithm: it stands at the left edge.
    floor = _EPS / 16.0
    with house_style():
        figure = new_figure(size)
        axes = figure.subplots()
        places = np.arange(len(names))[::-1]
        axes.axvline(
            _EPS, color=PALETTE["muted"], linestyle=_DASHES, label="last digit"
        )
        for equal, words in ((False, "relative difference"), (True, "no difference")):
            kept = (found <= floor) == equal
            axes.plot(
                np.maximum(found[kept], floor),
                places[kept],
                linestyle="none",
                marker="<" if equal else "o",
                markersize=6.0,
                color=PALETTE["green" if equal else "blue"],
                label=words,
            )
        axes.set_yticks(places, labels=names, parse_math=False)
        axes.set_ylim(-0.6, len(names) - 0.4)
        high = max(float(found.max(initial=_EPS)) * 4.0, 1e-14)
        log_axis(
            axes, "x", low=floor / 2.0, high=high, most=4 if is_narrow(size) else 7
        )
        axes.set_xlabel("relative difference")
        columns = 1 if is_narrow(size) else 3
        figure.legend(loc="outside lower left", ncols=columns)
        text = "Both sides of each identity" if title is None else title
        if text:
            set_figure_title(figure, text)
    return figure


def identities_size(result: IdentityTable, width: float) -> tuple[float, float]:
    """Return the size at which every name can be read."""
    narrow, room = is_narrow((width, 0.0)), _room(width)
    lines = sum(len(textwrap.wrap(row.name, width=room)) for row in result.identities)
    return (width, 1.7 + (0.6 if narrow else 0.0) + 0.24 * max(lines, 4))


def _room(width: float) -> int:
    """Return how many letters of a name stand on one line."""
    return 22 if is_narrow((width, 0.0)) else 40


def plot_function_homogeneity(
    result: FunctionSpaceHomogeneity,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw how much predictions change along the null space, and along random steps.

    Args:
        result: What was measured.
        size: Width and height in inches.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_function_homogeneity(found)  # doctest: +SKIP
    """
    size = size or (WIDE[0], 4.2)
    x = np.array([step.step for step in result.steps])
    curves = (
        ("random directions, the control", "random_change", "muted", "D"),
        (
            f"null space ({result.null_dimension:,} dimensions)",
            "null_change",
            "blue",
            "o",
        ),
    )
    with house_style():
        figure = new_figure(size)
        axes = figure.subplots()
        shown = [result.tolerance]
        for words, name, color, marker in curves:
            y = np.array([getattr(step, name) for step in result.steps])
            order = getattr(result, name.replace("change", "order"))
            label = words if np.isnan(order) else f"{words}: step to the {order:.2f}"
            kept = y > 0.0
            if not bool(kept.any()):
                continue
            shown += list(y[kept])
            axes.plot(
                x[kept],
                y[kept],
                color=PALETTE[color],
                marker=marker,
                markersize=4.5,
                label=label,
            )
        _rounding(axes, result.tolerance)
        log_axis(axes, "x", low=x[0] / 1.3, high=x[-1] * 1.3, most=6)
        low, high = min(shown) / 3.0, max(shown) * 3.0
        log_axis(axes, "y", low=low, high=high, most=7)
        axes.set_xlabel("step length in parameter space")
        axes.set_ylabel("relative change of the outputs")
        figure.legend(loc="outside lower left", ncols=1)
        verdict = f"Function-space homogeneity: {result.verdict}"
        text = verdict if title is None else title
        if text:
            set_figure_title(figure, text)
    return figure


def _rounding(axes: Axes, tolerance: float) -> None:
    axes.axhspan(0.0, tolerance, color=PALETTE["grid"], zorder=0)
    axes.axhline(
        tolerance,
        color=PALETTE["muted"],
        linestyle=_DASHES,
        label="below: rounding",
    )
