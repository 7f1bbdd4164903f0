"""Figures: one function per kind of result, ``Result -> matplotlib Figure``.

A plot never computes: it sees a frozen result and nothing else. It draws on figures of
its own, so that nothing of pyplot's global state is read or changed.
"""

from curvescope.plots.block_norms import plot_block_norms
from curvescope.plots.block_picture import plot_block_picture
from curvescope.plots.catalog import can_plot, figure_size, plot
from curvescope.plots.contraction import plot_contraction
from curvescope.plots.density import plot_density
from curvescope.plots.effective_dimension import (
    plot_dimension_bounds,
    plot_effective_dimension,
)
from curvescope.plots.eigenvalues import plot_eigenvalues
from curvescope.plots.export import save_figure, to_svg
from curvescope.plots.homogeneity import plot_homogeneity
from curvescope.plots.initialisation import (
    plot_balance,
    plot_initialisation,
    plot_step_size,
)
from curvescope.plots.landscape import plot_loss_surface
from curvescope.plots.layer_spectra import plot_layer_spectra
from curvescope.plots.layers import plot_layers
from curvescope.plots.measures import plot_correlations, plot_measures
from curvescope.plots.posteriors import (
    plot_evidence_fit,
    plot_posterior,
    plot_predictive,
)
from curvescope.plots.random_features import plot_random_features
from curvescope.plots.rank_report import plot_rank_report
from curvescope.plots.rank_sweep import plot_rank_sweep
from curvescope.plots.singular_values import plot_singular_values
from curvescope.plots.spectrum_comparison import plot_spectrum_comparison
from curvescope.plots.theorems import plot_function_homogeneity, plot_identities
from curvescope.plots.training import plot_training

__all__ = [
    "can_plot",
    "figure_size",
    "plot",
    "plot_balance",
    "plot_block_norms",
    "plot_block_picture",
    "plot_contraction",
    "plot_correlations",
    "plot_density",
    "plot_dimension_bounds",
    "plot_effective_dimension",
    "plot_eigenvalues",
    "plot_evidence_fit",
    "plot_function_homogeneity",
    "plot_homogeneity",
    "plot_identities",
    "plot_initialisation",
    "plot_layer_spectra",
    "plot_layers",
    "plot_loss_surface",
    "plot_measures",
    "plot_posterior",
    "plot_predictive",
    "plot_random_features",
    "plot_rank_report",
    "plot_rank_sweep",
    "plot_singular_values",
    "plot_spectrum_comparison",
    "plot_step_size",
    "plot_training",
    "save_figure",
    "to_svg",
]
