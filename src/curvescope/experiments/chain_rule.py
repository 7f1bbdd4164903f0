"""The Hessian chain rule measured: a layer's curvature part against its linearisation part.

Networks without biases, all weights normal with one small standard deviation s: the
ratio of the parts follows powers of s that differ from layer to layer. What holds exactly
(scales of ReLU networks, vanishing curvature) is checked beside.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from curvescope._core.checks import message, one_of, positive_int, real
from curvescope.exact import own_blocks
from curvescope.experiments.base import (
    Experiment,
    Plan,
    PlannedRuns,
    Preset,
    decisive,
    filled,
)
from curvescope.experiments.chain_laws import (
    SLOPE,
    LawPoint,
    first_images,
    law_row,
    measure_laws,
    network,
    num_classes,
    scale_,
)
from curvescope.experiments.dimension_records import MEAN_UNIT, check_axis, given
from curvescope.experiments.init_settings import IMAGES, Images, check_sds
from curvescope.experiments.sweep import run_points
from curvescope.models.mlp import ACTIVATIONS
from curvescope.problem import Problem
from curvescope.results import ChainRule, Cost, LawCheck, LawTable, Provenance, Result
from curvescope.theory.initialisation import curvature_ratio_exponent

# Smooth, odd, of slope 1 at zero: the only ones of which the power is predicted.
ODD = ("tanh",)
# An own block's curvature part is zero.
PIECEWISE_LINEAR = ("relu", "leaky_relu", "identity", "linear")
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ChainRuleConfig:
    """Curvature over linearisation part by layer, depth, activation and scale."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {
            "data": "digits",
            "activations": ("tanh", "gelu", "relu"),
            "depths": (3, 5),
            "seeds": 3,
        },
        "paper": {
            "data": "mnist",
            "activations": (
                "tanh", "gelu", "softplus", "elu", "sigmoid", "relu", "leaky_relu",
            ),
            "depths": (2, 3, 4, 5, 6, 8),
            "seeds": 5,
        },
    }  # fmt: skip

    preset: Preset = "small"
    """small: seconds; paper: more activations, depths and seeds, on MNIST."""
    data: Images | None = None
    """Images, flattened."""
    data_root: Path | None = None
    """The folder that holds one folder a data set."""
    activations: tuple[str, ...] | None = None
    """Of the hidden layers, such as tanh relu."""
    depths: tuple[int, ...] | None = None
    """Numbers of linear layers, such as 3,5."""
    width: int = 30
    """Neurons of every hidden layer."""
    scales: tuple[float, ...] = (1e-4, 1e-3, 0.01, 0.03, 0.1, 0.2, 0.4)
    """Standard deviations of all weights; the powers are taken at the two smallest."""
    num_samples: int = 40
    """The first so many training images."""
    seeds: int | None = None
    """Networks of each kind: seeds 0, 1, 2, ..."""
    jobs: int | None = None
    """Worker processes; chosen by processors, memory and work by default."""


@dataclass(frozen=True, kw_only=True)
class ChainPoint:
    """Networks of one activation and depth, at all scales."""

    data: str
    data_root: Path | None
    activation: str
    depth: int
    width: int
    scales: tuple[float, ...]
    num_samples: int
    seed: int


