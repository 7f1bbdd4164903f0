"""The spectral density with its band."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from curvescope.plots.axes import log_axis, signed_log_axis
from curvescope.plots.style import (
    BAND_ALPHA,
    PALETTE,
    WIDE,
    array,
    house_style,
    is_narrow,
    matrix_name,
    new_figure,
    set_title,
    with_unit,
)
from curvescope.results import Eigenpairs, SpectralDensity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_density(
    result: SpectralDensity,
    *,
    eigenpairs: Eigenpairs | None = None,
    size: tuple[float, float] = WIDE,
    title: str | None = None,
) -> Figure:
    r"""Draw the spectral density on a logarithmic scale, with its 95 % band.

    The dotted line is the height of one isolated eigenvalue out of
    :math:`n`, :math:`1 / (n \sigma \sqrt{2 \pi})` for the kernel's width
    :math:`\sigma`; what lies far below it is the kernel's tail. The vertical axis ends a
    decade below that line.

    Args:
        result: The density.
        eigenpairs: Pairs whose converged eigenvalues are marked on the axis.
        size: Width and height in inches.
        title: The title; an empty one for none.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot_density(density, eigenpairs=top)  # doctest: +SKIP

    References:
        Ghorbani, Krishnan & Xiao (2019), arXiv:1901.10159.
    """
    with house_style():
        figure = new_figure(size)
        axes = figure.add_subplot()
        one = 1.0 / (result.dimension * result.width * math.sqrt(2 * math.pi))
        _draw_curve(axes, result, one)
        _set_axes(axes, result)
        if eigenpairs is not None:
            _mark(axes, eigenpairs)
        signed = result.axis == "signed-log"
        quantity = "eigenvalue, signed-log axis" if signed else "eigenvalue"
        axes.set_xlabel(with_unit(quantity, result, size[0]))
        per = (
            f"asinh(\u03bb / {result.linear_threshold:.3g})" if signed else "eigenvalue"
        )
        axes.set_ylabel(f"spectral density\n(fraction per unit of {per})")
        set_title(axes, title, f"Spectral density of {matrix_name(result)}")
        if is_narrow(size):
            figure.legend(loc="outside upper left", ncols=2, columnspacing=1.2)
        else:
            axes.legend(loc="upper right")
    return figure


def _draw_curve(axes: Axes, result: SpectralDensity, one: float) -> None:
    grid, density = array(result.grid), array(result.density)
    low, high = (array(part) for part in result.band())
    peak = float(np.nanmax(high))
    floor = min(0.1 * one, 0.1 * float(np.nanmax(density)))
    log_axis(axes, "y", low=floor, high=2.5 * peak, most=7)
    probes, steps = result.nodes.shape
    axes.fill_between(
        grid,
        np.maximum(low, 1e-3 * floor),
        np.maximum(high, 1e-3 * floor),
        color=PALETTE["blue"],
        alpha=BAND_ALPHA,
        linewidth=0,
        label="95 % band",
    )
    axes.plot(
        grid,
        np.maximum(density, 1e-3 * floor),
        color=PALETTE["blue"],
        label=f"{probes} probes \u00d7 {steps} steps",
    )
    axes.axhline(
        one,
        color=PALETTE["muted"],
        linestyle=(0, (1, 2)),
        linewidth=1.1,
        zorder=1,
        label="one eigenvalue",
    )


def _set_axes(axes: Axes, result: SpectralDensity) -> None:
    grid = array(result.grid)
    low, high = float(grid[0]), float(grid[-1])
    if result.axis == "signed-log":
        signed_log_axis(
            axes,
            "x",
            low=low,
            high=high,
            threshold=result.linear_threshold,
            margin=0.0,
        )
    else:
        axes.set_xlim(low, high)


def _mark(axes: Axes, eigenpairs: Eigenpairs) -> None:
    values = array(eigenpairs.eigenvalues[eigenpairs.converged])
    axes.plot(
        values,
        np.full(len(values), 0.025),
        transform=axes.get_xaxis_transform(),
        linestyle="none",
        marker="|",
        markersize=11,
        markeredgewidth=1.4,
        color=PALETTE["vermilion"],
        label=f"{len(values)} converged eigenvalues",
    )
