"""What the page says about each kind of result: a title, and how to read the figure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from curvescope.report import dimensions, init_kinds, initialisation, posteriors, ranks
from curvescope.report.formatting import number
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
    InitSummary,
    InitTraining,
    LaplacePosterior,
    LawTable,
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
    RegularisationScale,
    Result,
    SpectralDensity,
    SpectrumComparison,
    StepSize,
    SurfaceComparison,
    TrackingCurve,
    TrainingResult,
    VectorEstimate,
)

_MAX_TABLE = 500


@dataclass(frozen=True)
class Kind:
    """How one kind of result is presented.

    ``headline`` is the sentence below the figure, ``warnings`` what a reader must see
    before any number.
    """

    title: Callable[[Any], str]
    reading: Callable[[Any], str]
    sureness: Callable[[Any], str]
    show_table: bool = True
    headline: Callable[[Any], str] = lambda result: result.headline()
    warnings: Callable[[Any], Iterable[str]] = lambda _: ()


def kind_of(result: Result) -> Kind:
    """Return how to present a result; any other kind shows its line and its rows."""
    return _KINDS.get(type(result), _OTHER)


def shows_table(result: Result, num_rows: int) -> bool:
    """Tell whether the page prints the rows, or leaves them to the file."""
    return kind_of(result).show_table and 0 < num_rows <= _MAX_TABLE


def _pairs_sureness(pairs: Eigenpairs) -> str:
    done, total = int(pairs.converged.sum()), len(pairs.eigenvalues)
    if total == 0:
        return "No pair was asked for."
    worst = number(float(pairs.relative_residuals.max()), digits=2)
    beyond = float(pairs.relative_residuals[pairs.converged].max()) if done else 0.0
    floor = ""
    if beyond > pairs.tolerance:
        floor = (
            " Pairs above it reached what rounding allows in this precision; more needs "
            "float64."
        )
    return (
        f"{done} of {total} pairs are converged, to a relative residual of "
        f"{pairs.tolerance:g} or to rounding; the largest true one is {worst}.{floor}"
    )


def _dimension_sureness(result: EffectiveDimension) -> str:
    negative = (
        f"Negative eigenvalues (about {result.negative_count:.4g} of "
        f"{result.dimension}, their sum {number(-result.negative_mass, digits=3)}) "
        f"were treated by: {result.negative}."
    )
    if result.method == "lower_bound":
        return (
            f"This is a lower bound: eigenvalues not computed can only add. {negative}"
        )
    if float(result.standard_errors.abs().max()) == 0.0:
        return f"Exact up to rounding. {negative}{_dimension_bounds(result)}"
    steps = (
        ", and what the Lanczos steps leave open for certain"
        if result.bracketed
        else ""
    )
    return (
        f"The band is the 95 % interval over the random probes{steps}. {negative}"
        f"{_dimension_bounds(result)}"
    )


def _dimension_bounds(result: EffectiveDimension) -> str:
    if result.bounds is None:
        return ""
    return (
        f" The lower bound is certain, by {result.bounds.num_pairs} eigenpairs and their "
        "residuals; the upper one also needs that no larger eigenvalue was missed"
        + (", and the trace within 95 %." if result.bounds.upper_from == "sum" else ".")
        + f" {result.bounds.verdict[:1].upper()}{result.bounds.verdict[1:]}."
    )


_AXES = {
    "num_samples": "the number of samples",
    "width": "width",
    "depth": "depth",
    "epoch": "training",
}
_KINDS: dict[type[Result], Kind] = {
    Eigenpairs: Kind(
        title=lambda r: f"Extreme eigenvalues of the {r.of.matrix}",
        reading=lambda _: (
            "Each mark is one eigenvalue, and its error bar the residual norm, within "
            "which a true eigenvalue must lie; hollow marks did not converge. The axis "
            "is logarithmic on both sides of zero."
        ),
        sureness=_pairs_sureness,
    ),
    SpectralDensity: Kind(
        title=lambda r: (
            f"Spectral density of the {r.of.matrix}"
            + (" on a signed-log axis" if r.axis == "signed-log" else "")
        ),
        reading=lambda _: (
            "The height is the fraction of all eigenvalues near a value, smoothed by "
            "a Gaussian of the stated width; what lies well below the dotted line "
            "weighs less than one eigenvalue."
        ),
        sureness=lambda r: (
            f"The band is the pointwise 95 % interval over {r.nodes.shape[0]} probes, "
            f"for the density smoothed at the same width ({number(r.width, digits=3)} "
            f"on the {r.axis} axis); the error left by the quadrature's "
            f"{r.nodes.shape[1]} steps is estimated apart as "
            f"{number(r.quadrature_error, digits=2)}."
        ),
        show_table=False,
    ),
    EffectiveDimension: Kind(
        title=lambda r: f"Effective dimension of the {r.of.matrix}",
        reading=lambda _: (
            "The curve counts the directions in which the eigenvalue is large against "
            "z: each eigenvalue contributes \u03bb / (\u03bb + z), close to one far above z and "
            "close to zero far below."
        ),
        sureness=_dimension_sureness,
        show_table=False,
    ),
    DimensionBounds: Kind(
        title=lambda r: f"Bounds of the effective dimension of the {r.of.matrix}",
        reading=lambda _: (
            "The effective dimension lies between the lines: the lower one counts the "
            "known eigenvalues only, the upper one all others at the most they can be."
        ),
        sureness=lambda r: (
            "The lower bound is certain, the upper one if no larger eigenvalue was missed"
            + (
                " and the trace lies in its 95 % interval."
                if r.upper_from == "sum"
                else "."
            )
        ),
        show_table=False,
    ),
    BlockNorms: Kind(
        title=lambda _: "The blocks between layers",
        reading=lambda _: (
            "Each cell is the norm of one block: on the diagonal a layer's own, elsewhere "
            "how strongly two layers act together. Bright is large, dark is small, hatched "
            "paper is exactly zero. What lies off the diagonal is what a block-diagonal "
            "approximation of the matrix leaves out."
        ),
        sureness=lambda r: (
            f"Method: {r.method}. Errors are standard errors, 0 where a norm is exact."
        ),
    ),
    LayerTable: Kind(
        title=lambda _: "Curvature layer by layer",
        reading=lambda _: (
            "First panel: how large each layer's own diagonal block is, and how much of it "
            "comes from the linearised network and from the network's own curvature (which "
            "is exactly zero where all behind the layer is piecewise linear); "
            "second panel: the block's eigenvalue of largest magnitude."
        ),
        sureness=lambda r: (
            f"Errors are standard errors, 0 where a number is exact; a top eigenvalue's is "
            f"its residual norm. "
            f"Method: {r.method}."
        ),
    ),
    RankEstimate: Kind(
        title=lambda r: f"Rank of the {r.of.matrix}",
        reading=lambda _: (
            "Singular values in descending order: the rank is read from the gap at the "
            "dashed threshold."
        ),
        sureness=ranks.estimate_sureness,
        show_table=False,
    ),
    RankReport: Kind(
        title=lambda _: "Ranks of the Hessian and its two parts",
        reading=lambda _: (
            "The rank counts the directions in which the loss bends at all. Each panel "
            "shows one matrix's values in descending order on a logarithmic axis: the "
            "rank is where they fall through the dashed threshold to rounding noise, "
            "and vertical lines stand where theory, without looking at the values, "
            "expects that fall. Dotted verticals are upper bounds only."
        ),
        sureness=ranks.report_sureness,
        headline=ranks.report_headline,
        warnings=ranks.report_warnings,
    ),
    RankSweep: Kind(
        title=lambda r: f"Ranks against {_AXES.get(r.axis, r.axis)}",
        reading=ranks.sweep_reading,
        sureness=ranks.sweep_sureness,
        headline=ranks.sweep_headline,
    ),
    SpectrumComparison: Kind(
        title=lambda _: "Sorted eigenvalues, side by side",
        reading=lambda _: (
            "Magnitudes of all eigenvalues in descending order, one colour a network; "
            "dashed verticals are predicted ranks. Where a linear network's values fall "
            "to rounding noise, a non-linear one's are only small."
        ),
        sureness=lambda _: (
            "Eigenvalues are exact up to rounding in float64; an eigenvalue that is only "
            "small still counts towards the rank."
        ),
        show_table=False,
    ),
    BlockPicture: Kind(
        title=lambda _: "The matrices block by block",
        reading=lambda _: (
            "Each square is one matrix, entry by entry, with lines between the layers; "
            "bright is large, dark is small, hatched paper is exactly zero. One pixel "
            "may stand for several entries, and shows the largest."
        ),
        sureness=lambda _: "Entries are exact up to rounding in float64.",
    ),
    LossSurface: Kind(
        title=lambda r: (
            f"The loss on a {'line' if len(r.coordinates) == 1 else 'plane'} through the "
            "weights"
        ),
        reading=lambda _: (
            "The axes are lengths of steps in parameter space from the present weights; "
            "the dashed lines are the quadratic model, made of slope and curvature at the "
            "weights alone. Where they leave the measured ones, the loss is not quadratic."
        ),
        sureness=lambda r: (
            "Every point is the loss over all data, exact up to rounding in the precision "
            f"it was computed in; {r.num_forward_passes} forward passes."
        ),
        show_table=False,
    ),
    Homogeneity: Kind(
        title=lambda _: "How far the function stays the same",
        reading=lambda _: (
            "A step of one length changes the loss and the predicted labels along the top "
            "eigenvectors, and hardly along flat ones; random directions of the same "
            "length are the control. The dotted line is the loss at the present weights."
        ),
        sureness=lambda r: (
            "Each draw is exact over all data; bands reach from the lowest to the highest "
            f"of {len(next(iter(r.losses.values())))} draws."
        ),
    ),
    RandomFeaturesCurve: Kind(
        title=lambda _: "Double descent of random features",
        reading=lambda r: (
            "Least squares fails worst where there are about as many features as samples "
            f"({r.num_samples}). There the data span all directions, but determine some "
            "hardly: min(n, d) less the effective dimension, which the published figure "
            "calls effective dimensionality, peaks with the test error. The effective "
            "dimension itself only rises."
        ),
        sureness=lambda r: (
            "Exact up to rounding for the data drawn; "
            + (
                f"bands reach over {len(r.seeds)} draws."
                if len(r.seeds) > 1
                else "one draw, so that neighbouring points tell its chance."
            )
        ),
    ),
    PosteriorContraction: Kind(
        title=lambda _: "How far the posterior has contracted",
        reading=lambda r: (
            "Every direction that the observations determine leaves the covariance of the "
            "parameters and enters the Hessian: the left curve falls from its value under "
            "the prior as the right one rises."
            + (
                ""
                if r.model == "linear"
                else " Of a network most directions stay as the prior has them."
            )
        ),
        sureness=lambda r: (
            f"Bands reach over {len(r.seeds)} draws. {posteriors.contraction_sureness(r)}"
        ),
    ),
    MeasureComparison: Kind(
        title=lambda r: f"Measures beside the {r.called(r.target)}",
        reading=lambda r: (
            "One mark a point. A measure that foretells has marks along a rising curve; "
            f"hollow marks are not among those compared ({r.chosen_words})."
        ),
        sureness=lambda _: (
            "Above each panel stands the rank correlation with its 95 % interval."
        ),
    ),
    CorrelationTable: Kind(
        title=lambda r: f"Rank correlations with {r.target}",
        reading=lambda _: (
            "1 means that a measure sorts the points exactly as the target does, "
            "\u22121 in the opposite order, 0 that it says nothing."
        ),
        sureness=lambda r: (
            f"Bars are {100 * r.confidence:g} % intervals of a bootstrap of "
            f"{r.num_resamples} samples. They tell how much the choice of points "
            "matters, not whether a measure is the cause."
        ),
    ),
    TrackingCurve: Kind(
        title=lambda r: (
            f"Curvature along the training of {r.of.description.split(',')[0]}"
        ),
        reading=lambda r: (
            "Everything is measured on the same probe samples, in eval mode, at the weights "
            "of that step."
            + (
                f" The dashed line is the edge of stability, {r.formula}: above it the "
                "optimiser's steps along the top eigenvector grow."
                if r.limit is not None
                else ""
            )
        ),
        sureness=lambda r: (
            f"Eigenvalues have true residuals, below {r.settings.get('tol', 0.0):g} of "
            "their size unless marked; bands are 95 % intervals over the random probes. One "
            f"measurement took {float(r.gradients.double().mean()):.3g} gradients of its "
            "probe set in the mean."
        ),
    ),
    TrainingResult: Kind(
        title=lambda r: f"Training of {r.of.description.split(',')[0]}",
        reading=lambda r: (
            "Both losses are measured at the weights of that moment, in eval mode and on "
            "data that are not augmented, without weight decay."
            + (" The band reaches over all networks." if r.many else "")
        ),
        sureness=lambda r: (
            f"{len(r.seeds)} network(s); the same seed gives the same curve. Each loss "
            "is over all data, exact up to rounding."
        ),
        show_table=False,
    ),
    DimensionSweep: Kind(
        title=lambda r: f"Losses and effective dimension against {r.axis}",
        reading=lambda _: dimensions.SWEEP_READING,
        sureness=dimensions.sureness,
    ),
    DimensionMap: Kind(
        title=lambda _: "Losses and effective dimension over widths and depths",
        reading=dimensions.map_reading,
        sureness=dimensions.sureness,
    ),
    PerturbedClassifiers: Kind(
        title=lambda _: "What steps do to the decision boundary",
        reading=lambda _: (
            "Colours are how much the predicted probability changes; the solid line is the "
            "boundary after the step, the dashed one that before it. Each row goes along "
            "one random direction; the last row is the control."
        ),
        sureness=lambda r: (
            "The classifiers are exact; a direction is one draw. Losses and labels are "
            f"those of {len(r.labels)} training points."
        ),
    ),
    SurfaceComparison: Kind(
        title=lambda _: "The loss on planes, in one scale",
        reading=lambda _: (
            "Each plane is spanned by two random directions inside the span that its title "
            "names; axes are true lengths in parameter space, colours the same everywhere. "
            "A plane of one colour is one on which the loss hardly changes."
        ),
        sureness=lambda _: (
            "Every point is the loss over all data, exact up to rounding in the precision "
            "it was computed in."
        ),
    ),
    LinearPosterior: Kind(
        title=lambda _: "Posterior of the linear model",
        reading=lambda _: posteriors.POSTERIOR_READING,
        sureness=posteriors.linear_sureness,
    ),
    LaplacePosterior: Kind(
        title=lambda _: "Linearised Laplace posterior",
        reading=lambda _: posteriors.POSTERIOR_READING,
        sureness=posteriors.laplace_sureness,
        warnings=posteriors.laplace_warnings,
    ),
    Predictive: Kind(
        title=lambda _: "The function under the posterior",
        reading=lambda _: posteriors.PREDICTIVE_READING,
        sureness=posteriors.predictive_sureness,
    ),
    EvidenceFit: Kind(
        title=lambda _: "Variances of largest evidence",
        reading=lambda _: posteriors.EVIDENCE_READING,
        sureness=posteriors.evidence_sureness,
    ),
    IdentityTable: Kind(
        title=lambda _: "Identities of the linear model",
        reading=lambda _: posteriors.IDENTITIES_READING,
        sureness=lambda _: (
            "Both sides are in float64; a difference of 1e-16 is one digit."
        ),
    ),
    FunctionSpaceHomogeneity: Kind(
        title=lambda r: f"Function-space homogeneity: {r.verdict}",
        reading=lambda _: posteriors.HOMOGENEITY_READING,
        sureness=posteriors.homogeneity_sureness,
    ),
    RegularisationScale: Kind(
        title=lambda _: "A scale z for the effective dimension",
        reading=lambda _: "",
        sureness=lambda r: (
            "Its unit is that of an eigenvalue"
            + (f" of the {r.reduction} loss" if r.reduction else "")
            + f"; the same reasoning supports {number(r.low)} to {number(r.high)}."
        ),
        show_table=False,
    ),
    InitTraining: Kind(
        title=lambda _: "Loss and Hessian norm along the training",
        reading=init_kinds.training_reading,
        sureness=init_kinds.norms_sureness,
    ),
    InitSummary: Kind(
        title=lambda _: "By standard deviation",
        reading=lambda _: (
            "Means and deviations over all iterations and seeds, as grouping the table by "
            "sd gives them; then first, largest and last norm, medians over the seeds."
        ),
        sureness=lambda _: "A summary of the table; nothing is estimated.",
    ),
    InitScan: Kind(
        title=lambda _: "Untrained networks against the weights' standard deviation",
        reading=init_kinds.scan_reading,
        sureness=init_kinds.norms_sureness,
    ),
    ChainRule: Kind(
        title=lambda _: "Curvature against linearisation, layer by layer",
        reading=init_kinds.chain_rule_reading,
        sureness=lambda _: (
            "Both parts are exact up to rounding in float64, each by a computation of its own."
        ),
    ),
    LawTable: Kind(
        title=lambda _: "Laws of the Hessian chain rule",
        reading=lambda _: (
            "Each law beside its measurement on networks with random weights; the status "
            "says whether it is published, derived, or derived and verified by tests."
        ),
        sureness=lambda _: (
            "Measured in float64; the tolerance is rounding where a law is exact, and half "
            "a hundredth for a power."
        ),
    ),
    InitComparison: Kind(
        title=lambda _: "Trainings from several initialisations",
        reading=init_kinds.comparison_reading,
        sureness=lambda r: (
            f"Bands are 95 % intervals of the mean over {len(r.seeds)} seeds."
        ),
    ),
    InitRanking: Kind(
        title=lambda r: f"Initialisations by {r.quantity}",
        reading=lambda _: (
            "Left the mean of each, right how far it is behind the best one, seed by seed."
        ),
        sureness=init_kinds.ranking_sureness,
    ),
    StepSize: Kind(
        title=lambda _: "The step size that curvature allows",
        reading=lambda _: initialisation.STEP_READING,
        sureness=initialisation.step_sureness,
        show_table=False,
    ),
    InitialisationReport: Kind(
        title=lambda _: "Layers under several initialisations",
        reading=initialisation.report_reading,
        sureness=initialisation.report_sureness,
    ),
    Balance: Kind(
        title=lambda _: "Balancing the layers' own blocks",
        reading=lambda _: initialisation.BALANCE_READING,
        sureness=initialisation.balance_sureness,
    ),
    VectorEstimate: Kind(
        title=lambda r: (
            f"{r.quantity[:1].upper()}{r.quantity[1:]} of the {r.of.matrix}"
        ),
        reading=lambda _: "All entries are in the saved result.",
        sureness=lambda r: f"Method: {r.method}.",
        show_table=False,
    ),
}

_OTHER = Kind(
    title=lambda r: r.headline(),
    reading=lambda _: "",
    sureness=lambda _: "",
)
