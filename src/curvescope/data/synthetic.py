"""Small data sets that are drawn, float32, from a generator."""

import math

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from curvescope._core.checks import message, one_of, positive_int, real
from curvescope._core.random import gaussian, resolve_generator

_CPU = torch.device("cpu")
_SPIRALS = {"unit": (0.05, 1.75), "published": (1.3, 600 / 360)}


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
    noise: float | None = None,
    turns: float | None = None,
    form: str = "unit",
    generator: torch.Generator | None = None,
) -> TensorDataset:
    r"""Draw points of two spirals that wind around each other.

    .. math:: x = r (\cos\varphi, \sin\varphi) + \varepsilon, \quad
        \varphi = 2\pi\,\text{turns}\,r + \pi y, \quad r \in (0, 1]

    With ``form="published"`` the radius is the square root of a uniform number, points
    have the size of the angle, and the second class is the first one reflected, noise
    and all:

    .. math:: x = \pm\bigl(\tfrac32 a (-\cos a, \sin a) + \varepsilon\bigr), \quad
        a = 2\pi\,\text{turns}\,\sqrt u

    Args:
        num_samples: Number of points, the two classes in turn; in the published form
            an even number.
        noise: Standard deviation of :math:`\varepsilon`; by default 0.05, and 1.3 in
            the published form.
        turns: How often a spiral winds around the origin; by default 1.75, and 5/3
            (600 degrees) in the published form.
        form: ``"unit"`` or ``"published"``.
        generator: Source of the randomness; a fresh one with a fixed seed if ``None``.

    Returns:
        Points ``(num_samples, 2)`` and labels 0 or 1.

    Raises:
        ValueError: If a number is out of range, or the form is unknown.

    Example:
        >>> len(two_spirals(10))
        10

    References:
        Lang, Witbrock (1988), "Learning to tell two spirals apart"; the published form
        is that of Maddox, Benton, Wilson (2020), whose draws had no seed.
    """
    positive_int("num_samples", num_samples)
    one_of("form", form, _SPIRALS)
    default_noise, default_turns = _SPIRALS[form]
    noise = default_noise if noise is None else real("noise", noise, minimum=0)
    if turns is None:
        turns = default_turns
    real("turns", turns, minimum=0, strict=True)
    source = resolve_generator(generator)
    labels = torch.arange(num_samples) % 2
    if form == "published":
        points = _reflected_spirals(num_samples, noise, turns, source)
        return TensorDataset(points.to(torch.float32), labels)
    radius = 1 - _uniform(num_samples, source)
    angle = 2 * math.pi * turns * radius + math.pi * labels
    points = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    points = points + noise * _normal((num_samples, 2), source)
    return TensorDataset(points.to(torch.float32), labels)


def _reflected_spirals(
    num_samples: int, noise: float, turns: float, source: torch.Generator
) -> Tensor:
    """Return the points of the published form, each followed by its reflection."""
    if num_samples % 2:
        contract = "be even in the published form"
        raise ValueError(message("num_samples", contract, num_samples))
    half = num_samples // 2
    angle = 2 * math.pi * turns * _uniform(half, source).sqrt()
    spiral = torch.stack([-angle * angle.cos(), angle * angle.sin()], dim=1)
    first = 1.5 * spiral + noise * _normal((half, 2), source)
    return torch.stack([first, -first], dim=1).reshape(num_samples, 2)


def bumpy_curve(
    num_samples: int = 200,
    *,
    noise: float = 0.05,
    generator: torch.Generator | None = None,
) -> TensorDataset:
    r"""Draw the regression data of the Bayesian network's posterior contraction.

    .. math:: y = w^\top (1, x, x^2) + \tfrac12 (x + \tfrac12)^2 \sin 4x + \varepsilon,
        \quad w \sim \mathcal N(0, \tfrac14 I)

    at equally spaced :math:`x \in [-1, 1]`; then y is centred, and divided by its
    standard deviation.

    Args:
        num_samples: Number of points.
        noise: Standard deviation of :math:`\varepsilon`, before the division.
        generator: Source of the randomness; a fresh one with a fixed seed if ``None``.

    Returns:
        Features ``(num_samples, 3)`` and targets ``(num_samples, 1)``.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> features, target = bumpy_curve(5)[0]
        >>> features.tolist()
        [1.0, -1.0, 1.0]

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, figure 4 (right); after
        numpyro's example of a Bayesian network.
    """
    positive_int("num_samples", num_samples, minimum=2)
    real("noise", noise, minimum=0)
    source = resolve_generator(generator)
    x = torch.linspace(-1, 1, num_samples, dtype=torch.float64)
    features = torch.stack([torch.ones_like(x), x, x**2], dim=1)
    slope = 0.5 * _normal((3,), source)
    y = features @ slope + 0.5 * (0.5 + x) ** 2 * torch.sin(4 * x)
    y = y + noise * _normal((num_samples,), source)
    y = (y - y.mean()) / y.std(correction=0)
    return TensorDataset(features.to(torch.float32), y[:, None].to(torch.float32))


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


def _uniform(count: int, source: torch.Generator) -> Tensor:
    draw = torch.rand(
        count, generator=source, device=source.device, dtype=torch.float64
    )
    return draw.to(_CPU)
