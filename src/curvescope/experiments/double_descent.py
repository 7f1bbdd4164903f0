"""Double descent of networks against their width, beside the effective dimension.

``small``: one hidden layer on few images of which a part is mislabelled, in a minute or
two. ``paper``: the published pre-activation ResNets on CIFAR-100.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from curvescope.experiments.base import Experiment, decisive, filled
from curvescope.experiments.dimension_records import (
    SMALL_TRAIN_LOSS,
    given,
    main_z,
    with_peaks,
)
from curvescope.experiments.network_sweep import (
    PAPER,
    SMALL,
    Family,
    NetworkSweep,
    checker,
    measure,
    planner,
)
from curvescope.results import DimensionSweep, Result

FAMILY = Family(
    name="double descent",
    axes={"width": "widths"},
    small="ReLU networks of one hidden layer",
    paper="pre-activation ResNet18",
    model="preact-resnet18",
)
check, plan = checker(FAMILY), planner(FAMILY)


@dataclass(frozen=True, kw_only=True)
class DoubleDescent(NetworkSweep):
    """Losses and effective dimension against width."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {
            **SMALL,
            # Evenly spaced by their logarithms.
            "widths": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64),
            "seeds": 8,
        },
        "paper": {
            **PAPER,
            "widths": tuple(range(1, 66)),
        },
    }


def double_descent(
    config: DoubleDescent, *, folder: Path | None = None
) -> dict[str, Result]:
    """Train networks of growing width, and measure their effective dimension.

    Args:
        config: The setting.
        folder: Where finished widths are kept, so that a later call goes on there.

    Returns:
        The sweep under the name ``double_descent``.

    Raises:
        PointError: If a width failed; finished ones are saved.
        ValueError: If the configuration is wrong.

    Cost:
        About a minute on two cores (small); see `plan` for the published setting.

    Example:
        >>> config = DoubleDescent(
        ...     widths=(1, 2), seeds=1, epochs=5, num_samples=20, jobs=1
        ... )
        >>> double_descent(config)["double_descent"].places
        (1, 2)

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, figure 1; Belkin et al. (2019),
        arXiv:1812.11118.
    """
    check(config)
    config = filled(config)
    found = measure(FAMILY, config, folder)
    sweep = DimensionSweep(
        of=found.of,
        cost=found.cost,
        settings=decisive(config),
        axis="width",
        z=given(config.z),
        main_z=main_z(given(config.z)),
        records=found.records,
        small_train_loss=SMALL_TRAIN_LOSS,
    )
    return {"double_descent": with_peaks(sweep)}


EXPERIMENT = Experiment(
    name="double-descent",
    config=DoubleDescent,
    run=double_descent,
    check=check,
    plan=plan,
    summary="Double descent against width: test loss and effective dimension.",
)
