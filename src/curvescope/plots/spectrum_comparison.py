"""Sorted eigenvalues of several networks on one axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from curvescope.plots.magnitudes import (
    draw_magnitudes,
    magnitudes_axis,
    note_inside,
    span_of,
)
from curvescope.plots.style import (
    PALETTE,
    WIDE,
    array,
    house_style,
    is_narrow,
    new_figure,
    require_matplotlib,
    set_title,
    with_unit,
)
from curvescope.results import SpectrumComparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOOKS = (
    ("blue", "o"),
    ("vermilion", "s"),
    ("green", "D"),
    ("purple", "^"),
    ("ink", "P"),
    ("hessian", "X"),
    ("functional", "v"),
    ("ggn", "*"),
)


def plot_spectrum_comparison(
    result: SpectrumComparison,
    *,
    size: tuple[float, float] = WIDE,
    title: str | None = None,
) -> Figure:
    """Draw the sorted magnitudes of several spectra, predicted ranks as verticals.

    A linear network's eigenvalues end at its rank, and what follows is rounding; those
    of a non-linear one go on, only smaller. Values that are exactly zero stand on the
    floor of the logarithmic axis.

    Args:
        result: The spectra by label.
        size: Width and height in inches.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_spectrum_comparison(spectra)  # doctest: +SKIP

    References:
        Singh, Bachmann, Hofmann (2021), arXiv:2106.16225.
    """
    require_matplotlib()
    from matplotlib.ticker import MaxNLocator

    sorted_values = {
        label: np.sort(np.abs(array(values)))[::-1]
        for label, values in result.eigenvalues.items()
    }
    with house_style():
        figure = new_figure(size)
        axes = figure.add_subplot()
        everything = [v for v in sorted_values.values() if len(v)]
        span = span_of(np.concatenate(everything) if everything else np.zeros(0))
        if span.empty:
            note_inside(axes, "all values are exactly zero")
        for place, (label, values) in enumerate(sorted_values.items()):
            color, marker = _LOOKS[place % len(_LOOKS)]
            if not span.empty:
                draw_magnitudes(
                    axes, values, span, color=color, marker=marker, label=label
                )
            if label in result.predicted:
                axes.axvline(
                    result.predicted[label] + 0.5,
                    color=PALETTE[color],
                    linestyle=(0, (5, 3)),
                    linewidth=1.3,
                    label=f"{label}: predicted rank {result.predicted[label]}",
                )
        magnitudes_axis(axes, span)
        longest = max((len(v) for v in sorted_values.values()), default=0)
        ranks = [rank + 0.5 for rank in result.predicted.values()]
        right = max([longest, 1, *ranks])
        axes.set_xlim(0.2, right + max(0.8, 0.01 * right))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("index, by magnitude")
        axes.set_ylabel(with_unit("|eigenvalue|", result, size[1]))
        set_title(axes, title, "Sorted eigenvalues")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower left", ncols=1 if is_narrow(size) else 2
        )
    return figure
