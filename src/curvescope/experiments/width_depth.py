"""Effective dimension over widths and depths, beside train and test loss.

``small``: perceptrons on few images of which a part is mislabelled. ``paper``: the
published convolutional networks on CIFAR-100.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from curvescope._core.checks import message, one_of, positive_int
from curvescope.experiments import conv_nets, small_nets
from curvescope.experiments.base import (
    Experiment,
    Plan,
    Preset,
    decisive,
    filled,
)
from curvescope.experiments.conv_nets import ConvPoint
from curvescope.experiments.dimension_records import (
    PUBLISHED_Z,
    SMALL_TRAIN_LOSS,
    check_axis,
    compared,
    given,
    middle,
    provenance,
)
from curvescope.experiments.small_nets import NetPoint
from curvescope.experiments.sweep import run_points
from curvescope.results import Cost, DimensionMap, Result

_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class WidthDepth:
    """Effective dimension, test loss and train loss over widths and depths."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {
            "data": "digits",
            "widths": (3, 4, 6, 8, 12, 16, 32),
            "depths": (1, 2, 3, 4),
            "seeds": 5,
            "epochs": 2500,
            "num_samples": 200,
            "label_noise": 0.2,
            "z": (1e-4, 1e-3, 1e-2, 1e-1),
        },
        "paper": {
            "data": "cifar100",
            "widths": tuple(range(4, 65, 4)),
            "depths": tuple(range(9)),
            "seeds": 1,
            "epochs": 200,
            "label_noise": 0.0,
            "z": PUBLISHED_Z,
        },
    }

    preset: Preset = "small"
    """small: perceptrons; paper: the published convolutional networks."""
    data: small_nets.Images | None = None
    """Images; digits, or cifar100 as published."""
    data_root: Path | None = None
    """The folder that holds one folder a data set."""
    widths: tuple[int, ...] | None = None
    """Neurons of all hidden layers, or channels of the first block, such as 4,8,16."""
    depths: tuple[int, ...] | None = None
    """Hidden layers, or blocks after the first, such as 1,2,3."""
    seeds: int | None = None
    """Networks at every width and depth, each with its own weights and data."""
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
    began = time.perf_counter()
    if config.preset == "small":
        points = small_points(config)
        places = list(points)
        found = run_points(
            list(points.values()),
            small_nets.measure_nets,
            folder=folder,
            version=_VERSION,
            jobs=config.jobs,
            seconds=small_nets.guess_seconds,
            memory=small_nets.guess_memory,
            description="widths and depths",
        )
    else:
        convs = paper_points(config)
        places = [place for place, _ in convs]
        found = conv_nets.run(
            [point for _, point in convs], folder=folder, version=_VERSION
        )
    records = tuple(
        {"width": width, "depth": depth, **record}
        for (width, depth), value in zip(places, found, strict=True)
        for record in value["records"]
    )
    cost = Cost(
        num_matvecs=sum(value["num_matvecs"] for value in found),
        seconds=time.perf_counter() - began,
    )
    result = DimensionMap(
        of=provenance(
            "GGN" if config.preset == "small" else "Hessian",
            _description(config),
            records,
            found[0]["num_samples"],
        ),
        cost=cost,
        settings=decisive(config),
        z=given(config.z),
        main_z=middle(given(config.z)),
        records=records,
        small_train_loss=SMALL_TRAIN_LOSS,
    )
    comparison, correlations = compared(result, ("width", "depth"), cost)
    return {
        "width_depth": result,
        "comparison": comparison,
        "correlations": correlations,
    }


def small_points(config: WidthDepth) -> Mapping[tuple[int, int], NetPoint]:
    """Return the perceptrons of the small preset, by width and depth."""
    config = filled(config)
    return {
        (width, depth): small_nets.point_of(config, hidden=(width,) * depth)
        for depth in given(config.depths)
        for width in given(config.widths)
    }


def paper_points(config: WidthDepth) -> list[tuple[tuple[int, int], ConvPoint]]:
    """Return the convolutional networks of the published preset, with their places."""
    config = filled(config)
    return [
        (
            (width, depth),
            conv_nets.point_of(
                config, model="convnet", init_channels=width, depth=depth, seed=seed
            ),
        )
        for depth in given(config.depths)
        for width in given(config.widths)
        for seed in range(given(config.seeds))
    ]


def _description(config: WidthDepth) -> str:
    if config.preset == "small":
        noise = f", {100 * given(config.label_noise):g} % of the labels random"
        return (
            f"ReLU perceptrons, cross-entropy, {config.num_samples} images of "
            f"{config.data}{noise}"
        )
    return f"convolutional networks, cross-entropy, {config.data}"


def check(config: WidthDepth) -> None:
    """Check a configuration, and that its data are there.

    Raises:
        FileNotFoundError: If the data are absent.
        ValueError: If a value is out of range.
    """
    one_of("preset", config.preset, WidthDepth.PRESETS)
    config = filled(config)
    if config.jobs is not None:
        positive_int("jobs", config.jobs)
    small = config.preset == "small"
    check_axis("widths", config.widths)
    check_axis("depths", config.depths, minimum=1 if small else 0)
    positive_int("seeds", given(config.seeds))
    if small:
        for point in small_points(config).values():
            small_nets.check_point(point)
        return
    if config.label_noise:
        contract = "be 0 in the published setting"
        raise ValueError(message("label_noise", contract, config.label_noise))
    for _, conv in paper_points(config):
        conv_nets.check_point(conv)


def plan(config: WidthDepth) -> Plan:
    """Say what a configuration will cost."""
    config = filled(config)
    if config.preset == "paper":
        return conv_nets.plan([point for _, point in paper_points(config)])
    points = small_points(config)
    return small_nets.plan(
        {f"width {w}, depth {d}": point for (w, d), point in points.items()}
    )


EXPERIMENT = Experiment(
    name="width-depth",
    config=WidthDepth,
    run=width_depth,
    check=check,
    plan=plan,
    summary="Effective dimension and losses over widths and depths.",
)
