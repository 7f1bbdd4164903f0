"""Which function draws which kind of result: the one table of figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from curvescope._core.checks import message
from curvescope.plots.block_norms import block_norms_size, plot_block_norms
from curvescope.plots.block_picture import block_picture_size, plot_block_picture
from curvescope.plots.chain_rule import chain_rule_size, plot_chain_rule
from curvescope.plots.contraction import contraction_size, plot_contraction
from curvescope.plots.density import plot_density
from curvescope.plots.dimension_map import dimension_map_size, plot_dimension_map
from curvescope.plots.dimension_sweep import (
    dimension_sweep_size,
    plot_dimension_sweep,
)
from curvescope.plots.effective_dimension import (
    plot_dimension_bounds,
    plot_effective_dimension,
)
from curvescope.plots.eigenvalues import plot_eigenvalues
from curvescope.plots.homogeneity import homogeneity_size, plot_homogeneity
from curvescope.plots.init_compare import (
    init_compare_size,
    init_ranking_size,
    plot_init_compare,
    plot_init_ranking,
)
from curvescope.plots.init_sweep import init_scan_size, plot_init_scan
from curvescope.plots.init_training import init_training_size, plot_init_training
from curvescope.plots.initialisation import (
    balance_size,
    initialisation_size,
    plot_balance,
    plot_initialisation,
    plot_step_size,
    step_size_size,
)
from curvescope.plots.landscape import loss_surface_size, plot_loss_surface
from curvescope.plots.layer_spectra import layer_spectra_size, plot_layer_spectra
from curvescope.plots.layers import layer_size, plot_layers
from curvescope.plots.measures import (
    correlations_size,
    measures_size,
    plot_correlations,
    plot_measures,
)
from curvescope.plots.posteriors import (
    evidence_size,
    plot_evidence_fit,
    plot_posterior,
    plot_predictive,
    posterior_size,
)
from curvescope.plots.random_features import (
    plot_random_features,
    random_features_size,
)
from curvescope.plots.rank_report import plot_rank_report, rank_report_size
from curvescope.plots.rank_sweep import plot_rank_sweep
from curvescope.plots.singular_values import plot_singular_values
from curvescope.plots.spectrum_comparison import plot_spectrum_comparison
from curvescope.plots.spirals import (
    classifiers_size,
    plot_classifiers,
    plot_surface_comparison,
    surface_comparison_size,
)
from curvescope.plots.style import WIDE, is_narrow
from curvescope.plots.theorems import (
    identities_size,
    plot_function_homogeneity,
    plot_identities,
)
from curvescope.plots.tracking import plot_tracking, tracking_size
from curvescope.plots.training import plot_training, training_size
from curvescope.results import (
    Balance,
    BlockNorms,
    BlockPicture,
    ChainRule,
    CorrelationTable,
    DimensionBounds,
    DimensionMap,
    DimensionSweep,
    EffectiveDimension,
    Eigenpairs,
    EvidenceFit,
    FunctionSpaceHomogeneity,
    Homogeneity,
    IdentityTable,
    InitComparison,
    InitialisationReport,
    InitRanking,
    InitScan,
    InitTraining,
    LaplacePosterior,
    LayerSpectra,
    LayerTable,
    LinearPosterior,
    LossSurface,
    MeasureComparison,
    PerturbedClassifiers,
    PosteriorContraction,
    Predictive,
    RandomFeaturesCurve,
    RankEstimate,
    RankReport,
    RankSweep,
    Result,
    SpectralDensity,
    SpectrumComparison,
    StepSize,
    SurfaceComparison,
    TrackingCurve,
    TrainingResult,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DRAW: dict[type[Result], Callable[..., Any]] = {
    StepSize: plot_step_size,
    InitialisationReport: plot_initialisation,
    Balance: plot_balance,
    Eigenpairs: plot_eigenvalues,
    SpectralDensity: plot_density,
    EffectiveDimension: plot_effective_dimension,
    DimensionBounds: plot_dimension_bounds,
    LayerTable: plot_layers,
    LayerSpectra: plot_layer_spectra,
    BlockNorms: plot_block_norms,
    RankEstimate: plot_singular_values,
    RankReport: plot_rank_report,
    RankSweep: plot_rank_sweep,
    SpectrumComparison: plot_spectrum_comparison,
    BlockPicture: plot_block_picture,
    LossSurface: plot_loss_surface,
    Homogeneity: plot_homogeneity,
    DimensionSweep: plot_dimension_sweep,
    DimensionMap: plot_dimension_map,
    PerturbedClassifiers: plot_classifiers,
    SurfaceComparison: plot_surface_comparison,
    RandomFeaturesCurve: plot_random_features,
    PosteriorContraction: plot_contraction,
    MeasureComparison: plot_measures,
    CorrelationTable: plot_correlations,
    TrackingCurve: plot_tracking,
    TrainingResult: plot_training,
    InitTraining: plot_init_training,
    InitScan: plot_init_scan,
    InitComparison: plot_init_compare,
    InitRanking: plot_init_ranking,
    ChainRule: plot_chain_rule,
    LinearPosterior: plot_posterior,
    LaplacePosterior: plot_posterior,
    Predictive: plot_predictive,
    EvidenceFit: plot_evidence_fit,
    IdentityTable: plot_identities,
    FunctionSpaceHomogeneity: plot_function_homogeneity,
}
_SIZES: dict[type[Result], Callable[[Any, float], tuple[float, float]]] = {
    StepSize: lambda _, width: step_size_size(width),
    InitialisationReport: initialisation_size,
    Balance: balance_size,
    LayerTable: lambda table, width: layer_size(len(table.layers), width),
    LayerSpectra: layer_spectra_size,
    BlockNorms: lambda result, width: block_norms_size(len(result.norms), width),
    LossSurface: loss_surface_size,
    Homogeneity: homogeneity_size,
    DimensionSweep: dimension_sweep_size,
    DimensionMap: dimension_map_size,
    PerturbedClassifiers: classifiers_size,
    SurfaceComparison: surface_comparison_size,
    RandomFeaturesCurve: random_features_size,
    PosteriorContraction: contraction_size,
    MeasureComparison: measures_size,
    CorrelationTable: correlations_size,
    TrackingCurve: tracking_size,
    TrainingResult: training_size,
    InitTraining: init_training_size,
    InitScan: init_scan_size,
    InitComparison: init_compare_size,
    InitRanking: init_ranking_size,
    ChainRule: chain_rule_size,
    LinearPosterior: posterior_size,
    LaplacePosterior: posterior_size,
    EvidenceFit: evidence_size,
    IdentityTable: identities_size,
    RankReport: lambda _, width: rank_report_size(width),
    RankSweep: lambda _, width: _with_legend(width),
    SpectrumComparison: lambda _, width: _with_legend(width),
    BlockPicture: lambda picture, width: block_picture_size(
        len(picture.pictures), width
    ),
}
_NARROW_HEIGHT = 3.7


def figure_size(result: Result, width: float) -> tuple[float, float]:
    """Return the size at which a figure of a given width, in inches, can be read.

    Example:
        >>> from curvescope.results import Estimate
        >>> figure_size(Estimate(quantity="trace", value=1.0, standard_error=0.0), 6.8)
        (6.8, 3.9)
    """
    if type(result) in _SIZES:
        return _SIZES[type(result)](result, width)
    return (width, _NARROW_HEIGHT if is_narrow((width, 0.0)) else WIDE[1])


def _with_legend(width: float) -> tuple[float, float]:
    """Leave room for a legend below: of one column where the figure is narrow."""
    return (width, 5.2 if is_narrow((width, 0.0)) else 4.4)


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
    figure: Figure = _DRAW[type(result)](result, **options)
    return figure
