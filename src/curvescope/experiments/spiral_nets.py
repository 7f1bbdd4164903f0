"""The two spirals as published, and networks that are trained on them."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from curvescope.exact import hessian
from curvescope.linalg import effective_dimension
from curvescope.models import build
from curvescope.problem import Problem
from curvescope.training import PerModel, train_many

LEARNING_RATE = 0.01
# Streams of one seed.
_WEIGHTS, _TRAIN, _TEST = 0, 1, 2
_LONGEST = 600.0 * 2.0 * math.pi / 360.0
# Seconds of a step however small the networks are, and multiplications a second.
_STEP_SECONDS, _RATE = 0.003, 2e9


@dataclass(frozen=True, kw_only=True)
class SpiralPoint:
    """Networks of one shape, each with a draw of the data of its own."""

    width: int
    """Neurons of every hidden layer."""
    depth: int
    """Hidden layers after the first."""
    num_samples: int
    """Training points; twice as many test points are drawn."""
    noise: float
    """Standard deviation of the points around the spirals."""
    epochs: int
    """Steps on all points at once."""
    weight_decay: float
    """Of the optimizer."""
    seeds: int
    """Networks: seeds 0, 1, 2, ..."""
    z: tuple[float, ...]
    """Where the effective dimension is computed."""


def published_spirals(
    num_samples: int, *, noise: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    r"""Draw points of the published two spirals, of which one mirrors the other.

    .. math:: a = \tfrac{600 \cdot 2\pi}{360} \sqrt{U}, \quad
        x = 1.5\,a\,(-\cos a, \sin a) + \sigma\varepsilon

    Args:
        num_samples: How many, an even number: the second half are the mirrored points of
            the first, noise included.
        noise: :math:`\sigma`.
        generator: Source of the randomness.

    Returns:
        Points ``(num_samples, 2)`` and classes 0 or 1, float32.

    Example:
        >>> X, y = published_spirals(4, noise=0.0, generator=torch.Generator())
        >>> bool((X[:2] == -X[2:]).all()), y.tolist()
        (True, [0.0, 0.0, 1.0, 1.0])
    """
    half = num_samples // 2
    a = _LONGEST * torch.rand(half, 1, generator=generator).sqrt()
    first = 1.5 * a * torch.cat([-a.cos(), a.sin()], dim=1)
    first = first + noise * torch.randn(half, 2, generator=generator)
    labels = torch.arange(2).repeat_interleave(half)
    return torch.cat([first, -first]), labels.float()


def data_of(point: SpiralPoint, seed: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """Return training and test points of one seed; targets have shape ``(n, 1)``."""
    sets = []
    for purpose, count in ((_TRAIN, 1), (_TEST, 2)):
        X, y = published_spirals(
            count * point.num_samples,
            noise=point.noise,
            generator=_stream(seed, purpose),
        )
        sets.append((X, y[:, None]))
    return tuple(sets)


def spiral_net(point: SpiralPoint, seed: int) -> torch.nn.Module:
    """Return one network before training."""
    return build(
        "spirals-mlp",
        generator=_stream(seed, _WEIGHTS),
        width=point.width,
        depth=point.depth,
    )


def measure_spirals(point: SpiralPoint) -> dict[str, Any]:
    """Train networks on the spirals, and measure losses and effective dimension.

    Adam with rate 0.01 on all points at once; the exact spectrum of the Hessian of the
    mean loss, without weight decay, negative eigenvalues counted as 0.

    Returns:
        ``records``, one a seed; ``num_samples``; ``num_matvecs``, which is 0.

    Cost:
        The training of all seeds at once, and an eigendecomposition a seed.

    Example:
        >>> point = SpiralPoint(
        ...     width=1, depth=1, num_samples=8, noise=1.0, epochs=2, weight_decay=0.0,
        ...     seeds=1, z=(1.0,),
        ... )
        >>> measure_spirals(point)["records"][0]["num_params"]
        7
    """
    seeds = range(point.seeds)
    sets = [data_of(point, seed) for seed in seeds]
    models = [spiral_net(point, seed) for seed in seeds]
    trained = train_many(
        models,
        "bce_with_logits",
        PerModel(train for train, _ in sets),
        epochs=point.epochs,
        learning_rate=LEARNING_RATE,
        optimizer="adam",
        weight_decay=point.weight_decay,
        test_data=PerModel(test for _, test in sets),
        evaluate_every=point.epochs,
    )
    assert trained.test_loss is not None
    records = []
    for seed, model in zip(seeds, models, strict=True):
        problem = Problem(model, "bce_with_logits", sets[seed][0])
        spectrum = torch.linalg.eigvalsh(hessian(problem).matrix)
        found = effective_dimension(spectrum, z=list(point.z))
        records.append(
            {
                "seed": seed,
                "num_params": problem.num_params,
                "train_loss": float(trained.train_loss[seed, -1]),
                "test_loss": float(trained.test_loss[seed, -1]),
                "top_eigenvalue": float(spectrum.max()),
                "negative_mass": found.negative_mass,
                "effective_dimension": found.values.tolist(),
            }
        )
    return {"records": records, "num_samples": point.num_samples, "num_matvecs": 0}


def num_params(point: SpiralPoint) -> int:
    """Return the parameters of one network."""
    return point.depth * point.width * (point.width + 1) + 4 * point.width + 1


def guess_seconds(point: SpiralPoint) -> float:
    """Guess how long a point takes on one core."""
    size = num_params(point)
    step = _STEP_SECONDS * (2 + point.depth) / 3
    step += 3.0 * point.seeds * size * point.num_samples / _RATE
    dense = point.seeds * (3.0 * size**3 + point.num_samples * size**2) / (4 * _RATE)
    return point.epochs * step + dense


def _stream(seed: int, purpose: int) -> torch.Generator:
    return torch.Generator().manual_seed(3 * seed + purpose)
