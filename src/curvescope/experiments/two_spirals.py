"""Function-space homogeneity on the two spirals, and sweeps over width and depth.

Without ``--sweep``: one network, its exact spectrum, surfaces on planes of top, bottom
and all eigenvectors, steps along them beside random ones, and what these do to the
decision boundary.
"""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from curvescope._core.checks import message, one_of, positive_int, real
from curvescope.experiments import spiral_nets, spiral_surfaces
from curvescope.experiments.base import (
    Experiment,
    Plan,
    PlannedRuns,
    Preset,
    decisive,
    filled,
)
from curvescope.experiments.dimension_records import (
    SMALL_TRAIN_LOSS,
    check_axis,
    given,
    provenance,
    with_peaks,
)
from curvescope.experiments.small_nets import check_z
from curvescope.experiments.spiral_nets import SpiralPoint
from curvescope.experiments.sweep import run_points
from curvescope.results import Cost, DimensionSweep, Result

_VERSION = 1
# The exact spectrum is dense; the published depth sweep reaches 5,961 parameters.
_LARGEST = 8000


@dataclass(frozen=True, kw_only=True)
class TwoSpirals:
    """Steps along top, bottom and random directions; or sweeps of width and depth."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {
            "widths": tuple(range(1, 13)),
            "depths": tuple(range(1, 9)),
            "seeds": 5,
            "grid": 25,
        },
        "paper": {
            "widths": tuple(range(1, 30)),
            "depths": tuple(range(1, 15)),
            "seeds": 25,
            "grid": 100,
        },
    }

    preset: Preset = "small"
    """paper has more widths, depths and seeds in sweeps, and finer surfaces."""
    sweep: Literal["none", "width", "depth"] = "none"
    """Measure losses and N_eff along widths or depths instead."""
    widths: tuple[int, ...] | None = None
    """Of --sweep width: neurons of every hidden layer."""
    depths: tuple[int, ...] | None = None
    """Of --sweep depth: hidden layers after the first."""
    width: int = 20
    """Neurons of every hidden layer where they do not vary; 2,181 parameters at 20."""
    depth: int = 5
    """Hidden layers after the first where they do not vary."""
    num_samples: int = 1000
    """Training points; twice as many test points are drawn."""
    noise: float | None = None
    """Spread around the spirals; 1.3, and 1.5 in sweeps, as published."""
    epochs: int | None = None
    """Steps on all points at once; 4000, and 2000 in sweeps, as published."""
    seeds: int | None = None
    """Networks at every place of a sweep, each with its own data."""
    z: tuple[float, ...] = (1e-3, 1e-1, 1.0, 50.0)
    """Where N_eff is computed, ascending; sweeps were published at 50."""
    grid: int | None = None
    """Points of each side of a surface."""
    jobs: int | None = None
    """Worker processes of a sweep; chosen by processors and work by default."""


def two_spirals(config: TwoSpirals, *, folder: Path | None = None) -> dict[str, Result]:
    """Train on the two spirals; measure what steps from the weights change.

    Args:
        config: The setting.
        folder: Where finished parts are kept, so that a later call goes on there.

    Returns:
        Of a sweep ``two_spirals``; else ``directions`` with the steps of one network,
        ``bottom_500`` and ``bottom_2000`` (or as many as there are), ``classifiers``,
        ``surfaces``, ``wide_surfaces``, ``eigenvalues``, ``effective_dimension`` and
        ``training``.

    Raises:
        PointError: If a place of a sweep failed; finished ones are saved.
        ValueError: If the configuration is wrong.

    Cost:
        One network about a minute on one core, half of it training; a sweep some
        minutes.

    Example:
        >>> config = TwoSpirals(
        ...     sweep="width", widths=(1, 2), depth=1, num_samples=8, epochs=2, seeds=1,
        ...     jobs=1,
        ... )
        >>> two_spirals(config)["two_spirals"].places
        (1, 2)

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, sections 4 and 5; the noise and
        net of version 14defa1 of its notebook.
    """
    check(config)
    config = settled(config)
    if config.sweep == "none":
        (point,) = points_of(config).values()
        return spiral_surfaces.study(
            point, grid=given(config.grid), settings=decisive(config), folder=folder
        )
    began = time.perf_counter()
    points = points_of(config)
    found = run_points(
        list(points.values()),
        spiral_nets.measure_spirals,
        folder=folder,
        version=_VERSION,
        jobs=config.jobs,
        seconds=spiral_nets.guess_seconds,
        description=f"spirals against {config.sweep}",
    )
    records = tuple(
        {config.sweep: place, **record}
        for place, value in zip(points, found, strict=True)
        for record in value["records"]
    )
    fixed = (
        f"depth {config.depth}" if config.sweep == "width" else f"width {config.width}"
    )
    sweep = DimensionSweep(
        of=provenance(
            "Hessian",
            f"ELU networks of {fixed}, binary cross-entropy, two spirals",
            records,
            config.num_samples,
        ),
        cost=Cost(seconds=time.perf_counter() - began),
        settings=decisive(config),
        axis=config.sweep,
        z=config.z,
        main_z=config.z[-1],
        records=records,
        small_train_loss=SMALL_TRAIN_LOSS,
    )
    return {"two_spirals": with_peaks(sweep)}


def settled(config: TwoSpirals) -> TwoSpirals:
    """Return a configuration with nothing left open."""
    config = filled(config)
    alone = config.sweep == "none"
    more: dict[str, Any] = {}
    if config.noise is None:
        more["noise"] = 1.3 if alone else 1.5
    if config.epochs is None:
        more["epochs"] = 4000 if alone else 2000
    return dataclasses.replace(config, **more)


def points_of(config: TwoSpirals) -> Mapping[int, SpiralPoint]:
    """Return the points by their place on the axis; one network's by its width."""
    config = settled(config)
    alone = config.sweep == "none"
    places: Mapping[str, tuple[int, ...]] = {
        "none": (config.width,),
        "width": given(config.widths),
        "depth": given(config.depths),
    }
    return {
        place: SpiralPoint(
            width=config.width if config.sweep == "depth" else place,
            depth=place if config.sweep == "depth" else config.depth,
            num_samples=config.num_samples,
            noise=given(config.noise),
            epochs=given(config.epochs),
            weight_decay=1e-4 if alone else 0.0,
            seeds=1 if alone else given(config.seeds),
            z=config.z,
        )
        for place in places[config.sweep]
    }


