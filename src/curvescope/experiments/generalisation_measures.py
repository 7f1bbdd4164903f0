"""Which measure of a trained network goes with its test loss? N_eff beside the others.

A family of small networks (widths, depths, weight decays, seeds) is trained on few,
partly mislabelled images. Every measure sees training data only.
"""

import time
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from curvescope import data as datasets
from curvescope import models
from curvescope._core.checks import message, positive_int, real
from curvescope.data import with_label_noise
from curvescope.exact.gram import ggn_spectrum
from curvescope.experiments.base import (
    Experiment,
    Plan,
    PlannedRuns,
    Preset,
    decisive,
    filled,
)
from curvescope.experiments.correlations import correlate
from curvescope.experiments.norms import path_norm, sharpness, spectral_complexity
from curvescope.experiments.sweep import run_points
from curvescope.linalg import effective_dimension
from curvescope.problem import Problem
from curvescope.results import Cost, MeasureComparison, Provenance, Result
from curvescope.training import train_many

Target = Literal["test_loss", "test_error", "loss_gap"]
MEASURES = (
    "effective_dimension",
    "num_params",
    "path_norm",
    "sharpness",
    "magnitude_sharpness",
    "spectral_complexity",
    "weight_norm",
    "distance_moved",
    "ggn_trace",
)
_WORDS = {
    "num_params": "parameters P",
    "path_norm": "path norm",
    "sharpness": "PAC-Bayes sharpness 1/\u03c3\u00b2",
    "magnitude_sharpness": "the same, magnitude-aware",
    "spectral_complexity": "spectral norms / margin",
    "weight_norm": "norm of the weights",
    "distance_moved": "distance from the start",
    "ggn_trace": "trace of the GGN",
    "loss_gap": "test loss \u2212 train loss",
}
_VERSION = 1
_PIXELS = {"digits": 64, "mnist": 784, "fashion-mnist": 784}
_CLASSES = 10
# Multiplications a second of one core in training and in decompositions, and what a
# training step costs however small the networks are.
_RATE, _DENSE_RATE, _STEP_SECONDS = 2e9, 8e9, 0.0025


@dataclass(frozen=True, kw_only=True)
class GeneralisationMeasures:
    """Measures of trained networks beside their test loss."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {
            "data": "digits",
            "num_samples": 200,
            "widths": (4, 6, 8, 12, 16, 32, 64),
            "depths": (1, 2, 3),
            "weight_decays": (0.0, 0.001),
            "seeds": 2,
            "steps": 2000,
        },
        "paper": {
            "data": "mnist",
            "num_samples": 500,
            "widths": (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256),
            "depths": (1, 2, 3, 4, 5),
            "weight_decays": (0.0, 0.0001, 0.001),
            "seeds": 5,
            "steps": 5000,
        },
    }

    preset: Preset = "small"
    """paper: a larger family on MNIST, hours; small: minutes."""
    data: Literal["digits", "mnist", "fashion-mnist"] | None = None
    """Images."""
    data_root: Path | None = None
    """The folder that holds one folder a data set."""
    num_samples: int | None = None
    """The first so many training images."""
    label_noise: float = 0.2
    """Part of the training labels that are drawn anew at random."""
    widths: tuple[int, ...] | None = None
    """Neurons of all hidden layers, such as 4,8,16."""
    depths: tuple[int, ...] | None = None
    """Hidden layers, such as 1,2,3."""
    weight_decays: tuple[float, ...] | None = None
    """Of the training."""
    seeds: int | None = None
    """Networks of each kind; they are one group of the bootstrap."""
    steps: int | None = None
    """Of Adam with rate 0.01 on all samples at once, with the published decay."""
    z: float = 0.01
    """Of the effective dimension, in the unit of the mean loss's curvature."""
    small_train_loss: float = 0.1
    """Networks with a train loss below this are compared."""
    target: Target = "test_loss"
    """What is to be foretold."""
    seed: int = 0
    """Of the label noise and the first network of each kind."""
    jobs: int | None = None
    """Worker processes; chosen by processors, memory and work by default."""


@dataclass(frozen=True, kw_only=True)
class FamilyPoint:
    """Networks of one kind that differ in their seed, and their data."""

    data: str
    data_root: Path | None
    num_samples: int
    label_noise: float
    width: int
    depth: int
    weight_decay: float
    seeds: int
    steps: int
    z: float
    seed: int


