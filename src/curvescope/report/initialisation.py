"""What the page says of step sizes, initialisations and balancing."""

from curvescope.report.formatting import number
from curvescope.report.kind import Kind
from curvescope.results import (
    Balance,
    InitialisationReport,
    Result,
    StepSize,
)

_MOST_LAYERS = 8
STEP_READING = (
    "The loss along the gradient, measured and by the quadratic model of slope and "
    "curvature at the weights. At the best step the model has its minimum; beyond "
    "2 / sharpness gradient descent diverges on it."
)
_REPORT_READING = (
    "How large each layer's own block of the Hessian is, with its linearisation and "
    "curvature parts; parts that are exactly zero are not drawn. The number in a corner "
    "is the largest norm over the smallest: 1 is balanced."
)
BALANCE_READING = (
    "Norms of the blocks of the layers' weights before and after the weights were "
    "changed; layers that were left alone say why in the table."
)


def step_sureness(result: StepSize) -> str:
    """Say what of a step size is exact, and what converged."""
    end = "." if result.sharpness_converged else ", and is NOT converged."
    return (
        "Slope, curvature along the gradient and losses are exact up to rounding; the "
        f"sharpness has a true residual of {number(result.sharpness_error, digits=2)}{end}"
    )


def report_reading(result: InitialisationReport) -> str:
    """Say how to read the panels, and what is recommended for each layer."""
    words = [f"{one}." for one in result.recommendations[:_MOST_LAYERS]]
    return " ".join([_REPORT_READING, *words])


def report_sureness(result: InitialisationReport) -> str:
    """Say how the blocks were measured, and how far the laws are known."""
    return (
        f"Blocks: {result.method}. Bars are standard deviations over "
        f"{len(result.seeds)} draws. Predicted trace: {result.prediction}. The laws: "
        f"{'; '.join(result.laws)}."
    )


def balance_sureness(result: Balance) -> str:
    """Say whether the blocks are equal, and whether the function is the same."""
    equal = "equal" if result.converged else "NOT equal"
    kept = "the same function" if result.function_kept else "another function now"
    return (
        f"{result.rounds} rounds; {equal} within {result.tolerance:g}; the network "
        f"computes {kept}."
    )


KINDS: dict[type[Result], Kind] = {
    StepSize: Kind(
        title=lambda _: "The step size that curvature allows",
        reading=lambda _: STEP_READING,
        sureness=step_sureness,
        show_table=False,
    ),
    InitialisationReport: Kind(
        title=lambda _: "Layers under several initialisations",
        reading=report_reading,
        sureness=report_sureness,
    ),
    Balance: Kind(
        title=lambda _: "Balancing the layers' own blocks",
        reading=lambda _: BALANCE_READING,
        sureness=balance_sureness,
    ),
}
