"""Small perceptrons of one kind on partly mislabelled images, and all their measures."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from curvescope import data as datasets
from curvescope import models
from curvescope.data import with_label_noise
from curvescope.exact.gram import ggn_spectrum
from curvescope.experiments.norms import path_norm, sharpness, spectral_complexity
from curvescope.linalg import effective_dimension
from curvescope.problem import Problem
from curvescope.training import train_many

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
PIXELS = {"digits": 64, "mnist": 784, "fashion-mnist": 784}
_CLASSES = 10
# Multiplications a second of one core in training and in decompositions, and what a
# training step costs however small the networks are.
_RATE, _DENSE_RATE, _STEP_SECONDS = 2e9, 8e9, 0.0025


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
        in_features=PIXELS[point.data],
        hidden=(point.width,) * point.depth,
        num_classes=_CLASSES,
        activation="relu",
    )


def _last(curve: Tensor | None) -> float:
    assert curve is not None
    return float(curve[-1])


def num_params(point: FamilyPoint) -> int:
    """Count a network's parameters."""
    widths = (PIXELS[point.data], *(point.width,) * point.depth, _CLASSES)
    return sum((a + 1) * b for a, b in pairwise(widths))


def guess_seconds(point: FamilyPoint) -> float:
    """Guess what a point costs, on one core."""
    size, rows = num_params(point), point.num_samples * _CLASSES
    step = _STEP_SECONDS * (2 + point.depth) / 3
    step += 3.0 * point.seeds * size * point.num_samples / _RATE
    least = min(size, rows)
    dense = (2.0 * least**3 + rows * least**2) / _DENSE_RATE
    search = 40 * 20 * size * point.num_samples / _RATE
    return point.steps * step + point.seeds * (dense + search)


def guess_memory(point: FamilyPoint) -> float:
    """Guess the bytes of a point: square matrices of the factor's smaller side."""
    size, rows = num_params(point), point.num_samples * _CLASSES
    factor = 3.0 * rows * size if size <= rows else 0.0
    return 8.0 * (factor + 6.0 * min(size, rows) ** 2) + 4e8
