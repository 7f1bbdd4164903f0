"""A posterior's effective dimensions against the number of observations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

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
from curvescope.results import PosteriorContraction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = (0, (4.0, 2.0))
# Where the largest number of observations is this many times the smallest but one, the
# axis is logarithmic.
_LOGARITHMIC = 100.0


def plot_contraction(
    result: PosteriorContraction,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the parameters' covariance on the left, what the data determine on the right.

    Lines are means over the draws, bands reach from the lowest to the highest one.

    Args:
        result: The curves.
        size: Width and height in inches; below 5 inches of width the panels stand one
            above the other.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_contraction(contraction)  # doctest: +SKIP

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, figure 4.
    """
    size = size or contraction_size(result, WIDE[0])
    matrix = "Hessian" if result.model == "linear" else "GGN"
    with house_style():
        figure = new_figure(size)
        shape = (2, 1) if is_narrow(size) else (1, 2)
        left, right = figure.subplots(*shape)
        x = array(result.num_observations)
        left.axhline(
            result.prior_dimension,
            color=PALETTE["muted"],
            linestyle=_DASHES,
            label="before any data",
        )
        words = "parameter covariance"
        _draw(left, x, result.parameter_dimension, "vermilion", "-", words)
        if result.function_dimension is not None:
            words = "function covariance"
            _draw(left, x, result.function_dimension, "blue", (0, (1.2, 1.2)), words)
        _draw_sampling(left, x, result)
        left.set_ylabel(f"N_eff of the covariance, z = {result.z:g}")
        sampled = result.posterior == "nuts"
        words = (
            "prior less posterior variance" if sampled else f"{matrix} at the prior's"
        )
        words += ", in all" if sampled else " precision"
        _draw(right, x, result.effective_dimension, "green", "-", words)
        right.set_ylabel(
            "determined parameters" if sampled else f"N_eff of the {matrix}"
        )
        for axes in (left, right):
            _set_axis(axes, x)
        handles = [*left.get_lines(), *right.get_lines()]
        columns = 1 if is_narrow(size) else 2
        figure.legend(handles=handles, loc="outside lower left", ncols=columns)
        text = f"Posterior contraction of a {_kind(result)}" if title is None else title
        if text:
            set_figure_title(figure, text)
    return figure


def _kind(result: PosteriorContraction) -> str:
    if result.model == "linear":
        return "linear model"
    return f"network, by {'NUTS' if result.posterior == 'nuts' else 'Laplace'}"


def _draw_sampling(axes: Axes, x: np.ndarray, result: PosteriorContraction) -> None:
    """Draw what the same samples give in other ways."""
    published = result.published_curve()
    if published is None:
        return
    axes.axhline(
        result.independent_prior_dimension,
        color=PALETTE["muted"],
        linestyle=(0, (1.2, 1.2)),
        label="before any data, so many samples",
    )
    words = "the published way: not centred"
    _draw(axes, x, published, "purple", (0, (4.0, 1.5, 1.2, 1.5)), words)
    half = result.half_curve()
    assert half is not None
    _draw(axes, x, half, "ggn-edge", (0, (1.2, 1.2)), "by the first half of each chain")


def contraction_size(result: PosteriorContraction, width: float) -> tuple[float, float]:
    """Return the size at which the panels can be read."""
    more = 0.25 * 3 if result.chains else 0.0
    return (width, (6.6 if is_narrow((width, 0.0)) else 3.9) + more)


def _draw(
    axes: Axes, x: np.ndarray, curve: Tensor, color: str, dashes: object, label: str
) -> None:
    values = array(curve)
    if len(values) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        axes.fill_between(
            x, low, high, color=PALETTE[color], alpha=BAND_ALPHA, linewidth=0
        )
    marker = "o" if len(x) <= 30 else None
    axes.plot(
        x,
        values.mean(axis=0),
        color=PALETTE[color],
        linestyle=dashes,
        marker=marker,
        markersize=3.5,
        label=label,
    )


def _set_axis(axes: Axes, x: np.ndarray) -> None:
    if len(x) > 1 and x[-1] / x[0] >= _LOGARITHMIC and len(x) <= 30:
        log_axis(axes, "x", low=float(x[0]) / 1.15, high=float(x[-1]) * 1.15, most=5)
    axes.set_xlabel("number of observations")
