"""What the page says about surfaces of the loss and steps on them."""

from curvescope.report.kind import Kind
from curvescope.results import (
    Homogeneity,
    LossSurface,
    PerturbedClassifiers,
    Result,
    SurfaceComparison,
)

KINDS: dict[type[Result], Kind] = {
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
}
