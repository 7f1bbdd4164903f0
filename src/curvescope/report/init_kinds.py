"""What the page says about initialisations and the Hessian chain rule."""

from curvescope.report.kind import Kind
from curvescope.results import (
    ChainRule,
    InitComparison,
    InitRanking,
    InitScan,
    InitSummary,
    InitTraining,
    LawTable,
    Result,
)

_EXACT = (
    "Norms are exact up to rounding in float64 for the batch of {probe:,} training images at "
    "which they are taken; {seeds}."
)


def training_reading(result: InitTraining) -> str:
    """Say what the two panels show."""
    text = (
        "Above the loss, below the Frobenius norm of the first layer's own block of the "
        "Hessian, both at one fixed batch of training images. With fresh batches the norm "
        "rises while the network learns, and falls again as it becomes sure of its "
        "predictions."
    )
    if "same" in result.batches:
        text += (
            f" Where every step sees the same {result.batch_size} images, the network learns "
            "these by heart: dashed is the loss on them, solid that on the others."
        )
    return text


def norms_sureness(result: InitTraining | InitScan) -> str:
    """Say where norms come from, and how many networks there are."""
    return _EXACT.format(probe=result.num_probe, seeds=_bands(len(result.seeds)))


def _bands(seeds: int) -> str:
    if seeds == 1:
        return "one network each, so that nothing is known of how they vary"
    return f"bands reach from the lowest to the highest of {seeds} networks"


def scan_reading(result: InitScan) -> str:
    """Say what the deviation of one layer, or of all, does."""
    if result.vary == "layer1":
        return (
            "Only the first layer's weights vary. In a ReLU network the scale of a layer's "
            "own weights enters its own block by the predictions alone: the norm of layer 1 "
            "is level until these become extreme."
        )
    return (
        "All layers' weights vary together: every layer's block vanishes or explodes with "
        "them. The dashed line is the power of networks whose predictions are uniform."
    )


def chain_rule_reading(result: ChainRule) -> str:
    """Say what the powers are."""
    del result
    return (
        "Above 1 a layer's own block is mostly curvature of the network, below 1 mostly "
        "linearisation. For small weights s of a smooth odd activation the ratio goes as "
        "s^(2k - L) in layer k of L: early layers are then dominated by curvature, late ones "
        "by linearisation. Piecewise linear activations have no curvature part at all."
    )


def comparison_reading(result: InitComparison) -> str:
    """Say what is the same for all."""
    del result
    return (
        "All have the same data, order of samples, learning rate and seeds, and differ in "
        "their initial weights only. The last panel is before the training: a level line "
        "is a balanced initialisation."
    )


def ranking_sureness(result: InitRanking) -> str:
    """Say what the intervals are."""
    return (
        f"Intervals are {100 * result.confidence:g} % ones of Student's t over "
        f"{result.num_seeds} seeds; differences are paired by seed. They hold for this "
        "learning rate, network and number of steps, and for no other."
    )


KINDS: dict[type[Result], Kind] = {
    InitTraining: Kind(
        title=lambda _: "Loss and Hessian norm along the training",
        reading=training_reading,
        sureness=norms_sureness,
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
        reading=scan_reading,
        sureness=norms_sureness,
    ),
    ChainRule: Kind(
        title=lambda _: "Curvature against linearisation, layer by layer",
        reading=chain_rule_reading,
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
        reading=comparison_reading,
        sureness=lambda r: (
            f"Bands are 95 % intervals of the mean over {len(r.seeds)} seeds."
        ),
    ),
    InitRanking: Kind(
        title=lambda r: f"Initialisations by {r.quantity}",
        reading=lambda _: (
            "Left the mean of each, right how far it is behind the best one, seed by seed."
        ),
        sureness=ranking_sureness,
    ),
}
