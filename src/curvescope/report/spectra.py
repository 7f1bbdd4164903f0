"""What the page says about eigenvalues, densities and effective dimensions."""

from curvescope.report.formatting import number
from curvescope.report.kind import Kind
from curvescope.results import (
    DimensionBounds,
    EffectiveDimension,
    Eigenpairs,
    Result,
    SpectralDensity,
    VectorEstimate,
)


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


KINDS: dict[type[Result], Kind] = {
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
    VectorEstimate: Kind(
        title=lambda r: (
            f"{r.quantity[:1].upper()}{r.quantity[1:]} of the {r.of.matrix}"
        ),
        reading=lambda _: "All entries are in the saved result.",
        sureness=lambda r: f"Method: {r.method}.",
        show_table=False,
    ),
}