def check(config: TwoSpirals) -> None:
    """Check a configuration.

    Raises:
        ValueError: If a value is out of range.
    """
    one_of("preset", config.preset, TwoSpirals.PRESETS)
    one_of("sweep", config.sweep, ("none", "width", "depth"))
    config = settled(config)
    check_axis("widths", config.widths)
    check_axis("depths", config.depths, minimum=0)
    positive_int("width", config.width)
    positive_int("depth", config.depth, minimum=0)
    positive_int("num_samples", config.num_samples, minimum=2)
    if config.num_samples % 2:
        contract = "be even: one half mirrors the other"
        raise ValueError(message("num_samples", contract, config.num_samples))
    real("noise", given(config.noise), minimum=0.0)
    positive_int("epochs", given(config.epochs))
    positive_int("seeds", given(config.seeds))
    positive_int("grid", given(config.grid), minimum=2)
    if config.jobs is not None:
        positive_int("jobs", config.jobs)
    check_z(config.z)
    largest = max(map(spiral_nets.num_params, points_of(config).values()))
    if largest > _LARGEST:
        contract = f"make networks of at most {_LARGEST} parameters: spectra are dense"
        raise ValueError(message("width", contract, f"{largest} of them"))
    smallest = min(map(spiral_nets.num_params, points_of(config).values()))
    if config.sweep == "none" and smallest < spiral_surfaces.FEWEST:
        contract = f"make a network of at least {spiral_surfaces.FEWEST} parameters"
        raise ValueError(message("width", contract, f"{smallest} of them"))


def plan(config: TwoSpirals) -> Plan:
    """Say what a configuration will cost."""
    config = settled(config)
    rows = []
    for point in points_of(config).values():
        hours = spiral_nets.guess_seconds(point) / 3600.0
        if config.sweep == "none":
            hours += spiral_surfaces.guess_seconds(point, given(config.grid)) / 3600.0
        rows.append(
            PlannedRuns(
                what=f"width {point.width}, depth {point.depth}",
                runs=point.seeds,
                num_params=spiral_nets.num_params(point),
                num_steps=point.epochs,
                hours=hours,
            )
        )
    return Plan(rows=tuple(rows), basis="one CPU core")


EXPERIMENT = Experiment(
    name="two-spirals",
    config=TwoSpirals,
    run=two_spirals,
    check=check,
    plan=plan,
    summary="Two spirals: surfaces, steps and boundaries; or width and depth sweeps.",
)
