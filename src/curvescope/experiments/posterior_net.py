"""The published Bayesian network: its data, its prior, its linearised Laplace posterior."""

from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from curvescope import models
from curvescope.analysis import laplace
from curvescope.bayes import covariance_effective_dimension
from curvescope.experiments.posterior_mode import find_mode
from curvescope.problem import Problem

Weights = Literal["last", "each"]
# No biases: 3 * 20 + 20 * 20 + 20 * 1 = 480 weights. The published 481 counts the
# precision of the noise, which is sampled too, among the parameters.
SIZES = (3, 20, 20, 1)
NUM_PARAMS = sum(a * b for a, b in pairwise(SIZES))
_NOISE = 0.05


def regression_data(num_samples: int, seed: int) -> tuple[Tensor, Tensor, float]:
    r"""Draw the published regression, in random order.

    .. math:: y = (1, x, x^2) w + \tfrac12 (\tfrac12 + x)^2 \sin 4x + 0.05\,\varepsilon,
        \quad w \sim N(0, \tfrac14 I)

    Args:
        num_samples: Numbers x, evenly from -1 to 1.
        seed: Of w, of the noise and of the order.

    Returns:
        Inputs ``(n, 3)``, standardised targets ``(n, 1)``, and the variance of the
        noise in their unit.

    Example:
        >>> inputs, targets, noise = regression_data(50, seed=0)
        >>> inputs.shape, round(float(targets.var(correction=0)), 6)
        (torch.Size([50, 3]), 1.0)
    """
    generator = np.random.default_rng(seed)
    x = np.linspace(-1.0, 1.0, num_samples)
    X = np.stack([np.ones_like(x), x, x**2], axis=1)
    y = X @ (0.5 * generator.standard_normal(3))
    y += 0.5 * (0.5 + x) ** 2 * np.sin(4.0 * x)
    y += _NOISE * generator.standard_normal(num_samples)
    scale = y.std()
    order = generator.permutation(num_samples)
    targets = ((y - y.mean()) / scale)[order, None]
    return (
        torch.from_numpy(X[order]),
        torch.from_numpy(targets),
        float((_NOISE / scale) ** 2),
    )


def draw_from_prior(prior_variance: float, seed: int) -> nn.Module:
    """Return the network with weights drawn from their prior, in float64.

    Example:
        >>> sum(p.numel() for p in draw_from_prior(1.0, seed=0).parameters())
        480
    """
    model = models.build(
        "mlp",
        in_features=SIZES[0],
        hidden=SIZES[1:-1],
        num_classes=SIZES[-1],
        activation="elu",
        bias=False,
    ).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
            p.mul_(prior_variance**0.5)
    return model


def laplace_curves(
    counts: tuple[int, ...],
    *,
    z: float,
    prior_variance: float,
    weights: Weights,
    seed: int,
) -> dict[str, Any]:
    """Compute the effective dimensions of one draw, at every number of observations.

    Args:
        counts: Numbers of observations, ascending; of one draw always the first so many.
        z: Of the covariance's effective dimension.
        prior_variance: Of every weight.
        weights: The mode given all observations, or each number's own mode.
        seed: Of data and first weights.

    Returns:
        ``parameter_dimension``, ``effective_dimension``, ``num_params``.
    """
    inputs, targets, noise = regression_data(counts[-1], seed)
    model = draw_from_prior(prior_variance, seed)
    precision = 1.0 / prior_variance
    found: dict[str, Any] = {"parameter_dimension": [], "effective_dimension": []}

    def record(count: int) -> None:
        data = (inputs[:count], targets[:count])
        posterior = laplace(
            Problem(model, "half_squared_error", data),
            prior_precision=precision,
            noise_variance=noise,
            method="exact",
        )
        parameters = covariance_effective_dimension(posterior, z=z)
        found["parameter_dimension"].append(parameters.value)
        found["effective_dimension"].append(posterior.effective_dimension.value)

    # Few observations first: each mode is a good place to begin for the next one.
    for count in counts:
        data = (inputs[:count], targets[:count])
        find_mode(model, *data, noise_variance=noise, prior_precision=precision)
        if weights == "each":
            record(count)
    if weights == "last":
        for count in counts:
            record(count)
    return {**found, "num_params": sum(p.numel() for p in model.parameters())}