def chain_rule(
    config: ChainRuleConfig, *, folder: Path | None = None
) -> dict[str, Result]:
    """Measure the parts of every layer's block, and check the laws.

    Args:
        config: The setting.
        folder: Where finished networks are kept, so that a later call goes on there.

    Returns:
        The norms as ``chain_rule``, and the ``laws``, each beside its measurement.

    Raises:
        PointError: If a network failed; finished ones are saved.
        ValueError: If the configuration is wrong.

    Cost:
        Some seconds (small); see `plan`.

    Example:
        >>> config = ChainRuleConfig(
        ...     activations=("tanh",), depths=(3,), seeds=1, width=4, num_samples=5,
        ...     jobs=1,
        ... )
        >>> found = chain_rule(config)["chain_rule"]
        >>> round(found.power("tanh", 3, 1)["measured"], 3)
        -1.0

    References:
        Skorski, Temperoni, Theobald (2021), arXiv:2004.09506.
    """
    check(config)
    config = filled(config)
    began = time.perf_counter()
    points = points_of(config)
    found = run_points(
        points,
        measure,
        folder=folder,
        version=_VERSION,
        jobs=config.jobs,
        seconds=guess_seconds,
        memory=guess_memory,
        description="layers' parts",
    )
    records = tuple(record for value in found for record in value["records"])
    powers = tuple(_powers(records, config.scales))
    laws = [_power_check(row) for row in powers if row["predicted"] is not None]
    (exact,) = run_points(
        [LawPoint(data=given(config.data), data_root=config.data_root, seed=0)],
        measure_laws,
        folder=folder,
        version=_VERSION,
        jobs=1,
        description="laws",
    )
    laws += [LawCheck(**row) for row in exact["laws"]]
    shared: dict[str, Any] = {
        "of": _provenance(points),
        "cost": Cost(seconds=time.perf_counter() - began),
        "settings": decisive(config),
    }
    return {
        "chain_rule": ChainRule(records=records, powers=powers, **shared),
        "laws": LawTable(laws=tuple(laws), **shared),
    }


def measure(point: ChainPoint) -> dict[str, Any]:
    """Measure the parts of every layer's block at every scale; one draw of weights.

    Returns:
        ``records``, one a scale and layer.

    Cost:
        One evaluation of all blocks a scale.

    Example:
        >>> point = ChainPoint(
        ...     data="digits", data_root=None, activation="relu", depth=2, width=3,
        ...     scales=(0.1,), num_samples=4, seed=0,
        ... )
        >>> [record["curvature"] for record in measure(point)["records"]]
        [0.0, 0.0]
    """
    images, labels = first_images(point.data, point.data_root, point.num_samples)
    between = (point.width,) * (point.depth - 1)
    widths = (images.shape[1], *between, num_classes(point.data))
    records = []
    for scale in point.scales:
        model = network(widths, point.activation, point.seed)
        scale_(model, [scale] * point.depth)
        problem = Problem(model, "cross_entropy", (images, labels))
        for layer, block in enumerate(own_blocks(problem).values(), start=1):
            norms = block.frobenius_norms()
            records.append(
                {
                    "activation": point.activation,
                    "depth": point.depth,
                    "layer": layer,
                    "scale": scale,
                    "seed": point.seed,
                    "whole": norms.whole,
                    "linearisation": norms.linearisation,
                    "curvature": norms.curvature,
                    "ratio": norms.curvature / norms.linearisation
                    if norms.linearisation > 0.0
                    else None,
                }
            )
    return {"records": records}


def _powers(
    records: Sequence[Mapping[str, Any]], scales: Sequence[float]
) -> list[dict[str, Any]]:
    """Return the power of the scale in each layer's ratio, the mean over the seeds."""
    low, high = sorted(scales)[:2]
    ratios = {
        (r["activation"], r["depth"], r["layer"], r["scale"], r["seed"]): r["ratio"]
        for r in records
    }
    seeds = sorted({r["seed"] for r in records})
    kinds = dict.fromkeys((r["activation"], r["depth"], r["layer"]) for r in records)
    table = []
    for kind in kinds:
        pairs = [(ratios[*kind, low, s], ratios[*kind, high, s]) for s in seeds]
        slopes = [math.log(b / a) / math.log(high / low) for a, b in pairs if a and b]
        activation, depth, layer = kind
        known = activation in ODD and layer < depth
        table.append(
            {
                "activation": activation,
                "depth": depth,
                "layer": layer,
                "measured": sum(slopes) / len(slopes) if slopes else None,
                "predicted": curvature_ratio_exponent(layer, depth=depth)
                if known
                else None,
            }
        )
    return table


