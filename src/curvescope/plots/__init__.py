"""Figures: one function per kind of result, ``Result -> matplotlib Figure``.

A plot never computes: it sees a frozen result and nothing else. It draws on figures of
its own, so that nothing of pyplot's global state is read or changed.
"""

from curvescope.plots.catalog import can_plot, plot
from curvescope.plots.density import plot_density
from curvescope.plots.effective_dimension import plot_effective_dimension
from curvescope.plots.eigenvalues import plot_eigenvalues
from curvescope.plots.export import save_figure, to_svg
from curvescope.plots.layers import plot_layers
from curvescope.plots.singular_values import plot_singular_values

__all__ = [
    "can_plot",
    "plot",
    "plot_density",
    "plot_effective_dimension",
    "plot_eigenvalues",
    "plot_layers",
    "plot_singular_values",
    "save_figure",
    "to_svg",
]
