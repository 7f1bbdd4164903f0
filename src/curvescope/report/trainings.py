"""What the page says about trainings, and curvature along them."""

from curvescope.report.kind import Kind
from curvescope.results import (
    Result,
    TrackingCurve,
    TrainingResult,
)

KINDS: dict[type[Result], Kind] = {
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
}
