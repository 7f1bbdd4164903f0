"""Double descent of networks against their width, beside the effective dimension.

``small``: one hidden layer on few images of which a part is mislabelled, in a minute or
two. ``paper``: the published pre-activation ResNets on CIFAR-100.
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
    given,
    middle,
    provenance,
    with_peaks,
)
from curvescope.experiments.small_nets import NetPoint
from curvescope.experiments.sweep import run_points
from curvescope.results import Cost, DimensionSweep, Result

_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class DoubleDescent:
    """Losses and effective dimension against width."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {
            "data": "digits",
            # Evenly spaced by their logarithms.
            "widths": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64),
            "seeds": 8,
            "epochs": 2500,
            "num_samples": 200,
            "label_noise": 0.2,
            "z": (1e-4, 1e-3, 1e-2, 1e-1),
        },
        "paper": {
            "data": "cifar100",
            "widths": tuple(range(1, 66)),
            "seeds": 1,
            "epochs": 200,
            "label_noise": 0.0,
            "z": PUBLISHED_Z,
        },
    }

    preset: Preset = "small"
    """small: perceptrons of one hidden layer; paper: the published ResNets."""
    data: small_nets.Images | None = None
    """Images; digits, or cifar100 as published."""
    data_root: Path | None = None
    """The folder that holds one folder a data set."""
    widths: tuple[int, ...] | None = None
    """Neurons of the hidden layer, or channels of the first group, such as 1,2,4."""
    seeds: int | None = None
    """Networks at every width, each with its own weights and data."""
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
    began = time.perf_counter()
    places, found = _measured(config, folder)
    records = [
        {"width": width, **record}
        for width, value in zip(places, found, strict=True)
        for record in value["records"]
    ]
    sweep = DimensionSweep(
        of=provenance(
            "GGN" if config.preset == "small" else "Hessian",
            _description(config),
            records,
            found[0]["num_samples"],
        ),
        cost=Cost(
            num_matvecs=sum(value["num_matvecs"] for value in found),
            seconds=time.perf_counter() - began,
        ),
        settings=decisive(config),
        axis="width",
        z=given(config.z),
        main_z=middle(given(config.z)),
        records=tuple(records),
        small_train_loss=SMALL_TRAIN_LOSS,
    )
    return {"double_descent": with_peaks(sweep)}


def _measured(
    config: DoubleDescent, folder: Path | None
) -> tuple[list[int], list[dict[str, Any]]]:
    if config.preset == "small":
        points = small_points(config)
        values = run_points(
            list(points.values()),
            small_nets.measure_nets,
            folder=folder,
            version=_VERSION,
            jobs=config.jobs,
            seconds=small_nets.guess_seconds,
            memory=small_nets.guess_memory,
            description="double descent",
        )
        return list(points), values
    convs = paper_points(config)
    values = conv_nets.run(
        [point for _, point in convs], folder=folder, version=_VERSION
    )
    return [width for width, _ in convs], values


def small_points(config: DoubleDescent) -> Mapping[int, NetPoint]:
    """Return the perceptrons of the small preset, by width."""
    config = filled(config)
    return {
        width: small_nets.point_of(config, hidden=(width,))
        for width in given(config.widths)
    }


def paper_points(config: DoubleDescent) -> list[tuple[int, ConvPoint]]:
    """Return the ResNets of the published preset, with their widths."""
    config = filled(config)
    return [
        (
            width,
            conv_nets.point_of(
                config,
                model="preact-resnet18",
                init_channels=width,
                depth=None,
                seed=seed,
            ),
        )
        for width in given(config.widths)
        for seed in range(given(config.seeds))
    ]


def _description(config: DoubleDescent) -> str:
    if config.preset == "small":
        noise = f", {100 * given(config.label_noise):g} % of the labels random"
        return (
            f"ReLU networks of one hidden layer, cross-entropy, {config.num_samples} "
            f"images of {config.data}{noise}"
        )
    return f"pre-activation ResNet18, cross-entropy, {config.data}"


def check(config: DoubleDescent) -> None:
    """Check a configuration, and that its data are there.

    Raises:
        FileNotFoundError: If the data are absent.
        ValueError: If a value is out of range.
    """
    one_of("preset", config.preset, DoubleDescent.PRESETS)
    config = filled(config)
    if config.jobs is not None:
        positive_int("jobs", config.jobs)
    check_axis("widths", config.widths)
    positive_int("seeds", given(config.seeds))
    if config.preset == "small":
        for point in small_points(config).values():
            small_nets.check_point(point)
        return
    if config.label_noise:
        contract = "be 0 in the published setting"
        raise ValueError(message("label_noise", contract, config.label_noise))
    for _, conv in paper_points(config):
        conv_nets.check_point(conv)


def plan(config: DoubleDescent) -> Plan:
    """Say what a configuration will cost."""
    config = filled(config)
    if config.preset == "paper":
        return conv_nets.plan([point for _, point in paper_points(config)])
    points = small_points(config)
    return small_nets.plan({f"width {w}": point for w, point in points.items()})


EXPERIMENT = Experiment(
    name="double-descent",
    config=DoubleDescent,
    run=double_descent,
    check=check,
    plan=plan,
    summary="Double descent against width: test loss and effective dimension.",
)
