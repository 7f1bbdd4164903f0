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
from curvescope.results import DimensionBounds, EffectiveDimension

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
    decades. Bounds from certified eigenpairs, where the result has them, are lines: the
    axis follows the estimate, and an upper bound that says little leaves it.

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


def plot_dimension_bounds(
    result: DimensionBounds,
    *,
    size: tuple[float, float] = WIDE,
    title: str | None = None,
) -> Figure:
    """Draw what certified eigenpairs bound of an effective dimension, over ``z``.

    Args:
        result: By `dimension_bounds`.
        size: Width and height in inches.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_dimension_bounds(bounds)  # doctest: +SKIP
    """
    with house_style():
        figure = new_figure(size)
        axes = figure.add_subplot()
        _draw_bounds(axes, result)
        z, high = array(result.z), array(result.upper)
        log_axis(
            axes,
            "x",
            low=float(z[0]) / (10 if len(z) == 1 else 1),
            high=float(z[-1]) * (10 if len(z) == 1 else 1),
        )
        low = array(result.lower)[array(result.lower) > 0]
        if low.size and float(high.max()) > 100 * float(low.min()):
            log_axis(
                axes,
                "y",
                low=float(low.min()) / 2,
                high=1.4 * float(high.max()),
                most=7,
            )
        else:
            axes.set_ylim(0.0, 1.12 * float(high.max()) or 1.0)
        axes.set_xlabel(with_unit("z", result, size[0]))
        axes.set_ylabel("effective dimension")
        set_title(axes, title, f"Bounds for {matrix_name(result)}")
        axes.legend(loc="best")
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
    bounds = result.bounds
    if bounds is not None:
        _draw_bounds(axes, bounds)
        high = np.maximum(high, array(bounds.lower))
        seen = array(bounds.lower)[array(bounds.lower) > 0]
        floor = min([floor, *seen / 2]) if logarithmic else floor
    if logarithmic:
        log_axis(axes, "y", low=floor, high=1.4 * float(high.max()), most=7)
    else:
        bounded = result.upper_bounds is not None
        top = 1.7 * float(values.max()) if bounded else 1.12 * float(high.max())
        axes.set_ylim(0.0, top or 1.0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")


def _draw_bounds(axes: Axes, bounds: DimensionBounds) -> None:
    """Draw what certified pairs bound, as lines, or as marks where z is one number."""
    z = array(bounds.z)
    named = {
        "nothing": "upper bound",
        "number": "upper bound: none of the others is larger",
        "sum": "upper bound: the trace",
    }
    lines = (
        (
            bounds.lower,
            "vermilion",
            "--",
            "^",
            f"lower bound: {bounds.num_pairs} pairs",
        ),
        (bounds.upper, "green", ":", "v", named[bounds.upper_from]),
    )
    for values, colour, style, marker, label in lines:
        axes.plot(
            z,
            array(values),
            color=PALETTE[colour],
            linestyle=style,
            marker=marker if len(z) <= 15 else "",
            markersize=5,
            label=label,
        )
