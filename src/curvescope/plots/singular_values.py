"""Singular values with the gap that a rank was read from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from curvescope.plots.axes import magnitude_axis
from curvescope.plots.style import (
    PALETTE,
    WIDE,
    array,
    house_style,
    matrix_name,
    new_figure,
    set_title,
    with_unit,
)
from curvescope.results import RankEstimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_singular_values(
    result: RankEstimate,
    *,
    size: tuple[float, float] = WIDE,
    title: str | None = None,
) -> Figure:
    """Draw all singular values, the threshold and the rank.

    Args:
        result: The rank with its singular values.
        size: Width and height in inches.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_singular_values(rank)  # doctest: +SKIP
    """
    values = array(result.singular_values)
    index = np.arange(1, len(values) + 1)
    kept = index <= result.rank
    with house_style():
        figure = new_figure(size)
        axes = figure.add_subplot()
        small = 4.5 if len(values) <= 100 else 2.5
        groups = ((kept, "blue", "o", "kept"), (~kept, "vermilion", "s", "dropped"))
        for chosen, color, marker, label in groups:
            if chosen.any():
                axes.plot(
                    index[chosen],
                    values[chosen],
                    linestyle="none",
                    marker=marker,
                    markersize=small,
                    color=PALETTE[color],
                    label=f"{int(chosen.sum())} {label}",
                )
        magnitude_axis(axes, "y", np.append(values, result.tolerance))
        axes.axhline(
            result.tolerance,
            color=PALETTE["muted"],
            linestyle=(0, (4, 3)),
            linewidth=1.1,
            label=f"threshold {result.tolerance:.2g}",
        )
        axes.set_xlim(0.4, len(values) + 0.6)
        axes.set_xlabel("index")
        axes.set_ylabel(with_unit("singular value", result, size[1]))
        sure = "certain" if result.certain else "undetermined"
        default = f"Rank {result.rank} of {matrix_name(result)} ({sure})"
        set_title(axes, title, default)
        axes.legend(loc="best")
    return figure
