"""The spectra from which the ranks of H, GGN and functional Hessian were read."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from curvescope._core.predictions import PredictedRank
from curvescope.plots.magnitudes import (
    MATRIX_STYLES,
    Span,
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
    set_figure_title,
    with_unit,
)
from curvescope.results import RankEstimate, RankReport

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_rank_report(
    result: RankReport,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the sorted spectra with thresholds, and the predicted ranks as verticals.

    First the magnitudes of the eigenvalues of H with the predicted ranks of all three
    matrices; beside it the singular values of the functional Hessian and of the GGN (or
    of its factor, whichever the rank was read from), each with its own prediction.
    A vertical stands between the last index that it keeps and the first that it drops;
    dotted ones claim only an upper bound. Values that are exactly zero stand on the
    floor of the logarithmic axis. Each panel's heading tells rank, verdict, prediction
    and certificate.

    Args:
        result: The three ranks.
        size: Width and height in inches. Below 5 inches of width the panels stand one
            below the other.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_rank_report(ranks)  # doctest: +SKIP
    """
    size = size or rank_report_size(WIDE[0])
    with house_style():
        figure = new_figure(size)
        if is_narrow(size):
            panels = list(figure.subplots(3, 1))
        else:
            grid = figure.add_gridspec(2, 2, width_ratios=(1.15, 1))
            panels = [figure.add_subplot(place) for place in (grid[:, 0], grid[0, 1])]
            panels.append(figure.add_subplot(grid[1, 1]))
        for axes, name in zip(panels, MATRIX_STYLES, strict=True):
            _panel(axes, result, name, narrow=is_narrow(size))
        heading = f"Ranks of {result.of.description}" if title is None else title
        if heading:
            set_figure_title(figure, heading)
        _legend(figure, panels, size)
    return figure


def rank_report_size(width: float) -> tuple[float, float]:
    """Return the size at which all three panels can be read."""
    return (width, 8.6 if is_narrow((width, 0.0)) else 5.6)


def spectrum_panel(
    axes: Axes, rank: RankEstimate, values: np.ndarray, *, color: str, edge: str
) -> Span:
    """Draw what was kept, what was dropped and the threshold between them."""
    span = span_of(values, rank.tolerance if len(values) else 0.0)
    if len(values) == 0:
        note_inside(axes, "no singular values were computed")
    elif span.empty:
        note_inside(axes, f"all {len(values)} values are exactly zero")
    kept, dropped = values[: rank.rank], values[rank.rank :]
    draw_magnitudes(axes, kept, span, color=color, edge=edge, label="kept")
    if not span.empty:
        draw_magnitudes(
            axes,
            dropped,
            span,
            color="muted",
            label="dropped",
            first=len(kept) + 1,
            marker="s",
            hollow=True,
        )
    magnitudes_axis(axes, span, most=8)
    if not span.empty and span.low <= rank.tolerance <= span.high:
        axes.axhline(
            rank.tolerance,
            color=PALETTE["ink"],
            linestyle=(0, (4, 3)),
            linewidth=1.1,
            label="threshold",
        )
    axes.set_xlim(0.2, max(len(values), 1) + 0.8)
    return span


def rank_with_error(rank: RankEstimate) -> str:
    """Write a rank, with its error where it is an estimate."""
    error = f" \u00b1 {rank.standard_error:.2g}" if rank.standard_error else ""
    return f"{rank.rank}{error}"


def _values(result: RankReport, name: str) -> np.ndarray:
    if name == "hessian" and len(result.eigenvalues):
        return np.sort(np.abs(array(result.eigenvalues)))[::-1]
    return array(result.measured[name].singular_values)


def _panel(axes: Axes, result: RankReport, name: str, *, narrow: bool) -> None:
    require_matplotlib()
    from matplotlib.ticker import MaxNLocator

    rank, style = result.measured[name], MATRIX_STYLES[name]
    spectrum_panel(
        axes, rank, _values(result, name), color=style.color, edge=style.edge
    )
    own = [p for p in result.predictions if p.matrix == name]
    for prediction in result.predictions if name == "hessian" else own:
        _vertical(axes, prediction)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("index, by magnitude")
    quantity = "|eigenvalue|" if name == "hessian" else "singular value"
    if rank.method == "factor":
        axes.set_ylabel("singular value\nof the factor")
    elif name == "hessian" and not narrow:
        axes.set_ylabel(with_unit(quantity, result, 4.6))
    else:
        axes.set_ylabel(quantity)
    comparison = f"{rank.verdict}; {_comparison(rank, own)}"
    words = textwrap.fill(comparison, width=38)
    heading = f"{style.name}: rank {rank_with_error(rank)}\n{words}"
    axes.set_title(heading, fontsize=8.5, fontweight="normal", pad=6.0)


def _comparison(rank: RankEstimate, own: list[PredictedRank]) -> str:
    parts = []
    for prediction in own:
        claim = "" if prediction.claim == "equal" else "at most "
        differs = "" if prediction.agrees(rank.rank) else ": differs"
        parts.append(f"predicted {claim}{prediction.value}{differs}")
    if not own:
        parts.append("no prediction")
    if rank.certified is not None:
        parts.append(f"exact {rank.certified}")
    if math.isfinite(rank.gap) and rank.gap > 0:
        # A space that no line breaks at.
        parts.append(f"gap\u00a0{rank.gap:.2g}")
    return ", ".join(parts)


def _vertical(axes: Axes, prediction: PredictedRank) -> None:
    style = MATRIX_STYLES[prediction.matrix]
    equal = prediction.claim == "equal"
    place = prediction.value + 0.5
    claim = "" if equal else "at most "
    axes.axvline(
        place,
        color=PALETTE[style.edge],
        linewidth=1.3,
        linestyle="-" if equal else (0, (1.2, 1.6)),
        label=f"predicted: {style.name} {claim}{prediction.value}",
        zorder=1.8,
    )
    low, high = axes.get_xlim()
    # A ceiling may lie far outside: it must not press the values into a corner.
    if equal:
        axes.set_xlim(low, max(high, place + 0.02 * (place - low)))
    else:
        axes.set_xlim(low, high)


def _neutral(handle: Any) -> Artist:
    """Return the same mark without a matrix's colour."""
    from matplotlib.lines import Line2D

    hollow = handle.get_markerfacecolor() == PALETTE["surface"]
    return Line2D(
        [],
        [],
        linestyle=handle.get_linestyle(),
        linewidth=handle.get_linewidth(),
        marker=handle.get_marker(),
        markersize=4.6,
        color=PALETTE["muted"],
        markerfacecolor=PALETTE["surface" if hollow else "muted"],
    )


def _legend(figure: Figure, panels: list[Axes], size: tuple[float, float]) -> None:
    """Explain verticals in colour, and the marks once for all panels."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label.endswith("exactly zero"):
                label = "exactly zero"
            elif label.endswith("below the axis"):
                label = "zero, or below the axis"
            if label in ("kept", "dropped", "exactly zero", "zero, or below the axis"):
                handle = _neutral(handle)
            entries.setdefault(label, handle)
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower left",
        ncols=1 if is_narrow(size) else 3,
    )
