"""Ranks along samples, width, depth or training: lines measured, dots predicted."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from curvescope._core.checks import message
from curvescope.plots.magnitudes import MATRIX_STYLES, MatrixStyle
from curvescope.plots.style import (
    BAND_ALPHA,
    PALETTE,
    WIDE,
    house_style,
    is_narrow,
    new_figure,
    require_matplotlib,
    set_title,
)
from curvescope.results import RankSweep

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Band = Literal["range", "quartiles"]

_AXIS_LABELS = {
    "num_samples": "number of samples n",
    "width": "width of the hidden layers",
    "depth": "number of hidden layers",
    "epoch": "epoch",
}
# As published: raw ranks against samples, ranks per parameter against width and depth.
_NORMALISED = ("width", "depth")
_DASHES = (0, (4.0, 2.0))
_CEILING = (0, (2.0, 1.6))
_DASH_DOT = (0, (6.0, 1.5, 1.0, 1.5))
_QUANTILES = {"range": (0.0, 1.0), "quartiles": (0.25, 0.75)}


def plot_rank_sweep(
    result: RankSweep,
    *,
    normalise: bool | None = None,
    band: Band = "range",
    x_label: str | None = None,
    size: tuple[float, float] = WIDE,
    title: str | None = None,
) -> Figure:
    """Draw measured ranks as lines and predicted ones as dots, a colour a matrix.

    Of several seeds the line is the mean, with a band. A prediction that claims only
    an upper bound is a dashed ceiling, not a dot. Where a rank is undetermined its
    place is ringed by a hollow mark; where the exact (certified) rank differs from the
    measured one, it has a cross. Against epochs the exact rank of H is a line of its
    own and the rank of the GGN, to which that of H may fall, is dashed.

    Args:
        result: The sweep.
        normalise: Whether ranks are divided by the number of parameters; by default
            what the sweep's settings ask for, or, as published, against width and depth
            only.
        band: ``"range"`` from lowest to highest seed, or ``"quartiles"``.
        x_label: The x axis' label; by default it follows from the sweep's axis.
        size: Width and height in inches.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        ValueError: If ``band`` is unknown, or ``normalise`` is asked of records without
            ``num_params``.
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_rank_sweep(sweep, normalise=False)  # doctest: +SKIP

    References:
        Singh, Bachmann, Hofmann (2021), arXiv:2106.16225; colours and axes as in the
        published code.
    """
    if band not in _QUANTILES:
        raise ValueError(message("band", "be 'range' or 'quartiles'", repr(band)))
    if normalise is None:
        normalise = result.settings.get("normalise", result.axis in _NORMALISED)
    if normalise and any(not record.get("num_params") for record in result.records):
        contract = "be False where records hold no `num_params`"
        raise ValueError(message("normalise", contract, "True"))
    found = [_series(result, name, normalise=normalise) for name in MATRIX_STYLES]
    series = [one for one in found if one is not None]
    with house_style():
        figure = new_figure(size)
        axes = figure.add_subplot()
        meanings: dict[str, Artist] = {}
        for one in series:
            _draw(axes, one, band, result.axis, meanings)
        _set_axes(axes, result, series, normalise=normalise, narrow=is_narrow(size))
        label = x_label or _x_label(result)
        axes.set_xlabel(label)
        axes.set_ylabel("rank / number of parameters" if normalise else "rank")
        words = f"Ranks: {result.of.description}" if result.of.num_params else "Ranks"
        default = textwrap.fill(words, width=int(9.0 * size[0]))
        set_title(axes, title, default)
        _legend(figure, axes, meanings, size)
    return figure


@dataclass(frozen=True)
class _Series:
    """One matrix along the axis; every field a list of points, one a record."""

    style: MatrixStyle
    key: str
    measured: list[tuple[float, float]]
    predicted: list[tuple[float, float]]
    ceilings: list[tuple[float, float]]
    undetermined: list[tuple[float, float]]
    certified: list[tuple[float, float]]
    differing: list[tuple[float, float]]

    def by_place(self) -> dict[float, list[float]]:
        return _grouped(self.measured)


def _grouped(points: list[tuple[float, float]]) -> dict[float, list[float]]:
    places: dict[float, list[float]] = {}
    for x, y in sorted(points):
        places.setdefault(x, []).append(y)
    return places


def _series(result: RankSweep, name: str, *, normalise: bool) -> _Series | None:
    def point(record: Mapping[str, Any], kind: str) -> tuple[float, float] | None:
        value = record.get(f"{name}_{kind}")
        if value is None or not math.isfinite(value):
            return None
        unit = float(record["num_params"]) if normalise else 1.0
        return float(record[result.axis]), float(value) / unit

    fields = (
        "measured",
        "predicted",
        "ceilings",
        "undetermined",
        "certified",
        "differing",
    )
    found: dict[str, list[tuple[float, float]]] = {field: [] for field in fields}
    for record in result.records:
        measured, certified = point(record, "rank"), point(record, "certified")
        predicted = point(record, "predicted")
        if measured is not None:
            found["measured"].append(measured)
            if record.get(f"{name}_verdict") == "undetermined":
                found["undetermined"].append(measured)
        if certified is not None:
            found["certified"].append(certified)
            if certified != measured:
                found["differing"].append(certified)
        if predicted is not None:
            at_most = record.get(f"{name}_claim") == "at_most"
            found["ceilings" if at_most else "predicted"].append(predicted)
    if not any(found.values()):
        return None
    return _Series(style=MATRIX_STYLES[name], key=name, **found)


def _draw(
    axes: Axes, one: _Series, band: Band, axis: str, meanings: dict[str, Artist]
) -> None:
    """Draw one matrix, and note in ``meanings`` what kinds of mark were needed."""
    style = one.style
    color, edge = PALETTE[style.color], PALETTE[style.edge]
    crowded = len(one.by_place()) > 40
    _draw_measured(axes, one, band, axis, meanings)
    if one.ceilings:
        # Of several seeds the highest: a ceiling for all of them.
        highest = {x: max(ys) for x, ys in _grouped(one.ceilings).items()}
        ceiling = _padded(list(highest), list(highest.values()))
        axes.plot(
            *ceiling,
            linestyle=_CEILING,
            linewidth=1.3,
            color=edge,
            label=f"_{one.key} ceiling",
            zorder=2.5,
        )
        meanings["predicted: at most"] = _proxy(linestyle=_CEILING, width=1.3)
    if axis == "epoch" and one.certified and (one.differing or one.key == "hessian"):
        exact = {x: float(np.mean(ys)) for x, ys in _grouped(one.certified).items()}
        axes.plot(
            *_padded(list(exact), list(exact.values())),
            linestyle=_DASH_DOT,
            linewidth=1.6,
            color=edge,
            label=f"_{one.key} certified",
            zorder=2.4,
        )
        meanings["exact (certified)"] = _proxy(linestyle=_DASH_DOT, width=1.6)
    elif one.differing:
        _marks(axes, one.differing, "X", 7.5, color, edge, f"_{one.key} certified", 4.2)
        meanings["exact (certified), where it differs"] = _proxy(marker="X", size=7.0)
    if one.predicted:
        dots = sorted(set(one.predicted))
        small = 2.6 if crowded else 5.2 if style.marker == "o" else 4.6
        _marks(axes, dots, style.marker, small, color, edge, f"_{one.key} predicted", 4)
        meanings["predicted"] = _proxy(marker="o", size=5.2)
    if one.undetermined:
        label = f"_{one.key} undetermined"
        _marks(axes, one.undetermined, "o", 10.0, "none", edge, label, 4.4)
        meanings["undetermined"] = _proxy(marker="o", size=9.0, face="none")


def _draw_measured(
    axes: Axes, one: _Series, band: Band, axis: str, meanings: dict[str, Artist]
) -> None:
    from matplotlib.patches import Patch
    from matplotlib.patheffects import Normal, withStroke

    style, places = one.style, one.by_place()
    if not places:
        return
    color, edge = PALETTE[style.color], PALETTE[style.edge]
    x = np.array(list(places))
    dashed = axis == "epoch" and one.key == "ggn"
    axes.plot(
        x,
        [float(np.mean(ys)) for ys in places.values()],
        color=color,
        linewidth=style.width,
        linestyle=_DASHES if dashed else "-",
        # A line through one point is nothing to see: the point gets a bar.
        marker="_" if len(x) == 1 else "",
        markersize=20,
        markeredgewidth=style.width,
        path_effects=[
            withStroke(linewidth=style.width + 1.3, foreground=edge),
            Normal(),
        ],
        label=style.name,
        zorder=3,
    )
    seeds = max(len(ys) for ys in places.values())
    if seeds == 1:
        meanings.setdefault("measured", _proxy(linestyle="-", width=2.2))
        return
    low, high = (
        np.array([np.quantile(ys, q) for ys in places.values()])
        for q in _QUANTILES[band]
    )
    axes.fill_between(
        *_padded(list(x), list(low)),
        _padded(list(x), list(high))[1],
        color=color,
        alpha=BAND_ALPHA,
        linewidth=0.0,
        label=f"_{one.key} band",
    )
    meanings[f"measured, mean of {seeds} seeds"] = _proxy(linestyle="-", width=2.2)
    words = "lowest to highest" if band == "range" else "middle half"
    meanings[f"{words} of {seeds} seeds"] = Patch(
        facecolor=PALETTE["muted"], alpha=BAND_ALPHA, linewidth=0.0
    )


def _padded(x: list[float], y: list[float]) -> tuple[list[float], list[float]]:
    """Give a line or band at a single place a little breadth."""
    if len(x) != 1:
        return x, y
    return [x[0] - 0.25, x[0] + 0.25], [y[0], y[0]]


def _marks(
    axes: Axes,
    points: list[tuple[float, float]],
    marker: str,
    size: float,
    face: str,
    edge: str,
    label: str,
    zorder: float,
) -> None:
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        linestyle="none",
        marker=marker,
        markersize=size,
        markerfacecolor=face,
        markeredgecolor=edge,
        markeredgewidth=1.0,
        label=label,
        zorder=zorder,
    )


def _proxy(
    *,
    linestyle: Any = "none",
    width: float = 1.0,
    marker: str = "",
    size: float = 5.0,
    face: str | None = None,
) -> Artist:
    """Return a colourless mark for the legend: it means the same for every matrix."""
    from matplotlib.lines import Line2D

    return Line2D(
        [],
        [],
        linestyle=linestyle,
        linewidth=width,
        marker=marker,
        markersize=size,
        color=PALETTE["muted"],
        markerfacecolor=face or PALETTE["muted"],
    )


def _x_label(result: RankSweep) -> str:
    hidden = [tuple(r.get("widths") or ())[1:-1] for r in result.records]
    if result.axis == "width" and any(len(set(widths)) > 1 for widths in hidden):
        return "minimal width"
    return _AXIS_LABELS.get(result.axis, result.axis)


def _set_axes(
    axes: Axes,
    result: RankSweep,
    series: list[_Series],
    *,
    normalise: bool,
    narrow: bool,
) -> None:
    require_matplotlib()
    from matplotlib.ticker import MaxNLocator

    points = [
        point
        for one in series
        for group in (one.measured, one.predicted, one.ceilings, one.certified)
        for point in group
    ]
    top = max((y for _, y in points), default=0.0) or 1.0
    axes.set_ylim(-0.04 * top, 1.07 * top)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=not normalise))
    places = sorted({float(record[result.axis]) for record in result.records})
    if not places:
        return
    breadth = places[-1] - places[0]
    pad = 0.04 * breadth or 1.0
    axes.set_xlim(places[0] - pad, places[-1] + pad)
    most = 6 if narrow else 12
    steps = np.diff(places)
    even = bool(np.allclose(steps, steps[:1]))
    if (len(places) <= most and breadth <= 30 * min(steps, default=1.0)) or even:
        ticks = places[:: math.ceil(len(places) / most)]
        axes.set_xticks(ticks, labels=[f"{x:g}" for x in ticks])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(most, integer=True))


def _legend(
    figure: Figure,
    axes: Axes,
    meanings: Mapping[str, Artist],
    size: tuple[float, float],
) -> None:
    handles, labels = axes.get_legend_handles_labels()
    entries = [*zip(labels, handles, strict=True), *meanings.items()]
    if entries:
        figure.legend(
            [handle for _, handle in entries],
            [label for label, _ in entries],
            loc="outside lower left",
            ncols=1 if is_narrow(size) else 3,
        )
