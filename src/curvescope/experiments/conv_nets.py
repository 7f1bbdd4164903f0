"""The published convolutional networks: one training and one effective dimension each.

Stochastic gradient descent with the published schedule and augmentation, then stochastic
Lanczos quadrature of the Hessian of the mean cross-entropy over the plain training
images, batch norm in eval mode, of the parameters of two or more dimensions. The
published numbers are sums over 391 batches of at most 100 Ritz values each.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial, update_wrapper
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from curvescope import data as datasets
from curvescope._core.checks import message, one_of, positive_int
from curvescope._core.fingerprints import combine
from curvescope.curvature import Hessian
from curvescope.data import CropAndFlip
from curvescope.experiments.base import Plan, PlannedRuns, plain
from curvescope.experiments.small_nets import check_z
from curvescope.experiments.sweep import run_points
from curvescope.linalg import effective_dimension
from curvescope.models import build
from curvescope.problem import Problem
from curvescope.training import train

# As published: https://arxiv.org/abs/2003.02139, and its code.
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, BATCH_SIZE = 0.01, 0.9, 1e-4, 128
_NORMALIZE = "cifar10-detectors"
DATA = ("cifar100", "cifar10")
_NUM_TRAIN = 50_000
_WEIGHTS, _PROBES = 0, 1
# A training step is a forward and a backward pass; a product two of each.
_TRAINING_PASSES, _PRODUCT_PASSES = 3.0, 6.0
# Operations a second that these small convolutions reach, in float32.
RATES = {"cuda": 1e13, "cpu": 5e10}


@dataclass(frozen=True, kw_only=True)
class ConvPoint:
    """One network, its data and training, and where N_eff is taken."""

    model: str
    """preact-resnet18 or convnet."""
    init_channels: int
    """Channels of the first layers."""
    depth: int | None
    """Of convnet."""
    data: str
    """cifar100 or cifar10."""
    data_root: Path | None
    """The folder that holds one folder a data set."""
    num_samples: int | None
    """The first so many training images; all of them if None."""
    seed: int
    """Of weights, order, augmentation and probes."""
    epochs: int
    """Of the training."""
    z: tuple[float, ...]
    """Where the effective dimension is computed."""
    num_probes: int
    """Of the quadrature."""
    num_steps: int
    """Lanczos steps of each probe."""


def point_of(
    config: Any, *, model: str, init_channels: int, depth: int | None, seed: int
) -> ConvPoint:
    """Return the point of a configuration whose preset is filled in."""
    own: dict[str, Any] = {
        "model": model,
        "init_channels": init_channels,
        "depth": depth,
        "seed": seed,
    }
    names = {field.name for field in dataclasses.fields(ConvPoint)} - set(own)
    return ConvPoint(**own, **{name: getattr(config, name) for name in names})


def measure_conv(point: ConvPoint, *, folder: Path | None = None) -> dict[str, Any]:
    """Train one network, and measure losses, errors and effective dimension.

    Args:
        point: The network and its setting.
        folder: Where the training under way is kept.

    Returns:
        ``records`` (one), ``num_samples`` and ``num_matvecs``.

    Cost:
        The training, and ``num_probes * num_steps`` Hessian products.
    """
    return trained_conv(point, folder=folder).value


def run(
    points: Sequence[ConvPoint],
    *,
    folder: Path | None,
    version: int,
    function: Callable[..., Mapping[str, Any]] = measure_conv,
) -> list[dict[str, Any]]:
    """Train and measure the networks one after the other, on a GPU if there is one.

    A kill loses neither finished networks nor, but for minutes, the training under way.

    Args:
        points: The networks.
        folder: Where finished networks and the training under way are kept.
        version: Of what the function computes.
        function: What is computed of a point; it takes the ``folder`` too.

    Returns:
        Of each point ``records`` (one), ``num_samples`` and ``num_matvecs``.
    """
    # The folder is no part of the point: a run may be moved.
    bound = update_wrapper(partial(function, folder=folder), function)
    return run_points(
        points, bound, folder=folder, version=version, jobs=1, description="networks"
    )


@dataclass(frozen=True)
class TrainedConv:
    """A trained network in eval mode, the data it saw, and what was measured of it."""

    model: nn.Module
    images: torch.Tensor
    labels: torch.Tensor
    value: dict[str, Any]


def trained_conv(point: ConvPoint, *, folder: Path | None = None) -> TrainedConv:
    """Train one network, measure it as `measure_conv` does, and keep it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train_data, test_data = (
        _load(point, split).tensors() for split in ("train", "test")
    )
    model = build_conv(point).to(device)
    trained = train(
        model,
        "cross_entropy",
        train_data,
        epochs=point.epochs,
        learning_rate=LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        schedule="published",
        batch_size=BATCH_SIZE,
        test_data=test_data,
        augment=CropAndFlip(),
        evaluate_every=max(1, point.epochs // 20),
        seed=point.seed,
        checkpoint=None if folder is None else folder / "trainings" / _name(point),
    )
    model.eval()
    problem = Problem(
        model, "cross_entropy", train_data, params="weights", batch_size=BATCH_SIZE
    )
    found = effective_dimension(
        Hessian(problem),
        z=list(point.z),
        method="slq",
        num_probes=point.num_probes,
        num_steps=point.num_steps,
        generator=_stream(point.seed, _PROBES),
    )
    low, high = found.band()
    record = {
        "seed": point.seed,
        "num_params": sum(p.numel() for p in model.parameters()),
        "train_loss": float(trained.train_loss[-1]),
        "test_loss": _last(trained.test_loss),
        "train_error": 1.0 - _last(trained.train_accuracy),
        "test_error": 1.0 - _last(trained.test_accuracy),
        "running_loss": float(trained.running_loss[-1]),
        "negative_mass": found.negative_mass,
        "effective_dimension": found.values.tolist(),
        "effective_dimension_low": low.tolist(),
        "effective_dimension_high": high.tolist(),
    }
    value = {
        "records": [record],
        "num_samples": problem.num_samples,
        "num_matvecs": found.cost.num_matvecs,
    }
    return TrainedConv(
        model=model, images=train_data[0], labels=train_data[1], value=value
    )


def build_conv(point: ConvPoint) -> nn.Module:
    """Return the network before training.

    Example:
        >>> from curvescope.experiments.double_descent import FAMILY, DoubleDescent
        >>> _, point = FAMILY.paper_points(DoubleDescent(preset="paper"))[0]
        >>> sum(p.numel() for p in build_conv(point).parameters())
        3757
    """
    sizes: dict[str, Any] = {} if point.depth is None else {"depth": point.depth}
    return build(
        point.model,
        generator=_stream(point.seed, _WEIGHTS),
        init_channels=point.init_channels,
        num_classes=_num_classes(point),
        **sizes,
    )


def check_point(point: ConvPoint) -> None:
    """Check everything that can be checked without training.

    Raises:
        ValueError: If a value is out of range.
    """
    one_of("data", point.data, DATA)
    positive_int("epochs", point.epochs)
    positive_int("num_probes", point.num_probes, minimum=2)
    positive_int("num_steps", point.num_steps)
    if point.num_samples is not None:
        positive_int("num_samples", point.num_samples)
    if point.seed < 0:
        raise ValueError(message("seed", "be at least 0", point.seed))
    check_z(point.z)


def plan(points: Sequence[ConvPoint], *, more_images: float = 0.0) -> Plan:
    """Say what the networks will cost, from their operations on one image.

    Args:
        points: The networks.
        more_images: Forward passes of an image that each costs besides.

    Returns:
        One row a network, of all its seeds.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    groups: dict[ConvPoint, int] = {}
    for point in points:
        one = dataclasses.replace(point, seed=0)
        groups[one] = groups.get(one, 0) + 1
    for point, runs in groups.items():
        num_params, operations = _size(point)
        images = point.num_samples or _NUM_TRAIN
        products = point.num_probes * point.num_steps
        passes = _TRAINING_PASSES * point.epochs + _PRODUCT_PASSES * products
        work = images * passes + more_images
        depth = "" if point.depth is None else f", depth {point.depth}"
        rows.append(
            PlannedRuns(
                what=f"{point.model}, {point.init_channels} channels{depth}",
                runs=runs,
                num_params=num_params,
                num_steps=point.epochs * -(-images // BATCH_SIZE),
                num_matvecs=products,
                hours=runs * work * operations / RATES[device] / 3600.0,
            )
        )
    kind = (
        "a large GPU" if device == "cuda" else "a CPU; a large GPU is 200 times as fast"
    )
    basis = f"{RATES[device]:.0e} operations a second, {kind}"
    return Plan(rows=tuple(rows), basis=basis)


def _size(point: ConvPoint) -> tuple[int, float]:
    """Return parameters, and operations of a forward pass of one image."""
    return _counted(point.model, point.init_channels, point.depth, _num_classes(point))


@cache
def _counted(
    name: str, init_channels: int, depth: int | None, num_classes: int
) -> tuple[int, float]:
    sizes: dict[str, Any] = {} if depth is None else {"depth": depth}
    with torch.device("meta"):
        model = build(
            name, init_channels=init_channels, num_classes=num_classes, **sizes
        ).eval()
        image = torch.empty(1, 3, 32, 32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    count = sum(p.numel() for p in model.parameters())
    return count, float(counter.get_total_flops())


def _num_classes(point: ConvPoint) -> int:
    return 100 if point.data == "cifar100" else 10


def _load(point: ConvPoint, split: str) -> Any:
    num = point.num_samples if split == "train" else None
    return datasets.load(
        point.data,
        root=point.data_root,
        split=split,
        num_samples=num,
        normalize=_NORMALIZE,
    )


def _name(point: ConvPoint) -> str:
    return combine("training", plain(point))[:16]


def _stream(seed: int, purpose: int) -> torch.Generator:
    return torch.Generator().manual_seed(2 * seed + purpose)


def _last(curve: torch.Tensor | None) -> float:
    assert curve is not None
    return float(curve[-1])
