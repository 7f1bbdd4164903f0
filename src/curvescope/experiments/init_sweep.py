"""Loss and Hessian norm from several initial weights: the published notebook, put right.

The notebook has sd of the first layer's weights in 1e-5, 0.01 and 1, computes the norm of
that layer's block once, before training, and draws it as a constant. Here it is measured
along the training, of every layer, with both of its parts; and a finer grid of sd is
measured without training.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from curvescope._core.checks import one_of
from curvescope.experiments import init_nets
from curvescope.experiments.base import Experiment, Plan, decisive, filled
from curvescope.experiments.dimension_records import given
from curvescope.experiments.init_nets import Batches, InitPoint
from curvescope.experiments.init_settings import (
    PUBLISHED_SD,
    InitSettings,
    check_sds,
    check_settings,
)
from curvescope.experiments.sweep import run_points
from curvescope.results import Cost, InitScan, InitSummary, InitTraining, Result
from curvescope.results.init_experiments import summary_rows

Vary = Literal["layer1", "all"]
_SCHEMES: dict[str, str] = {"layer1": "published", "all": "normal"}
_FINE = (1e-5, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class InitSweep(InitSettings):
    """Loss and Hessian norm against the standard deviation of the first weights."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {
            "data": "digits",
            "seeds": 3,
            "steps": 1000,
            "every": 50,
            "num_train": 10_000,
            "fine": _FINE,
        },
        "paper": {
            "data": "mnist",
            "seeds": 10,
            "steps": 1000,
            "every": 20,
            "num_train": 60_000,
            "fine": _FINE,
        },
    }

    vary: Vary = "layer1"
    """layer1: the others are Glorot's, as published; all: every layer has the sd."""
    sd: tuple[float, ...] = PUBLISHED_SD
    """Standard deviations from which networks are trained, such as 1e-5,0.01,1."""
    fine: tuple[float, ...] | None = None
    """Further ones, of networks that are only measured, such as 0.001,0.1,0.3."""
    batches: Batches = "fresh"
    """fresh: new samples at every step; same: the same few, as the notebook had it."""


def init_sweep(config: InitSweep, *, folder: Path | None = None) -> dict[str, Result]:
    """Measure loss and layers' Hessian norms, before and along trainings.

    Args:
        config: The setting.
        folder: Where finished networks are kept, so that a later call goes on there.

    Returns:
        The trainings as ``init_sweep`` (the published table), their ``summary`` by sd,
        and the untrained networks of all sd as ``untrained``.

    Raises:
        PointError: If a network failed; finished ones are saved.
        ValueError: If the configuration is wrong.

    Cost:
        Some ten seconds on two cores (small); see `plan`.

    Example:
        >>> config = InitSweep(
        ...     hidden=(4,), sd=(0.1,), fine=(0.5,), seeds=1, steps=2, every=1,
        ...     num_probe=50, jobs=1,
        ... )
        >>> init_sweep(config)["init_sweep"].iterations
        (0, 1, 2)

    References:
        Skorski, Temperoni, Theobald (2021), arXiv:2004.09506, and its notebook.
    """
    check(config)
    config = filled(config)
    began = time.perf_counter()
    trained, untrained = points_of(config)
    found = run_points(
        [*trained.values(), *untrained.values()],
        init_nets.measure,
        folder=folder,
        version=init_nets.VERSION,
        jobs=config.jobs,
        seconds=init_nets.guess_seconds,
        memory=init_nets.guess_memory,
        description="initial standard deviations",
    )
    layers = tuple(found[0]["layers"])
    shared: dict[str, Any] = {
        "cost": Cost(seconds=time.perf_counter() - began),
        "settings": decisive(config),
    }
    notes = init_nets.sets_of(next(iter(trained.values()))).notes
    what = f"sd of {'layer 1' if config.vary == 'layer1' else 'all layers'}"
    training = training_result(
        dict(zip(trained, found, strict=False)), trained, what, shared, notes
    )
    records = [
        {"sd": sd, **record}
        for sd, value in zip((*trained, *untrained), found, strict=True)
        for record in value["records"]
        if record["iteration"] == 0
    ]
    everything = [*trained.values(), *untrained.values()]
    scan = InitScan(
        of=init_nets.provenance(everything, f"untrained, {what}"),
        records=tuple(sorted(records, key=lambda r: (r["sd"], r["seed"]))),
        layers=layers,
        num_probe=config.num_probe,
        vary=config.vary,
        power=_power(config),
        notes=notes,
        **shared,
    )
    summary = InitSummary(of=training.of, table=tuple(summary_rows(training)), **shared)
    return {"init_sweep": training, "summary": summary, "untrained": scan}


def training_result(
    found: dict[Any, dict[str, Any]],
    points: dict[Any, InitPoint],
    what: str,
    shared: dict[str, Any],
    notes: tuple[str, ...],
) -> InitTraining:
    """Put the records of trainings together, the published columns first."""
    first = next(iter(points.values()))
    layers = tuple(next(iter(found.values()))["layers"])
    records = []
    for key, point in points.items():
        for record in found[key]["records"]:
            start = {
                "sd": point.sd,
                "batches": point.batches,
                "seed": record["seed"],
                "iteration": record["iteration"],
                "loss": record["loss"],
                "hessian_norm": record[f"{layers[0]}_norm"],
            }
            records.append(start | record)
    order = ("batches", "sd", "seed", "iteration")
    records.sort(key=lambda record: tuple(record[name] for name in order))
    return InitTraining(
        of=init_nets.provenance([first], what),
        records=tuple(records),
        layers=layers,
        num_probe=first.num_probe,
        batch_size=first.batch_size,
        notes=(*notes, *init_nets.doubts(records)),
        **shared,
    )


def points_of(
    config: InitSweep,
) -> tuple[dict[float, InitPoint], dict[float, InitPoint]]:
    """Return the networks that are trained, and those that are only measured, by sd."""
    config = filled(config)
    scheme = _SCHEMES[config.vary]
    trained = {
        sd: init_nets.point_of(config, scheme=scheme, sd=sd, batches=config.batches)
        for sd in config.sd
    }
    untrained = {
        sd: init_nets.point_of(config, scheme=scheme, sd=sd, trained=False)
        for sd in given(config.fine)
        if sd not in trained
    }
    return trained, untrained


def _power(config: InitSweep) -> int | None:
    """Return the power of the sd in all norms of a ReLU net of that sd."""
    homogeneous = config.activation in ("relu", "leaky_relu", "identity", "linear")
    return 2 * len(config.hidden) if config.vary == "all" and homogeneous else None


def check(config: InitSweep) -> None:
    """Check a configuration, and that its data are there.

    Raises:
        FileNotFoundError: If the data are absent.
        ValueError: If a value is out of range.
    """
    one_of("preset", config.preset, InitSweep.PRESETS)
    config = filled(config)
    one_of("vary", config.vary, _SCHEMES)
    one_of("batches", config.batches, ("fresh", "same"))
    check_sds("sd", config.sd)
    check_sds("fine", given(config.fine))
    check_settings(config)
    init_nets.check_data(next(iter(points_of(config)[0].values())))


def plan(config: InitSweep) -> Plan:
    """Say what a configuration will cost."""
    trained, untrained = points_of(config)
    return init_nets.plan(
        {f"sd {sd:g}, trained": point for sd, point in trained.items()}
        | {f"sd {sd:g}": point for sd, point in untrained.items()}
    )


EXPERIMENT = Experiment(
    name="init-sweep",
    config=InitSweep,
    run=init_sweep,
    check=check,
    plan=plan,
    summary="Loss and layers' Hessian norms from initial weights of several sd.",
)
