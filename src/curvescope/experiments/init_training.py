"""Loss and Hessian norm along trainings with fresh batches, and with the same one.

The published notebook seeds its random numbers inside the loop, so that every step sees
the same 32 samples: the norm then only rises, as the network learns them by heart.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from curvescope._core.checks import one_of
from curvescope.experiments import init_nets
from curvescope.experiments.base import Experiment, Plan, decisive, filled
from curvescope.experiments.init_nets import Batches, InitPoint
from curvescope.experiments.init_settings import (
    PUBLISHED_SD,
    InitSettings,
    check_sds,
    check_settings,
)
from curvescope.experiments.init_sweep import training_result
from curvescope.experiments.sweep import run_points
from curvescope.results import Cost, InitSummary, Result
from curvescope.results.init_experiments import summary_rows

_KINDS: dict[str, tuple[Batches, ...]] = {
    "both": ("fresh", "same"),
    "fresh": ("fresh",),
    "same": ("same",),
}


@dataclass(frozen=True, kw_only=True)
class InitTrainingConfig(InitSettings):
    """Loss and Hessian norm along trainings, with fresh batches and with the same one."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {
            "data": "digits",
            "seeds": 3,
            "steps": 1000,
            "every": 50,
            "num_train": 10_000,
        },
        "paper": {
            "data": "mnist",
            "seeds": 10,
            "steps": 5000,
            "every": 50,
            "num_train": 60_000,
        },
    }

    sd: tuple[float, ...] = PUBLISHED_SD
    """Standard deviations of the first layer's weights, such as 1e-5,0.01,1."""
    batches: Literal["both", "fresh", "same"] = "both"
    """fresh: new samples at every step; same: the same few, as the notebook had it."""


def init_training(
    config: InitTrainingConfig, *, folder: Path | None = None
) -> dict[str, Result]:
    """Measure loss and layers' Hessian norms along trainings.

    Args:
        config: The setting.
        folder: Where finished networks are kept, so that a later call goes on there.

    Returns:
        The trainings as ``init_training``, and their ``summary``.

    Raises:
        PointError: If a network failed; finished ones are saved.
        ValueError: If the configuration is wrong.

    Cost:
        Some ten seconds on two cores (small); see `plan`.

    Example:
        >>> config = InitTrainingConfig(
        ...     hidden=(4,), sd=(0.1,), seeds=1, steps=2, every=2, num_probe=50, jobs=1
        ... )
        >>> init_training(config)["init_training"].batches
        ('fresh', 'same')

    References:
        Skorski, Temperoni, Theobald (2021), arXiv:2004.09506, and its notebook.
    """
    check(config)
    config = filled(config)
    began = time.perf_counter()
    points = points_of(config)
    found = run_points(
        list(points.values()),
        init_nets.measure,
        folder=folder,
        version=init_nets.VERSION,
        jobs=config.jobs,
        seconds=init_nets.guess_seconds,
        memory=init_nets.guess_memory,
        description="trainings",
    )
    shared: dict[str, Any] = {
        "cost": Cost(seconds=time.perf_counter() - began),
        "settings": decisive(config),
    }
    training = training_result(
        dict(zip(points, found, strict=True)),
        points,
        f"trained from sd of layer 1, {config.batches} batches",
        shared,
        init_nets.sets_of(next(iter(points.values()))).notes,
    )
    summary = InitSummary(of=training.of, table=tuple(summary_rows(training)), **shared)
    return {"init_training": training, "summary": summary}


def points_of(config: InitTrainingConfig) -> dict[tuple[str, float], InitPoint]:
    """Return the trainings, by kind of batches and sd."""
    config = filled(config)
    return {
        (kind, sd): init_nets.point_of(config, scheme="published", sd=sd, batches=kind)
        for kind in _KINDS[config.batches]
        for sd in config.sd
    }


def check(config: InitTrainingConfig) -> None:
    """Check a configuration, and that its data are there.

    Raises:
        FileNotFoundError: If the data are absent.
        ValueError: If a value is out of range.
    """
    one_of("preset", config.preset, InitTrainingConfig.PRESETS)
    config = filled(config)
    one_of("batches", config.batches, _KINDS)
    check_sds("sd", config.sd)
    check_settings(config)
    init_nets.check_data(next(iter(points_of(config).values())))


def plan(config: InitTrainingConfig) -> Plan:
    """Say what a configuration will cost."""
    return init_nets.plan(
        {
            f"{kind} batches, sd {sd:g}": point
            for (kind, sd), point in points_of(config).items()
        }
    )


EXPERIMENT = Experiment(
    name="init-training",
    config=InitTrainingConfig,
    run=init_training,
    check=check,
    plan=plan,
    summary="Loss and Hessian norm along trainings, with fresh batches and the same.",
)
