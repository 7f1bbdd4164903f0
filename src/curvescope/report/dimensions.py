"""What the page says about sweeps of the effective dimension."""

from curvescope.results import DimensionMap, DimensionSweep

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
