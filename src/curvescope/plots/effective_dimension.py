"""The effective dimension as a curve over z."""

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
    matrix_name,
    new_figure,
    set_title,
    with_unit,
)
from curvescope.results import EffectiveDimension

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_METHODS = {
    "exact": "from all eigenvalues",
    "factors": "from all singular values of the factors",
    "slq": "stochastic Lanczos quadrature",
    "lower_bound": "lower bound from the top eigenvalues",
}


def plot_effective_dimension(
    result: EffectiveDimension,
    *,
    size: tuple[float, float] = WIDE,
    title: str | None = None,
) -> Figure:
    r"""Draw the effective dimension over ``z``, with its 95 % band.

    .. math:: N_{\mathrm{eff}}(z) = \sum_i \frac{\lambda_i}{\lambda_i + z}

    The vertical axis is linear, and logarithmic where the values span more than two
    decades.

    Args:
        result: The curve; a single ``z`` is drawn as a point with its interval.
        size: Width and height in inches.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_effective_dimension(n_eff)  # doctest: +SKIP

    References:
        Maddox, Benton & Wilson (2020), arXiv:2003.02139, Eq. (3).
    """
    with house_style():
        figure = new_figure(size)
        axes = figure.add_subplot()
        _draw_curve(axes, result)
        axes.set_xlabel(with_unit("z", result, size[0]))
        bound = " (lower bound)" if result.method == "lower_bound" else ""
        axes.set_ylabel(f"effective dimension{bound}")
        default = f"Effective dimension of {matrix_name(result)}"
        set_title(axes, title, default)
        axes.legend(loc="upper right")
    return figure


def _draw_curve(axes: Axes, result: EffectiveDimension) -> None:
    z, values = array(result.z), array(result.values)
    low, high = (array(part) for part in result.band())
    label = _METHODS.get(result.method, result.method)
    lower = values[values > 0]
    logarithmic = lower.size > 0 and float(values.max()) > 100 * float(lower.min())
    floor = float(lower.min()) / 2 if logarithmic else 0.0
    uncertain = bool((high > low).any())
    band = "95 % band"
    if result.upper_bounds is not None:
        # What is not known may be infinite, and leaves the axis that shows what is.
        high = np.minimum(high, 4.0 * float(values.max()) or 1.0)
        band = "up to the upper bound"
    if len(z) == 1:
        axes.errorbar(
            z,
            values,
            yerr=[values - low, high - values],
            marker="o",
            color=PALETTE["blue"],
            capsize=4,
            label=f"{label}, {band.replace('band', 'interval')}"
            if uncertain
            else label,
        )
        log_axis(axes, "x", low=float(z[0]) / 10, high=float(z[0]) * 10)
    else:
        if uncertain:
            axes.fill_between(
                z,
                np.maximum(low, floor),
                np.maximum(high, floor),
                color=PALETTE["blue"],
                alpha=BAND_ALPHA,
                linewidth=0,
                label=band,
            )
        marker = "o" if len(z) <= 15 else ""
        axes.plot(
            z, values, color=PALETTE["blue"], marker=marker, markersize=4, label=label
        )
        log_axis(axes, "x", low=float(z[0]), high=float(z[-1]))
    if logarithmic:
        log_axis(axes, "y", low=floor, high=1.4 * float(high.max()), most=7)
    else:
        bounded = result.upper_bounds is not None
        top = 1.7 * float(values.max()) if bounded else 1.12 * float(high.max())
        axes.set_ylim(0.0, top or 1.0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