def generalisation_measures(
    config: GeneralisationMeasures, *, folder: Path | None = None
) -> dict[str, Result]:
    """Train a family of networks, and correlate measures with their test loss.

    Args:
        config: The family.
        folder: Where finished networks are kept, so that a later call goes on there.

    Returns:
        The networks as ``comparison``, and the rank ``correlations``.

    Raises:
        PointError: If a network failed; finished ones are saved.
        ValueError: If the configuration is wrong.

    Cost:
        A training and an eigendecomposition a network; see `plan`.

    Example:
        >>> config = GeneralisationMeasures(
        ...     widths=(2, 3), depths=(1,), weight_decays=(0.0,), seeds=1, steps=5,
        ...     num_samples=20, jobs=1,
        ... )
        >>> len(generalisation_measures(config)["comparison"].records)
        2

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, section 7; Jiang et al. (2020),
        arXiv:1912.02178.
    """
    check(config)
    config = filled(config)
    began = time.perf_counter()
    points = _points(config)
    found = run_points(
        points,
        measure_family,
        folder=folder,
        version=_VERSION,
        jobs=config.jobs,
        seconds=guess_seconds,
        memory=guess_memory,
        description="generalisation measures",
    )
    records = tuple(
        {**record, "small_train_loss": record["train_loss"] < config.small_train_loss}
        for value in found
        for record in value["records"]
    )
    decays = [record["weight_decay"] for record in records]
    comparison = MeasureComparison(
        of=_provenance(points),
        cost=Cost(seconds=time.perf_counter() - began),
        settings=decisive(config),
        target=config.target,
        measures=MEASURES,
        records=records,
        words={
            **_WORDS,
            "effective_dimension": f"effective dimension N_eff(z = {config.z:g})",
        },
        chosen="small_train_loss",
        chosen_words=f"train loss below {config.small_train_loss:g}",
        strata="weight_decay" if len(set(decays)) > 1 else None,
    )
    table = correlate(comparison, groups=("width", "depth", "weight_decay"))
    return {"comparison": comparison, "correlations": table}


def measure_family(point: FamilyPoint) -> dict[str, Any]:
    """Train networks of one kind, and measure each.

    Returns:
        ``records``, one a seed.
    """
    train_data, test_data = noisy_data(point)
    images, labels = train_data
    seeds = range(point.seed, point.seed + point.seeds)
    nets = [_network(point, seed) for seed in seeds]
    starts = [nn.utils.parameters_to_vector(net.parameters()).detach() for net in nets]
    trained = train_many(
        nets,
        "cross_entropy",
        train_data,
        steps=point.steps,
        learning_rate=0.01,
        optimizer="adam",
        weight_decay=point.weight_decay,
        schedule="published",
        test_data=test_data,
        evaluate_every=point.steps,
    )
    records = []
    for place, (seed, net, start) in enumerate(zip(seeds, nets, starts, strict=True)):
        curve = trained.of_network(place)
        losses = {
            "train_loss": _last(curve.train_loss),
            "test_loss": _last(curve.test_loss),
            "test_error": 1.0 - _last(curve.test_accuracy),
        }
        records.append(
            {
                "depth": point.depth,
                "width": point.width,
                "weight_decay": point.weight_decay,
                "seed": seed,
                **losses,
                "loss_gap": losses["test_loss"] - losses["train_loss"],
                **measures(net, start, images, labels, z=point.z),
            }
        )
    return {"records": records}


def measures(
    net: nn.Module, start: Tensor, images: Tensor, labels: Tensor, *, z: float
) -> dict[str, float]:
    """Measure one trained network; only training data are seen.

    Args:
        net: A perceptron with ReLU.
        start: Its parameters before training, as a vector.
        images: Training images.
        labels: Training labels.
        z: Of the effective dimension.

    Returns:
        A number for each of `MEASURES`.
    """
    spectrum = ggn_spectrum(Problem(net, "cross_entropy", (images, labels)))
    weights = nn.utils.parameters_to_vector(net.parameters()).detach()
    aware = sharpness(net, images, labels, magnitude_aware=True)
    return {
        "effective_dimension": float(effective_dimension(spectrum, z=z).value),
        "num_params": len(weights),
        "path_norm": path_norm(net, images[0].numel()),
        "sharpness": sharpness(net, images, labels),
        "magnitude_sharpness": aware,
        "spectral_complexity": spectral_complexity(net, images, labels),
        "weight_norm": float(weights.norm()),
        "distance_moved": float((weights - start).norm()),
        "ggn_trace": float(spectrum.sum()),
    }


