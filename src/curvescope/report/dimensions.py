"""What the page says about sweeps of the effective dimension."""

from curvescope.report.formatting import number
from curvescope.report.kind import Kind
from curvescope.results import (
    CorrelationTable,
    DimensionMap,
    DimensionSweep,
    MeasureComparison,
    RandomFeaturesCurve,
    RegularisationScale,
    Result,
)

_CLAIM = (
    "The claim that the effective dimension follows the test loss is made only of networks "
    "whose train loss is near zero"
)


SWEEP_READING = (
    f"Lines are means over the seeds. {_CLAIM}: the grey ground is where it is not. "
    "Below, each curve is divided by its largest mean, and the mark above is where that lies."
)


def map_reading(result: DimensionMap) -> str:
    """Say how to read the three maps."""
    return (
        "Each cell is one width and depth, the mean over its seeds. Along a dashed line "
        f"networks have equally many parameters. {_CLAIM}: those on the wide side of the "
        f"solid line, where it is {result.small_train_loss:g}."
    )


def sureness(result: DimensionSweep | DimensionMap) -> str:
    """Say where the numbers come from."""
    seeds = len({record["seed"] for record in result.records})
    spread = (
        "one network at each place, so that nothing is known of how they vary"
        if seeds == 1
        else f"{seeds} networks at each place, whose spread is the band of the figure"
        if isinstance(result, DimensionSweep)
        else f"{seeds} networks at each place"
    )
    estimated = "effective_dimension_low" in result.records[0]
    how = (
        "The effective dimension is an estimate by stochastic Lanczos quadrature, with its "
        "interval"
        if estimated
        else "The effective dimension is from all eigenvalues, exact up to rounding"
    )
    return f"{how}; {spread}."


KINDS: dict[type[Result], Kind] = {
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
    DimensionSweep: Kind(
        title=lambda r: f"Losses and effective dimension against {r.axis}",
        reading=lambda _: SWEEP_READING,
        sureness=sureness,
    ),
    DimensionMap: Kind(
        title=lambda _: "Losses and effective dimension over widths and depths",
        reading=map_reading,
        sureness=sureness,
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
}
