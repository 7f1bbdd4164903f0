"""Singular values with the gap that a rank was read from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from curvescope.plots.rank_report import rank_with_error, spectrum_panel
from curvescope.plots.style import (
    PALETTE,
    WIDE,
    array,
    house_style,
    is_narrow,
    matrix_name,
    new_figure,
    require_matplotlib,
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

    Values that are exactly zero stand on the floor of the logarithmic axis. Where there
    is a certificate, a vertical line stands after as many values as the exact rank.

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
    require_matplotlib()
    from matplotlib.ticker import MaxNLocator

    values = array(result.singular_values)
    with house_style():
        figure = new_figure(size)
        axes = figure.add_subplot()
        spectrum_panel(axes, result, values, color="blue", edge="blue")
        if result.certified is not None:
            axes.axvline(
                result.certified + 0.5,
                color=PALETTE["purple"],
                linewidth=1.3,
                label=f"exact rank {result.certified}",
                zorder=1.8,
            )
            axes.set_xlim(right=max(axes.get_xlim()[1], result.certified + 0.8))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("index")
        of_factor = " of the factor" if result.method == "factor" else ""
        axes.set_ylabel(with_unit(f"singular value{of_factor}", result, size[1]))
        rank = f"Rank {rank_with_error(result)}"
        name = "" if is_narrow(size) else f" of {matrix_name(result)}"
        set_title(axes, title, f"{rank}{name} ({result.verdict})")
        handles, labels = axes.get_legend_handles_labels()
        labels = [
            {
                "kept": f"{result.rank} kept",
                "dropped": f"{len(values) - result.rank} dropped",
                "threshold": f"threshold {result.tolerance:.2g}",
            }.get(label, label)
            for label in labels
        ]
        figure.legend(
            handles, labels, loc="outside lower left", ncols=2 if is_narrow(size) else 4
        )
    return figure
