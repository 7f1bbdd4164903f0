"""Small networks on few, partly mislabelled images: trained many at once, and measured.

Losses are means over samples; so is the matrix whose effective dimension is taken, the
GGN, whose spectrum is exact. Its unit is that of the mean loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from curvescope import data as datasets
from curvescope._core.checks import message, one_of, positive_int, real
from curvescope.exact.gram import ggn_spectrum
from curvescope.experiments.base import Plan, PlannedRuns
from curvescope.linalg import effective_dimension
from curvescope.models import build
from curvescope.problem import Problem
from curvescope.training import PerModel, train_many

Images = Literal["digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "svhn"]
IMAGES: tuple[str, ...] = get_args(Images)
LEARNING_RATE = 0.01
# Streams of one seed.
_WEIGHTS, _DATA = 0, 1
_MOST_TEST = 2000
# Multiplications a second of one core: in training, and in a dense decomposition.
_TRAINING_RATE, _DENSE_RATE = 2e9, 8e9
# What a step costs however small the networks are.
_STEP_SECONDS = 0.0025


@dataclass(frozen=True, kw_only=True)
class NetPoint:
    """Networks of one shape, each with weights and data of its own."""

    data: str
    """Images."""
    data_root: Path | None
    """The folder that holds one folder a data set."""
    num_samples: int
    """Training images of each network, drawn at random."""
    label_noise: float
    """Part of their labels that are drawn anew at random."""
    hidden: tuple[int, ...]
    """Widths of the hidden layers."""
    seeds: int
    """Networks: seeds 0, 1, 2, ..."""
    epochs: int
    """Steps on all samples at once."""
    z: tuple[float, ...]
    """Where the effective dimension is computed."""


def point_of(config: Any, *, hidden: tuple[int, ...]) -> NetPoint:
    """Return the point of a configuration whose preset is filled in."""
    shared = {
        f.name: getattr(config, f.name) for f in fields(NetPoint) if f.name != "hidden"
    }
    return NetPoint(**shared, hidden=hidden)


def measure_nets(point: NetPoint) -> dict[str, Any]:
    """Train networks, and measure losses, errors and effective dimension.

    Adam with rate 0.01 on all samples at once, with the published decay.

    Returns:
        ``records``, one a seed; ``num_samples``; ``num_matvecs``, which is 0.

    Cost:
        The training of all seeds at once, and an eigendecomposition a seed.

    Example:
        >>> point = NetPoint(
        ...     data="digits", data_root=None, num_samples=20, label_noise=0.0,
        ...     hidden=(2,), seeds=1, epochs=3, z=(0.1,),
        ... )
        >>> [record["num_params"] for record in measure_nets(point)["records"]]
        [160]
    """
    sets = [noisy_images(point, seed) for seed in range(point.seeds)]
    models = [
        build(
            "mlp",
            generator=_stream(seed, _WEIGHTS),
            in_features=sets[0][0][0][0].numel(),
            hidden=point.hidden,
            num_classes=num_classes(point),
            activation="relu",
        )
        for seed in range(point.seeds)
    ]
    trained = train_many(
        models,
        "cross_entropy",
        PerModel(train for train, _ in sets),
        epochs=point.epochs,
        learning_rate=LEARNING_RATE,
        optimizer="adam",
        schedule="published",
        test_data=PerModel(test for _, test in sets),
        evaluate_every=point.epochs,
    )
    records = []
    for seed, model in enumerate(models):
        curve = trained.of_network(seed)
        spectrum = ggn_spectrum(Problem(model, "cross_entropy", sets[seed][0]))
        found = effective_dimension(spectrum, z=list(point.z))
        records.append(
            {
                "seed": seed,
                "num_params": curve.num_params,
                "train_loss": _last(curve.train_loss),
                "test_loss": _last(curve.test_loss),
                "train_error": 1.0 - _last(curve.train_accuracy),
                "test_error": 1.0 - _last(curve.test_accuracy),
                "top_eigenvalue": float(spectrum[0]),
                "effective_dimension": found.values.tolist(),
            }
        )
    return {"records": records, "num_samples": point.num_samples, "num_matvecs": 0}


def noisy_images(
    point: NetPoint, seed: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Draw one network's training images, of which a part is mislabelled, and test images.

    Both are drawn without repetition from the set's training split. So many training
    labels as the point says are replaced by labels that are drawn uniformly, so that of
    ten classes a tenth of these stay what they were; test labels are the true ones.

    Returns:
        Images and labels for training, and at most 2,000 others for the test.
    """
    images, labels = _load(point).tensors()
    draw = _stream(seed, _DATA)
    order = torch.randperm(len(labels), generator=draw)
    chosen, others = order[: point.num_samples], order[point.num_samples :][:_MOST_TEST]
    noisy = labels[chosen]
    count = round(point.label_noise * point.num_samples)
    places = torch.randperm(point.num_samples, generator=draw)[:count]
    noisy[places] = torch.randint(num_classes(point), (count,), generator=draw)
    return (images[chosen], noisy), (images[others], labels[others])


