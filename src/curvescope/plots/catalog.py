"""Which function draws which kind of result: the one table of figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from curvescope._core.checks import message
from curvescope.plots.density import plot_density
from curvescope.plots.effective_dimension import plot_effective_dimension
from curvescope.plots.eigenvalues import plot_eigenvalues
from curvescope.plots.layers import plot_layers
from curvescope.plots.singular_values import plot_singular_values
from curvescope.results import (
    EffectiveDimension,
    Eigenpairs,
    LayerTable,
    RankEstimate,
    Result,
    SpectralDensity,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DRAW: dict[type[Result], Callable[..., Any]] = {
    Eigenpairs: plot_eigenvalues,
    SpectralDensity: plot_density,
    EffectiveDimension: plot_effective_dimension,
    LayerTable: plot_layers,
    RankEstimate: plot_singular_values,
}


def can_plot(result: Result) -> bool:
    """Tell whether there is a figure for this kind of result.

    Example:
        >>> from curvescope.results import Estimate
        >>> can_plot(Estimate(quantity="trace", value=1.0, standard_error=0.0))
        False
    """
    return type(result) in _DRAW


def plot(result: Result, **options: Any) -> Figure:
    """Draw a result with the function for its kind.

    Args:
        result: Any result of which `can_plot` is true.
        **options: Passed on, such as ``size`` and ``title``.

    Returns:
        The figure; save it with `save_figure`.

    Raises:
        TypeError: If there is no figure for this kind of result.
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> figure = plot(density, title="Before training")  # doctest: +SKIP
    """
    if not can_plot(result):
        kinds = ", ".join(kind.__name__ for kind in _DRAW)
        remedy = "Its rows are in `result.rows()`."
        text = message("result", f"be one of {kinds}", type(result).__name__, remedy)
        raise TypeError(text)
    return _DRAW[type(result)](result, **options)
