"""Effective dimension over widths and depths, beside train and test loss.

``small``: perceptrons on few images of which a part is mislabelled. ``paper``: the
published convolutional networks on CIFAR-100.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from curvescope.experiments.base import Experiment, decisive, filled
from curvescope.experiments.dimension_records import (
    SMALL_TRAIN_LOSS,
    compared,
    given,
    main_z,
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
from curvescope.results import DimensionMap, Result

FAMILY = Family(
    name="widths and depths",
    axes={"depth": "depths", "width": "widths"},
    small="ReLU perceptrons",
    paper="convolutional networks",
    model="convnet",
)
check, plan = checker(FAMILY), planner(FAMILY)


@dataclass(frozen=True, kw_only=True)
class WidthDepth(NetworkSweep):
    """Effective dimension, test loss and train loss over widths and depths."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {
            **SMALL,
            "widths": (3, 4, 6, 8, 12, 16, 32),
            "depths": (1, 2, 3, 4),
            "seeds": 5,
        },
        "paper": {
            **PAPER,
            "widths": tuple(range(4, 65, 4)),
            "depths": tuple(range(9)),
        },
    }

    depths: tuple[int, ...] | None = None
    """Hidden layers, or blocks after the first, such as 1,2,3."""


def width_depth(config: WidthDepth, *, folder: Path | None = None) -> dict[str, Result]:
    """Train networks of all widths and depths, and measure their effective dimension.

    Args:
        config: The setting.
        folder: Where finished networks are kept, so that a later call goes on there.

    Returns:
        The map ``width_depth``, its networks as ``comparison``, and the ``correlations``
        of effective dimension and parameter count with the test loss.

    Raises:
        PointError: If a network failed; finished ones are saved.
        ValueError: If the configuration is wrong.

    Cost:
        A few minutes on two cores (small); see `plan` for the published setting.

    Example:
        >>> config = WidthDepth(
        ...     widths=(1, 2), depths=(1,), seeds=1, epochs=5, num_samples=20, jobs=1
        ... )
        >>> width_depth(config)["width_depth"].widths
        (1, 2)

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, figure 2.
    """
    check(config)
    config = filled(config)
    found = measure(FAMILY, config, folder)
    result = DimensionMap(
        of=found.of,
        cost=found.cost,
        settings=decisive(config),
        z=given(config.z),
        main_z=main_z(given(config.z)),
        records=found.records,
        small_train_loss=SMALL_TRAIN_LOSS,
    )
    comparison, correlations = compared(result, ("width", "depth"), found.cost)
    return {
        "width_depth": result,
        "comparison": comparison,
        "correlations": correlations,
    }


EXPERIMENT = Experiment(
    name="width-depth",
    config=WidthDepth,
    run=width_depth,
    check=check,
    plan=plan,
    summary="Effective dimension and losses over widths and depths.",
)
