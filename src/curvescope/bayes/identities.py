"""The identities of the Bayesian linear model, each side by its own computation.

Left sides come from definitions, by dense inverses and determinants; right sides from
the singular values that `linear_posterior` uses.
"""

import math
import time
from typing import Any

import torch
from torch import Tensor

from curvescope.bayes.contraction import (
    covariance_effective_dimension,
    function_effective_dimension,
)
from curvescope.bayes.linear import linear_posterior, matrix, predict
from curvescope.results import Cost, Identity, IdentityTable, LinearPosterior

_UNMOVED = 1e-8


def posterior_identities(
    features: Any, targets: Any, *, prior_variance: float, noise_variance: float
) -> IdentityTable:
    r"""Compute both sides of what the theory of effective dimension says.

    Contraction, hat matrix, kernel form, evidence and its derivative, complement,
    invariance under scaling, directions that keep the prior.

    Args:
        features: Phi, shape ``(n, p)``.
        targets: y, shape ``(n,)``.
        prior_variance: alpha squared.
        noise_variance: sigma squared.

    Returns:
        One row an identity; differences are rounding, relative to the condition of the
        dense left sides.

    Raises:
        ValueError: If shapes do not fit, or a variance is not above 0.

    Cost:
        ``O(n^3 + p^3)``.

    Example:
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...>
        >>> table = posterior_identities(
        ...     torch.randn(6, 9), torch.randn(6), prior_variance=3.0, noise_variance=0.1
        ... )
        >>> table.largest_difference < 1e-9
        True

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, theorems of sections 4 and 5.
    """
    began = time.perf_counter()
    at = linear_posterior(
        features,
        targets,
        prior_variance=prior_variance,
        noise_variance=noise_variance,
    )
    Phi = matrix("features", features)
    y = torch.as_tensor(targets, dtype=torch.float64).detach().cpu()
    rows = (*_contraction(at, Phi), *_evidence(at, Phi, y), *_invariances(at, Phi, y))
    return IdentityTable(
        of=at.of,
        cost=Cost(seconds=time.perf_counter() - began),
        settings=at.settings,
        identities=rows,
    )


def _covariance(at: LinearPosterior, Phi: Tensor) -> Tensor:
    precision = Phi.T @ Phi / at.noise_variance
    precision.diagonal().add_(1.0 / at.prior_variance)
    inverse: Tensor = torch.linalg.inv(precision)
    return (inverse + inverse.T) / 2.0


def _kernel(at: LinearPosterior, Phi: Tensor, *, prior: float) -> Tensor:
    K = prior * (Phi @ Phi.T)
    K.diagonal().add_(at.noise_variance)
    return K


def _contraction(at: LinearPosterior, Phi: Tensor) -> list[Identity]:
    n, p = Phi.shape
    prior, noise, gamma = at.prior_variance, at.noise_variance, at.effective_dimension
    S = _covariance(at, Phi)
    hat = Phi @ S @ Phi.T / noise
    kernel = prior * (Phi @ Phi.T)
    smoother = torch.linalg.solve(_kernel(at, Phi, prior=prior), kernel)
    values = torch.linalg.eigvalsh(S)
    unmoved = int((values > prior * (1.0 - _UNMOVED)).sum())
    expected = at.num_prior_directions + int((at.determined < _UNMOVED).sum())
    on_data = float(predict(at, Phi).variance.sum())
    return [
        Identity(
            name="tr Cov(prior) - tr Cov(posterior) = prior variance * N_eff",
            left=p * prior - float(S.trace()),
            right=at.contraction,
        ),
        Identity(
            name="tr of the hat matrix = N_eff", left=float(hat.trace()), right=gamma
        ),
        Identity(
            name="tr K (K + noise I)^-1 = N_eff, K = prior variance * Phi Phi'",
            left=float(smoother.trace()),
            right=gamma,
        ),
        Identity(
            name="n - tr of the hat matrix = n - N_eff",
            left=n - float(hat.trace()),
            right=at.residual_degrees_of_freedom,
        ),
        Identity(
            name="sum of predictive variances on the data = noise * N_eff",
            left=float((Phi @ S @ Phi.T).trace()),
            right=on_data,
        ),
        Identity(
            name="directions that keep the prior's variance = p - rank",
            left=float(unmoved),
            right=float(expected),
        ),
    ]


def _evidence(at: LinearPosterior, Phi: Tensor, y: Tensor) -> list[Identity]:
    n = len(y)
    K = _kernel(at, Phi, prior=at.prior_variance)
    quadratic = float(y @ torch.linalg.solve(K, y))
    density = -0.5 * (n * math.log(2 * math.pi) + float(torch.logdet(K)) + quadratic)
    S = _covariance(at, Phi)
    growth = at.num_params * math.log(at.prior_variance) - float(torch.logdet(S))

    def occam(step: float) -> float:
        moved = _kernel(at, Phi, prior=at.prior_variance * math.exp(step))
        return -0.5 * (float(torch.logdet(moved)) - n * math.log(at.noise_variance))

    h = 2e-3
    # Central differences, extrapolated: the error is of sixth order in h.
    slopes = [(occam(k * h) - occam(-k * h)) / (2 * k * h) for k in (1, 2, 3)]
    derivative = 1.5 * slopes[0] - 0.6 * slopes[1] + 0.1 * slopes[2]
    return [
        Identity(
            name="log N(y; 0, K + noise I) = log evidence",
            left=density,
            right=at.log_evidence,
        ),
        Identity(
            name="log evidence = log likelihood + log prior penalty + log Occam factor",
            left=at.log_likelihood + at.log_prior_penalty + at.log_occam_factor,
            right=at.log_evidence,
        ),
        Identity(
            name="ln det Cov(prior) - ln det Cov(posterior) = -2 log Occam factor",
            left=growth,
            right=-2.0 * at.log_occam_factor,
        ),
        Identity(
            name="d log Occam factor / d ln(prior variance) = -N_eff / 2",
            left=derivative,
            right=-0.5 * at.effective_dimension,
        ),
    ]


def _invariances(at: LinearPosterior, Phi: Tensor, y: Tensor) -> list[Identity]:
    prior, noise = at.prior_variance, at.noise_variance
    S = _covariance(at, Phi)
    z = prior
    precisions = 1.0 / torch.linalg.eigvalsh(S)
    inverse = float((precisions / (precisions + 1.0 / z)).sum())
    scaled = linear_posterior(
        3.0 * Phi, y, prior_variance=prior, noise_variance=9.0 * noise
    )
    values = torch.linalg.eigvalsh(Phi @ S @ Phi.T).clamp_min(0.0)
    return [
        Identity(
            name="N_eff(Cov, z) + N_eff(Cov^-1, 1/z) = p",
            left=covariance_effective_dimension(at, z=z).value + inverse,
            right=float(at.num_params),
        ),
        Identity(
            name="N_eff(c A, c z) = N_eff(A, z)",
            left=scaled.effective_dimension,
            right=at.effective_dimension,
        ),
        Identity(
            name="N_eff of the function's covariance, from noise * determined",
            left=float((values / (values + noise)).sum()),
            right=function_effective_dimension(at, z=noise).value,
        ),
    ]
