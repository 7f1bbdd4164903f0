"""The published Bayesian linear model: Fourier features of places in random order."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from curvescope.bayes import (
    covariance_effective_dimension,
    function_effective_dimension,
    linear_posterior,
)

PLACES, WAVES, _END = 300, 100, 50.0
# A variance, as in the published code, which calls it a standard deviation.
_NOISE = 0.1


def fourier_features(
    num_places: int = PLACES, num_waves: int = WAVES, end: float = _END
) -> Tensor:
    """Return the published design: cosines and sines of ``j pi x``, j = 1, 2, ...

    Args:
        num_places: Numbers x, evenly from 0 to ``end``.
        num_waves: Frequencies.
        end: The last x.

    Returns:
        Shape ``(num_places, 2 num_waves)``, float64.

    Example:
        >>> fourier_features(3, 2).shape
        torch.Size([3, 4])
    """
    x = torch.linspace(0.0, end, num_places, dtype=torch.float64)[:, None]
    phases = torch.pi * x * torch.arange(1, num_waves + 1)
    return torch.cat([phases.cos(), phases.sin()], dim=1)


def linear_curves(
    counts: tuple[int, ...], *, z: float, prior_variance: float, seed: int
) -> dict[str, Any]:
    """Compute the effective dimensions of one draw, at every number of observations.

    Args:
        counts: Numbers of observations, ascending; of one draw always the first so many.
        z: Of both covariances' effective dimensions.
        prior_variance: Of every coefficient.
        seed: Of the order.

    Returns:
        ``parameter_dimension``, ``function_dimension``, ``effective_dimension``,
        ``num_params``.
    """
    order = np.random.default_rng(seed).permutation(PLACES)
    features = fourier_features()[torch.from_numpy(order)]
    found: dict[str, Any] = {
        "parameter_dimension": [],
        "function_dimension": [],
        "effective_dimension": [],
    }
    for count in counts:
        # The targets play no part in a covariance.
        posterior = linear_posterior(
            features[:count],
            torch.zeros(count),
            prior_variance=prior_variance,
            noise_variance=_NOISE,
        )
        parameters = covariance_effective_dimension(posterior, z=z)
        function = function_effective_dimension(posterior, z=z)
        found["parameter_dimension"].append(parameters.value)
        found["function_dimension"].append(function.value)
        found["effective_dimension"].append(posterior.effective_dimension)
    return {**found, "num_params": features.shape[1]}