def noisy_data(
    point: FamilyPoint,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return training images with noisy labels, and clean test images."""
    sets = [
        datasets.load(point.data, root=point.data_root, split=split, num_samples=count)
        for split, count in (("train", point.num_samples), ("test", None))
    ]
    generator = torch.Generator().manual_seed(point.seed)
    noisy = with_label_noise(
        sets[0], point.label_noise, keep_possible=True, generator=generator
    )
    (a, b), (c, d) = noisy.tensors(), sets[1].tensors()
    return (a, b), (c, d)


def _network(point: FamilyPoint, seed: int) -> nn.Module:
    return models.build(
        "mlp",
        generator=torch.Generator().manual_seed(seed),
        in_features=_PIXELS[point.data],
        hidden=(point.width,) * point.depth,
        num_classes=_CLASSES,
        activation="relu",
    )


def _last(curve: Tensor | None) -> float:
    assert curve is not None
    return float(curve[-1])


def _points(config: GeneralisationMeasures) -> list[FamilyPoint]:
    assert config.data is not None
    assert config.num_samples is not None
    assert config.widths is not None
    assert config.depths is not None
    assert config.weight_decays is not None
    assert config.seeds is not None
    assert config.steps is not None
    places = product(config.depths, config.widths, config.weight_decays)
    return [
        FamilyPoint(
            data=config.data,
            data_root=config.data_root,
            num_samples=config.num_samples,
            label_noise=config.label_noise,
            width=width,
            depth=depth,
            weight_decay=decay,
            seeds=config.seeds,
            steps=config.steps,
            z=config.z,
            seed=config.seed,
        )
        for depth, width, decay in places
    ]


def _provenance(points: list[FamilyPoint]) -> Provenance:
    first = points[0]
    return Provenance(
        matrix="GGN",
        description=(
            f"{first.seeds * len(points)} ReLU networks, cross_entropy, {first.data} "
            f"with {100 * first.label_noise:g} % label noise"
        ),
        reduction="mean",
        unit="loss (mean over the data) per parameter squared",
        num_params=max(map(_num_params, points)),
        num_samples=first.num_samples,
    )


def _num_params(point: FamilyPoint) -> int:
    widths = (_PIXELS[point.data], *(point.width,) * point.depth, _CLASSES)
    return sum((a + 1) * b for a, b in pairwise(widths))


def check(config: GeneralisationMeasures) -> None:
    """Check a configuration, and that its data are there.

    Raises:
        FileNotFoundError: If the data are absent.
        ValueError: If a value is out of range.
    """
    config = filled(config)
    for name in ("widths", "depths", "weight_decays"):
        values = getattr(config, name)
        if not values:
            raise ValueError(message(name, "hold at least one number", "none"))
        if len(set(values)) != len(values):
            raise ValueError(message(name, "have no repetition", values))
        for value in values:
            if name == "weight_decays":
                real(name, value, minimum=0.0)
            else:
                positive_int(name, value)
    for name in ("num_samples", "seeds", "steps"):
        positive_int(name, getattr(config, name))
    if not 0.0 <= config.label_noise <= 1.0:
        raise ValueError(message("label_noise", "be from 0 to 1", config.label_noise))
    real("z", config.z, minimum=0.0, strict=True)
    real("small_train_loss", config.small_train_loss, minimum=0.0, strict=True)
    positive_int("seed", config.seed, minimum=0)
    if config.jobs is not None:
        positive_int("jobs", config.jobs)
    noisy_data(_points(config)[0])


def guess_seconds(point: FamilyPoint) -> float:
    """Guess what a point costs, on one core."""
    size, rows = _num_params(point), point.num_samples * _CLASSES
    step = _STEP_SECONDS * (2 + point.depth) / 3
    step += 3.0 * point.seeds * size * point.num_samples / _RATE
    least = min(size, rows)
    dense = (2.0 * least**3 + rows * least**2) / _DENSE_RATE
    search = 40 * 20 * size * point.num_samples / _RATE
    return point.steps * step + point.seeds * (dense + search)


def guess_memory(point: FamilyPoint) -> float:
    """Guess the bytes of a point: square matrices of the factor's smaller side."""
    size, rows = _num_params(point), point.num_samples * _CLASSES
    factor = 3.0 * rows * size if size <= rows else 0.0
    return 8.0 * (factor + 6.0 * min(size, rows) ** 2) + 4e8


def plan(config: GeneralisationMeasures) -> Plan:
    """Say what a configuration will cost."""
    rows = tuple(
        PlannedRuns(
            what=(
                f"depth {point.depth}, width {point.width}, "
                f"weight decay {point.weight_decay:g}"
            ),
            runs=point.seeds,
            num_params=_num_params(point),
            num_steps=point.steps,
            hours=guess_seconds(point) / 3600.0,
        )
        for point in _points(filled(config))
    )
    return Plan(rows=rows, basis="one CPU core")


EXPERIMENT = Experiment(
    name="generalisation-measures",
    config=GeneralisationMeasures,
    run=generalisation_measures,
    check=check,
    plan=plan,
    summary="N_eff and other measures of trained networks beside their test loss.",
)