def _power_check(row: Mapping[str, Any]) -> LawCheck:
    where = f"{row['activation']}, {row['depth']} layers, layer {row['layer']}: power"
    return LawCheck(
        **law_row("curvature_ratio", where, row["predicted"], row["measured"], SLOPE)
    )


def points_of(config: ChainRuleConfig) -> list[ChainPoint]:
    """Return the networks."""
    config = filled(config)
    return [
        ChainPoint(
            data=given(config.data),
            data_root=config.data_root,
            activation=activation,
            depth=depth,
            width=config.width,
            scales=tuple(sorted(config.scales)),
            num_samples=config.num_samples,
            seed=seed,
        )
        for activation in given(config.activations)
        for depth in given(config.depths)
        for seed in range(given(config.seeds))
    ]


def _num_params(point: ChainPoint) -> int:
    pixels = {"digits": 64, "mnist": 784, "fashion-mnist": 784}.get(point.data, 3072)
    between = (point.depth - 2) * point.width**2
    return point.width * (pixels + num_classes(point.data)) + between


def _provenance(points: Sequence[ChainPoint]) -> Provenance:
    first = points[0]
    return Provenance(
        matrix="own block of each layer in the Hessian",
        description=(
            f"networks of width {first.width} without biases, cross-entropy, {first.data}"
        ),
        reduction="mean",
        unit=MEAN_UNIT,
        num_params=max(_num_params(point) for point in points),
        num_samples=first.num_samples,
    )


def check(config: ChainRuleConfig) -> None:
    """Check a configuration, and that its data are there.

    Raises:
        FileNotFoundError: If the data are absent.
        ValueError: If a value is out of range.
    """
    one_of("preset", config.preset, ChainRuleConfig.PRESETS)
    config = filled(config)
    one_of("data", given(config.data), IMAGES)
    for activation in given(config.activations):
        one_of("activations", activation, ACTIVATIONS)
    check_axis("depths", config.depths, minimum=2)
    check_sds("scales", config.scales)
    if len(config.scales) < 2:
        contract = "hold at least two numbers, between which a power is taken"
        raise ValueError(message("scales", contract, config.scales))
    for name in ("width", "num_samples", "seeds"):
        positive_int(name, given(getattr(config, name)))
    for scale in config.scales:
        real("scales", scale, minimum=1e-12)
    if config.jobs is not None:
        positive_int("jobs", config.jobs)
    first_images(given(config.data), config.data_root, config.num_samples)


def guess_seconds(point: ChainPoint) -> float:
    """Guess how long a point takes on one core."""
    passes = 10 + (point.width if point.activation not in PIECEWISE_LINEAR else 0)
    work = passes * point.depth**2 * point.num_samples * _num_params(point)
    return len(point.scales) * (0.02 + work / 2e9)


def guess_memory(point: ChainPoint) -> float:
    """Guess the bytes that a point needs."""
    return 4e8 + 8.0 * 40 * _num_params(point) + 300.0 * 3072


def plan(config: ChainRuleConfig) -> Plan:
    """Say what a configuration will cost."""
    groups: dict[tuple[str, int], list[ChainPoint]] = {}
    for point in points_of(config):
        groups.setdefault((point.activation, point.depth), []).append(point)
    rows = tuple(
        PlannedRuns(
            what=f"{activation}, {depth} layers, {len(points[0].scales)} scales",
            runs=len(points),
            num_params=_num_params(points[0]),
            hours=sum(map(guess_seconds, points)) / 3600.0,
        )
        for (activation, depth), points in groups.items()
    )
    return Plan(rows=rows, basis="one CPU core")


EXPERIMENT = Experiment(
    name="chain-rule",
    config=ChainRuleConfig,
    run=chain_rule,
    check=check,
    plan=plan,
    summary="Curvature over linearisation of every layer, against the law of the scale.",
)