def check_point(point: NetPoint) -> None:
    """Check everything that can be checked without training.

    Raises:
        FileNotFoundError: If the data are absent.
        ValueError: If a value is out of range.
    """
    one_of("data", point.data, IMAGES)
    positive_int("num_samples", point.num_samples)
    if not 0.0 <= real("label_noise", point.label_noise) <= 1.0:
        raise ValueError(message("label_noise", "be from 0 to 1", point.label_noise))
    for width in point.hidden:
        positive_int("widths", width)
    positive_int("seeds", point.seeds)
    positive_int("epochs", point.epochs)
    check_z(point.z)
    size = len(_load(point))
    if point.num_samples >= size:
        contract = f"be below {size}, to leave images for the test"
        raise ValueError(message("num_samples", contract, point.num_samples))


def check_z(z: tuple[float, ...] | None) -> None:
    """Refuse places of the effective dimension that are none.

    Raises:
        ValueError: If there are none, or one is not above 0.
    """
    if not z:
        raise ValueError(message("z", "hold at least one number", "none"))
    for value in z:
        real("z", value, minimum=0.0, strict=True)
    if list(z) != sorted(set(z)):
        raise ValueError(message("z", "ascend", z))


def num_params(point: NetPoint) -> int:
    """Return the parameters of one network.

    Example:
        >>> num_params(NetPoint(
        ...     data="digits", data_root=None, num_samples=9, label_noise=0.0,
        ...     hidden=(2,), seeds=1, epochs=3, z=(0.1,),
        ... ))
        160
    """
    pixels = {"digits": 64, "mnist": 784, "fashion-mnist": 784}.get(point.data, 3072)
    widths = (pixels, *point.hidden, num_classes(point))
    return sum((a + 1) * b for a, b in pairwise(widths))


def guess_seconds(point: NetPoint) -> float:
    """Guess how long a point takes on one core."""
    size, rows = num_params(point), point.num_samples * num_classes(point)
    step = 3.0 * point.seeds * size * point.num_samples / _TRAINING_RATE
    least = min(size, rows)
    dense = point.seeds * (2.0 * least**3 + 3.0 * rows * least**2) / _DENSE_RATE
    layers = len(point.hidden) + 1
    return point.epochs * (_STEP_SECONDS * (1 + layers) / 3 + step) + dense


def plan(points: Mapping[str, NetPoint]) -> Plan:
    """Say what networks will cost, by what they are called."""
    rows = tuple(
        PlannedRuns(
            what=what,
            runs=point.seeds,
            num_params=num_params(point),
            num_steps=point.epochs,
            hours=guess_seconds(point) / 3600.0,
        )
        for what, point in points.items()
    )
    return Plan(rows=rows, basis="one CPU core")


def guess_memory(point: NetPoint) -> float:
    """Guess the bytes that a point needs: square matrices of the factor's rows."""
    rows = point.num_samples * num_classes(point)
    size = num_params(point)
    factor = 0.0 if rows < size else 3.0 * rows * size
    return 8.0 * (factor + 6.0 * min(rows, size) ** 2) + 4e8


def num_classes(point: NetPoint) -> int:
    """Return the number of classes of the data."""
    return 100 if point.data == "cifar100" else 10


@lru_cache(maxsize=2)
def _images(name: str, root: Path | None) -> Any:
    return datasets.load(name, root=root, split="train")


def _load(point: NetPoint) -> Any:
    return _images(point.data, point.data_root)


def _stream(seed: int, purpose: int) -> torch.Generator:
    return torch.Generator().manual_seed(2 * seed + purpose)


def _last(curve: Tensor | None) -> float:
    assert curve is not None
    return float(curve[-1])
