"""What sweeps over trained networks share: their options, points, checks and plan.

``small``: perceptrons on few images of which a part is mislabelled. ``paper``: published
convolutional networks on CIFAR-100.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

from curvescope._core.checks import message, one_of, positive_int
from curvescope.experiments import conv_nets, small_nets
from curvescope.experiments.base import Plan, Preset, filled
from curvescope.experiments.conv_nets import ConvPoint
from curvescope.experiments.dimension_records import (
    PUBLISHED_Z,
    check_axis,
    given,
    provenance,
)
from curvescope.experiments.small_nets import NetPoint
from curvescope.experiments.sweep import run_points
from curvescope.results import Cost, Provenance

_VERSION = 2
# What both presets of every such sweep have in common.
SMALL: Mapping[str, Any] = {
    "data": "digits",
    "epochs": 2500,
    "num_samples": 200,
    "label_noise": 0.2,
    "z": (1e-4, 1e-3, 1e-2, 1e-1),
}
PAPER: Mapping[str, Any] = {
    "data": "cifar100",
    "seeds": 1,
    "epochs": 200,
    "label_noise": 0.0,
    "z": PUBLISHED_Z,
}
# Where a network stands, such as {"width": 3, "depth": 2}.
Place = Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class NetworkSweep:
    """Options of a sweep over networks."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"small": {}, "paper": {}}

    preset: Preset = "small"
    """small: perceptrons; paper: the published convolutional networks."""
    data: small_nets.Images | None = None
    """Images; digits, or cifar100 as published."""
    data_root: Path | None = None
    """The folder that holds one folder a data set."""
    widths: tuple[int, ...] | None = None
    """Neurons of every hidden layer, or channels of the first group or block, such as
    1,2,4."""
    seeds: int | None = None
    """Networks of every shape, each with its own weights and data."""
    epochs: int | None = None
    """Passes over the data; all samples at once (small), or batches of 128 (paper)."""
    num_samples: int | None = None
    """Training images, drawn at random for each network (small); the first so many, or
    all of them (paper)."""
    label_noise: float | None = None
    """Part of the training labels that are drawn anew at random; small only."""
    z: tuple[float, ...] | None = None
    """Where N_eff is computed, ascending, in the unit of the mean loss's curvature."""
    num_probes: int = 4
    """Random probes of the published networks' N_eff; the small ones' is exact."""
    num_steps: int = 100
    """Lanczos steps of each probe."""
    jobs: int | None = None
    """Worker processes; chosen by processors, memory and work by default."""


@final
@dataclass(frozen=True, kw_only=True)
class Family:
    """The networks of one experiment.

    Attributes:
        name: For the progress bar.
        axes: The configuration's fields that vary, by their place's name, outermost
            first; ``depth`` is 1 where it is none of them.
        small: The perceptrons in words.
        paper: The published networks in words.
        model: The published networks' name.
    """

    name: str
    axes: Mapping[str, str]
    small: str
    paper: str
    model: str

    def places(self, config: Any) -> list[dict[str, int]]:
        """Return where networks stand."""
        found: list[dict[str, int]] = [{}]
        for name, field in self.axes.items():
            values = given(getattr(config, field))
            found = [{**place, name: value} for place in found for value in values]
        return found

    def small_points(self, config: Any) -> list[tuple[Place, NetPoint]]:
        """Return the perceptrons, of which a point holds all seeds."""
        config = filled(config)
        return [
            (
                place,
                small_nets.point_of(
                    config, hidden=(place["width"],) * place.get("depth", 1)
                ),
            )
            for place in self.places(config)
        ]

    def paper_points(self, config: Any) -> list[tuple[Place, ConvPoint]]:
        """Return the published networks, one a seed."""
        config = filled(config)
        return [
            (
                place,
                conv_nets.point_of(
                    config,
                    model=self.model,
                    init_channels=place["width"],
                    depth=place.get("depth"),
                    seed=seed,
                ),
            )
            for place in self.places(config)
            for seed in range(given(config.seeds))
        ]


@final
@dataclass(frozen=True)
class Measured:
    """Trained and measured networks: a record each, what they are, what they cost."""

    records: tuple[Mapping[str, Any], ...]
    of: Provenance
    cost: Cost


def measure(family: Family, config: Any, folder: Path | None) -> Measured:
    """Train and measure the networks of a configuration whose preset is filled in."""
    began = time.perf_counter()
    places: list[Place]
    if config.preset == "small":
        points = family.small_points(config)
        places = [place for place, _ in points]
        found = run_points(
            [point for _, point in points],
            small_nets.measure_nets,
            folder=folder,
            version=_VERSION,
            jobs=config.jobs,
            seconds=small_nets.guess_seconds,
            memory=small_nets.guess_memory,
            description=family.name,
        )
    else:
        convs = family.paper_points(config)
        places = [place for place, _ in convs]
        found = conv_nets.run(
            [point for _, point in convs], folder=folder, version=_VERSION
        )
    records = tuple(
        {**place, **record}
        for place, value in zip(places, found, strict=True)
        for record in value["records"]
    )
    return Measured(
        records,
        provenance(
            "GGN" if config.preset == "small" else "Hessian",
            describe(family, config),
            records,
            found[0]["num_samples"],
        ),
        Cost(
            num_matvecs=sum(value["num_matvecs"] for value in found),
            seconds=time.perf_counter() - began,
        ),
    )


def describe(family: Family, config: Any) -> str:
    """Return the networks and their data in words."""
    if config.preset == "paper":
        return f"{family.paper}, cross-entropy, {config.data}"
    noise = f"{100 * given(config.label_noise):g} % of the labels random"
    images = f"{config.num_samples} images of {config.data}"
    return f"{family.small}, cross-entropy, {images}, {noise}"


def checker(family: Family) -> Callable[[Any], None]:
    """Return what refuses a wrong configuration, and one whose data are absent."""

    def check(config: NetworkSweep) -> None:
        """Check a configuration, and that its data are there.

        Raises:
            FileNotFoundError: If the data are absent.
            ValueError: If a value is out of range.
        """
        one_of("preset", config.preset, config.PRESETS)
        config = filled(config)
        small = config.preset == "small"
        if config.jobs is not None:
            positive_int("jobs", config.jobs)
        for name, field in family.axes.items():
            least = 0 if name == "depth" and not small else 1
            check_axis(field, getattr(config, field), minimum=least)
        positive_int("seeds", given(config.seeds))
        if small:
            for _, point in family.small_points(config):
                small_nets.check_point(point)
            return
        if config.label_noise:
            contract = "be 0 in the published setting"
            raise ValueError(message("label_noise", contract, config.label_noise))
        for _, conv in family.paper_points(config):
            conv_nets.check_point(conv)

    return check


def planner(family: Family) -> Callable[[Any], Plan]:
    """Return what says what a configuration will cost."""

    def plan(config: NetworkSweep) -> Plan:
        """Say what a configuration will cost."""
        config = filled(config)
        if config.preset == "paper":
            return conv_nets.plan([point for _, point in family.paper_points(config)])
        return small_nets.plan(
            {
                ", ".join(f"{name} {value}" for name, value in place.items()): point
                for place, point in family.small_points(config)
            }
        )

    return plan
