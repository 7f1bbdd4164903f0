"""Eigenvalues against their index, with their certified errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from curvescope.plots.axes import magnitude_axis, signed_log_axis
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
from curvescope.results import Eigenpairs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ENDS = {
    "LM": "largest in magnitude",
    "LA": "largest",
    "SA": "smallest",
    "BE": "both ends of the spectrum",
}


def plot_eigenvalues(
    result: Eigenpairs,
    *,
    size: tuple[float, float] = WIDE,
    title: str | None = None,
) -> Figure:
    r"""Draw the eigenvalues against their index, on a signed logarithmic axis.

    The error bar of a pair is its residual norm: a symmetric matrix has an eigenvalue
    within :math:`\|A v - \lambda v\|` of :math:`\lambda`. Hollow marks are pairs that
    did not reach the tolerance.

    Args:
        result: The pairs.
        size: Width and height in inches.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_eigenvalues(pairs)  # doctest: +SKIP

    References:
        Parlett (1998), The Symmetric Eigenvalue Problem, Theorem 4.5.1.
    """
    require_matplotlib()
    from matplotlib.ticker import MaxNLocator

    values = array(result.eigenvalues)
    with house_style():
        figure = new_figure(size)
        axes = figure.add_subplot()
        _draw_pairs(axes, result)
        _set_value_axis(axes, values)
        axes.set_xlim(0.4, len(values) + 0.6)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=False, axis="x")
        ends = _ENDS.get(result.which, result.which)
        wide = "index, in descending order, of the pairs computed"
        axes.set_xlabel("index" if is_narrow(size) else wide)
        axes.set_ylabel(with_unit("eigenvalue", result, size[1]))
        count = f"{len(values)} eigenvalues" if len(values) > 1 else "One eigenvalue"
        ends = "" if is_narrow(size) else f" ({ends})"
        set_title(axes, title, f"{count} of {matrix_name(result)}{ends}")
        axes.legend(loc="best")
    return figure


def _draw_pairs(axes: Axes, result: Eigenpairs) -> None:
    values, errors = array(result.eigenvalues), array(result.residual_norms)
    converged = result.converged.cpu().numpy().astype(bool)
    index = np.arange(1, len(values) + 1)
    marker_size = 6.0 if len(values) <= 60 else 3.0
    signs = (
        (values >= 0, "blue", "o", "positive"),
        (values < 0, "vermilion", "s", "negative"),
    )
    for of_sign, color, marker, name in signs:
        for done, remark in ((True, "converged"), (False, "not converged")):
            chosen = of_sign & (converged == done)
            if not chosen.any():
                continue
            label = f"{name}, {remark}" if (values < 0).any() else remark
            axes.errorbar(
                index[chosen],
                values[chosen],
                yerr=errors[chosen],
                linestyle="none",
                marker=marker,
                markersize=marker_size,
                color=PALETTE[color],
                markerfacecolor=PALETTE[color if done else "surface"],
                markeredgewidth=1.3,
                elinewidth=1.2,
                capsize=3.0 if len(values) <= 60 else 0.0,
                label=label,
            )


def _set_value_axis(axes: Axes, values: np.ndarray) -> None:
    sizes = np.abs(values[values != 0])
    if sizes.size == 0:
        return
    if (values > 0).all() or (values < 0).all():
        # On one side of zero the signed axis is a logarithmic one, from far below.
        threshold = float(sizes.min()) / 50
        factor = max(float(sizes.max() / sizes.min()) ** 0.08, 1.1)
        ends = (float(sizes.min()) / factor, float(sizes.max()) * factor)
        low, high = ends if values[0] > 0 else (-ends[1], -ends[0])
        signed_log_axis(axes, "y", low=low, high=high, threshold=threshold, margin=0.0)
        return
    magnitude_axis(axes, "y", values)
    axes.axhline(0.0, color=PALETTE["line"], linewidth=0.9, zorder=1)
