"""Small data sets that are drawn, float32, from a generator."""

import math

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from curvescope._core.checks import positive_int, real
from curvescope._core.random import gaussian, resolve_generator

_CPU = torch.device("cpu")


def gaussian_mixture(
    num_samples: int = 200,
    *,
    num_features: int = 2,
    num_classes: int = 3,
    separation: float = 3.0,
    generator: torch.Generator | None = None,
) -> TensorDataset:
    r"""Draw points of a mixture of Gaussians, one a class, all classes as large.

    .. math:: x \mid y \sim \mathcal N(s\, u_y, I), \quad \|u_y\| = 1

    Args:
        num_samples: Number of points; classes differ by at most one in size.
        num_features: Dimension of a point.
        num_classes: Number of classes; their directions :math:`u_y` are drawn.
        separation: The distance :math:`s` of a class's centre from the origin.
        generator: Source of the randomness; a fresh one with a fixed seed if ``None``.

    Returns:
        Points ``(num_samples, num_features)`` and labels; classes in turn.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> points, label = gaussian_mixture(6, num_features=4)[4]
        >>> points.shape, int(label)
        (torch.Size([4]), 1)
    """
    _check(num_samples, num_features, num_classes)
    real("separation", separation, minimum=0)
    source = resolve_generator(generator)
    directions = _normal((num_classes, num_features), source)
    centres = separation * directions / directions.norm(dim=1, keepdim=True)
    labels = torch.arange(num_samples) % num_classes
    points = centres[labels] + _normal((num_samples, num_features), source)
    return TensorDataset(points.to(torch.float32), labels)


def two_spirals(
    num_samples: int = 200,
    *,
    noise: float = 0.05,
    turns: float = 1.75,
    generator: torch.Generator | None = None,
) -> TensorDataset:
    r"""Draw points of two spirals that wind around each other.

    .. math:: x = r (\cos\varphi, \sin\varphi) + \varepsilon, \quad
        \varphi = 2\pi\,\text{turns}\,r + \pi y, \quad r \in (0, 1]

    Args:
        num_samples: Number of points, the two classes in turn.
        noise: Standard deviation of :math:`\varepsilon`.
        turns: How often a spiral winds around the origin.
        generator: Source of the randomness; a fresh one with a fixed seed if ``None``.

    Returns:
        Points ``(num_samples, 2)`` and labels 0 or 1.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> len(two_spirals(10))
        10

    References:
        Lang, Witbrock (1988), "Learning to tell two spirals apart".
    """
    positive_int("num_samples", num_samples)
    real("noise", noise, minimum=0)
    real("turns", turns, minimum=0, strict=True)
    source = resolve_generator(generator)
    labels = torch.arange(num_samples) % 2
    radius = 1 - torch.rand(
        num_samples, generator=source, device=source.device, dtype=torch.float64
    ).to(_CPU)
    angle = 2 * math.pi * turns * radius + math.pi * labels
    points = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    points = points + noise * _normal((num_samples, 2), source)
    return TensorDataset(points.to(torch.float32), labels)


def random_features(
    num_samples: int = 200,
    *,
    num_features: int = 10,
    num_classes: int = 10,
    generator: torch.Generator | None = None,
) -> TensorDataset:
    """Draw standard normal points with labels that have nothing to do with them.

    Args:
        num_samples: Number of points.
        num_features: Dimension of a point.
        num_classes: Number of classes, all equally likely.
        generator: Source of the randomness; a fresh one with a fixed seed if ``None``.

    Returns:
        Points ``(num_samples, num_features)`` and labels.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> random_features(3, num_features=5).tensors[0].shape
        torch.Size([3, 5])
    """
    _check(num_samples, num_features, num_classes)
    source = resolve_generator(generator)
    points = _normal((num_samples, num_features), source)
    labels = torch.randint(
        num_classes, (num_samples,), generator=source, device=source.device
    )
    return TensorDataset(points.to(torch.float32), labels.to(_CPU))


def _check(num_samples: int, num_features: int, num_classes: int) -> None:
    positive_int("num_samples", num_samples)
    positive_int("num_features", num_features)
    positive_int("num_classes", num_classes)


def _normal(shape: tuple[int, ...], source: torch.Generator) -> Tensor:
    return gaussian(shape, source, dtype=torch.float64, device=_CPU)
