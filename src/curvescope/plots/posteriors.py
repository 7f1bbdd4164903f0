"""Posteriors of a linear model and of a network, predictions under them, evidence."""

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
    set_title,
)
from curvescope.results import (
    EvidenceFit,
    LaplacePosterior,
    LinearPosterior,
    Predictive,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = (0, (4.0, 2.0))
# Eigenvalues this many times below the largest are rounding.
_DECADES = 1e-17
_MOST_MARKERS = 60
_COLORS = ("blue", "vermilion", "green", "purple", "hessian-edge", "ggn-edge")
_MARKERS = ("o", "s", "^", "D", "v", "P")
# Of a normal distribution's 95 % interval.
_DEVIATIONS = 1.96


def plot_posterior(
    result: LinearPosterior | LaplacePosterior,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw what data say of each direction against the prior, and how far it contracted.

    Left the eigenvalues of the likelihood's Hessian with the prior's precision as a
    line; right the posterior's variance as a part of the prior's, which is a half where
    an eigenvalue crosses that line.

    Args:
        result: The posterior.
        size: Width and height in inches; below 5 inches of width the panels stand one
            above the other.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_posterior(posterior)  # doctest: +SKIP
    """
    size = size or posterior_size(result, WIDE[0])
    linear = isinstance(result, LinearPosterior)
    precision = (
        1.0 / result.prior_variance
        if isinstance(result, LinearPosterior)
        else result.prior_precision
    )
    values = array(result.eigenvalues)
    left_out = 0 if linear else _left_out(result)
    with house_style():
        figure = new_figure(size)
        shape = (2, 1) if is_narrow(size) else (1, 2)
        left, right = figure.subplots(*shape)
        _draw_eigenvalues(left, values, precision)
        whole = "its area is N_eff" if not left_out else "its area is part of N_eff"
        _draw_variances(right, values, precision, whole)
        for axes in (left, right):
            _rank_axis(axes, len(values), left_out)
        matrix = "Phi'Phi / noise" if linear else "the GGN"
        left.set_ylabel(f"eigenvalue of {matrix}")
        right.set_ylabel("posterior / prior variance")
        handles = [h for axes in (left, right) for h in _handles(axes)]
        columns = 1 if is_narrow(size) else 2
        figure.legend(handles=handles, loc="outside lower left", ncols=columns)
        kind = "linear model" if linear else "network, by Laplace"
        text = f"Posterior of a {kind}" if title is None else title
        if text:
            set_figure_title(figure, text)
    return figure


def posterior_size(
    result: LinearPosterior | LaplacePosterior, width: float
) -> tuple[float, float]:
    """Return the size at which the panels can be read."""
    del result
    return (width, 6.8 if is_narrow((width, 0.0)) else 3.9)


def _left_out(result: LinearPosterior | LaplacePosterior) -> int:
    return result.num_left_out if isinstance(result, LaplacePosterior) else 0


def _draw_eigenvalues(axes: Axes, values: np.ndarray, precision: float) -> None:
    floor = _DECADES * max(float(values.max(initial=0.0)), precision)
    kept = values > floor
    places = np.arange(1, len(values) + 1)
    axes.axhline(
        precision,
        color=PALETTE["muted"],
        linestyle=_DASHES,
        label="precision of the prior",
    )
    axes.plot(
        places[kept],
        values[kept],
        color=PALETTE["green"],
        marker=_marker(len(values)),
        markersize=3.5,
        label="eigenvalue, descending",
    )
    shown = np.append(values[kept], precision)
    log_axis(axes, "y", low=shown.min() / 2.0, high=shown.max() * 2.0, most=7)


def _draw_variances(
    axes: Axes, values: np.ndarray, precision: float, words: str
) -> None:
    places = np.arange(1, len(values) + 1)
    shares = precision / (values + precision)
    axes.fill_between(
        places,
        shares,
        1.0,
        color=PALETTE["vermilion"],
        alpha=BAND_ALPHA,
        linewidth=0,
        label=f"contraction: {words}",
    )
    axes.plot(
        places,
        shares,
        color=PALETTE["vermilion"],
        marker=_marker(len(values)),
        markersize=3.5,
        label="posterior variance",
    )
    axes.set_ylim(-0.03, 1.05)


def _marker(count: int) -> str | None:
    return "o" if count <= _MOST_MARKERS else None


def _rank_axis(axes: Axes, count: int, left_out: int) -> None:
    axes.set_xlim(0.5, max(count, 1) + 0.5)
    words = f"direction ({left_out:,} more left out)" if left_out else "direction"
    axes.set_xlabel(words)
    _whole_numbers(axes)


def _whole_numbers(axes: Axes) -> None:
    """Put the ticks below at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))


