"""Random features: errors on the left axis, what is undetermined on the right one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from curvescope.plots.style import (
    BAND_ALPHA,
    PALETTE,
    WIDE,
    array,
    house_style,
    is_narrow,
    new_figure,
    set_title,
)
from curvescope.results import RandomFeaturesCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Where the published figure changes its colour: 175 and 225 features of 200 samples.
_MARGIN = 1.0 / 8.0
_REGIMES = (("vermilion", "d < n"), ("muted", "d \u2248 n"), ("green", "d > n"))
_REGIME_ALPHA = 0.07
_DASHES = (0, (4.0, 2.0))


def plot_random_features(
    result: RandomFeaturesCurve,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw errors and undetermined dimension against the number of features.

    Of several draws the line is the mean, and the band reaches from the lowest to the
    highest draw. The grounds are the published regimes.

    Args:
        result: The curve.
        size: Width and height in inches.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_random_features(curve)  # doctest: +SKIP

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, whose right axis is labelled
        effective dimensionality.
    """
    size = size or random_features_size(result, WIDE[0])
    with house_style():
        figure = new_figure(size)
        errors = figure.add_subplot()
        dimension = errors.twinx()
        x = array(result.num_features)
        _draw(errors, x, result.test_error, "blue", "-", "test error")
        _draw(errors, x, result.train_error, "vermilion", _DASHES, "train error")
        words = "undetermined dimension (right)"
        curve = result.undetermined_dimension
        _draw(dimension, x, curve, "green", (0, (1.2, 1.2)), words)
        _regimes(errors, x, result.num_samples, narrow=is_narrow(size))
        for axes in (errors, dimension):
            # The names of the regimes stand above the peak.
            axes.set_ylim(0.0, 1.06 * axes.get_ylim()[1])
        dimension.grid(visible=False)
        dimension.spines["right"].set_visible(True)
        errors.set_xlabel("number of features d")
        errors.set_ylabel("relative error")
        label = "undetermined dimension\nmin(n, d) \u2212 N_eff"
        dimension.set_ylabel(label, color=PALETTE["green"])
        dimension.tick_params(axis="y", labelcolor=PALETTE["green"])
        text = f"Double descent of random features, n = {result.num_samples}"
        set_title(errors, title, text)
        figure.legend(
            handles=[*errors.get_lines(), *dimension.get_lines()],
            loc="outside lower left",
            ncols=1 if is_narrow(size) else 3,
        )
    return figure


def random_features_size(
    result: RandomFeaturesCurve, width: float
) -> tuple[float, float]:
    """Return a size with room for the legend."""
    del result
    return (width, 4.6 if is_narrow((width, 0.0)) else 4.2)


def _draw(
    axes: Axes, x: np.ndarray, curve: Tensor, color: str, dashes: object, label: str
) -> None:
    values = array(curve)
    if len(values) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        axes.fill_between(
            x, low, high, color=PALETTE[color], alpha=BAND_ALPHA, linewidth=0
        )
    axes.plot(
        x, values.mean(axis=0), color=PALETTE[color], linestyle=dashes, label=label
    )


def _regimes(axes: Axes, x: np.ndarray, num_samples: int, *, narrow: bool) -> None:
    inside = (num_samples * (1.0 - _MARGIN), num_samples * (1.0 + _MARGIN))
    borders = np.clip([x[0], *inside, x[-1]], x[0], x[-1])
    for index, (color, words) in enumerate(_REGIMES):
        low, high = float(borders[index]), float(borders[index + 1])
        if high <= low:
            continue
        axes.axvspan(
            low, high, color=PALETTE[color], alpha=_REGIME_ALPHA, linewidth=0, zorder=0
        )
        if not narrow:
            axes.annotate(
                words,
                ((low + high) / 2.0, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, -4),
                textcoords="offset points",
                ha="center",
                va="top",
                fontsize=8.0,
                color=PALETTE["muted"],
            )
    axes.set_xlim(float(x[0]), float(x[-1]))