def _handles(axes: Axes) -> list:
    handles: list = axes.get_legend_handles_labels()[0]
    return handles


def plot_predictive(
    result: Predictive,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the function's mean and 95 % interval at each input, one colour an output.

    Where eigenpairs were left out the interval is an upper bound; its dashed lines are
    the narrowest that it may be.

    Args:
        result: The predictions.
        size: Width and height in inches.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_predictive(predictions)  # doctest: +SKIP
    """
    size = size or WIDE
    means, variances = array(result.mean), array(result.variance)
    slack = array(result.covariance_slack)[:, None]
    high = _DEVIATIONS * np.sqrt(variances)
    low = _DEVIATIONS * np.sqrt(np.clip(variances - slack, 0.0, None))
    count, outputs = means.shape
    shown = min(outputs, len(_COLORS))
    with house_style():
        figure = new_figure(size)
        axes = figure.subplots()
        for k in range(shown):
            # Side by side, so that error bars do not hide one another.
            places = np.arange(1, count + 1) + 0.6 * ((k + 0.5) / shown - 0.5)
            color, label = PALETTE[_COLORS[k]], f"output {k}"
            if count > _MOST_MARKERS:
                _draw_band(
                    axes, places, means[:, k], high[:, k], low[:, k], color, label
                )
                continue
            axes.errorbar(
                places,
                means[:, k],
                yerr=high[:, k],
                linestyle="none",
                capsize=2.5,
                label=label,
                color=color,
                marker=_MARKERS[k],
                markersize=4.0,
            )
            if bool((slack > 0.0).any()):
                axes.errorbar(
                    places,
                    means[:, k],
                    yerr=low[:, k],
                    linestyle="none",
                    elinewidth=3.5,
                    color=color,
                    alpha=0.45,
                )
        axes.set_xlabel("input, in the order given")
        _whole_numbers(axes)
        axes.set_xlim(0.4, count + 0.6)
        axes.set_ylabel("function value")
        if outputs > 1:
            columns = 3 if is_narrow(size) else 6
            figure.legend(loc="outside lower left", ncols=columns)
        more = f", first {shown} of {outputs} outputs" if shown < outputs else ""
        set_title(axes, title, f"Function under the posterior{more}")
    return figure


def _draw_band(
    axes: Axes,
    places: np.ndarray,
    mean: np.ndarray,
    high: np.ndarray,
    low: np.ndarray,
    color: str,
    label: str,
) -> None:
    axes.fill_between(
        places, mean - high, mean + high, color=color, alpha=BAND_ALPHA, linewidth=0
    )
    axes.plot(places, mean, color=color, label=label)
    if bool((low < high).any()):
        for edge in (mean - low, mean + low):
            axes.plot(places, edge, color=color, linestyle=_DASHES, linewidth=0.9)


def plot_evidence_fit(
    result: EvidenceFit,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the log evidence, and both variances, update by update.

    Args:
        result: The fit.
        size: Width and height in inches; below 5 inches of width the panels stand one
            above the other.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_evidence_fit(fit)  # doctest: +SKIP
    """
    size = size or evidence_size(result, WIDE[0])
    steps = np.arange(len(result.log_evidences))
    with house_style():
        figure = new_figure(size)
        shape = (2, 1) if is_narrow(size) else (1, 2)
        left, right = figure.subplots(*shape)
        marker = _marker(len(steps))
        evidences = array(result.log_evidences)
        line = {"marker": marker, "markersize": 3.5}
        left.plot(steps, evidences, color=PALETTE["green"], **line)
        left.set_ylabel("log evidence (nats)")
        every = []
        for name, color, dashes in (
            ("prior", "blue", "-"),
            ("noise", "vermilion", (0, (1.2, 1.2))),
        ):
            variances = array(getattr(result, f"{name}_variances"))
            every.append(variances)
            style = {"color": PALETTE[color], "linestyle": dashes, **line}
            right.plot(steps, variances, label=f"{name} variance", **style)
        both = np.concatenate(every)
        log_axis(right, "y", low=both.min() / 1.5, high=both.max() * 1.5, most=7)
        right.set_ylabel("variance")
        for axes in (left, right):
            axes.set_xlabel("update")
            _whole_numbers(axes)
        figure.legend(loc="outside lower left", ncols=2)
        text = "Evidence, update by update" if title is None else title
        if text:
            set_figure_title(figure, text)
    return figure


def evidence_size(result: EvidenceFit, width: float) -> tuple[float, float]:
    """Return the size at which the panels can be read."""
    del result
    return (width, 6.4 if is_narrow((width, 0.0)) else 3.7)
