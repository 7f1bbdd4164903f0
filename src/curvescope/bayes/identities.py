"""The identities of the Bayesian linear model, each side by its own computation.

Left sides come from definitions, by dense triangular factors; right sides from the
singular values that `linear_posterior` uses. Neither squares the features: a QR of them
stacked on the prior's root has the square root of the precision's condition.
"""

import math
import time
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from curvescope._core.checks import real_tensor
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
        One row an identity. Differences are rounding: of the condition of the design
        stacked on the prior, ``sqrt(1 + largest eigenvalue * prior_variance)``.

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
    y = real_tensor("targets", targets)
    rows = (*_contraction(at, Phi), *_evidence(at, Phi, y), *_invariances(at, Phi, y))
    return IdentityTable(
        of=at.of,
        cost=Cost(seconds=time.perf_counter() - began),
        settings=at.settings,
        identities=rows,
    )


@final
@dataclass(frozen=True)
class _Stacked:
    """``A`` on top of the identity, as ``Q R``: ``R' R = A' A + I``.

    Attributes:
        top: The rows of Q beside A: ``A (A' A + I)^-1 A' = top top'``.
        bottom: The others: ``(A' A + I)^-1 = bottom bottom'``.
        R: Upper triangular.
    """

    top: Tensor
    bottom: Tensor
    R: Tensor

    @staticmethod
    def of(A: Tensor) -> "_Stacked":
        unit = torch.eye(A.shape[1], dtype=A.dtype)
        Q, R = torch.linalg.qr(torch.cat([A, unit]))
        return _Stacked(Q[: len(A)], Q[len(A) :], R)

    def log_determinant(self) -> float:
        """Return ``ln det (A' A + I)``."""
        return 2.0 * float(self.R.diagonal().abs().log().sum())


def _precision(at: LinearPosterior, Phi: Tensor) -> _Stacked:
    """Factor the posterior's precision times the prior's variance."""
    return _Stacked.of(math.sqrt(at.prior_variance / at.noise_variance) * Phi)


def _kernel(at: LinearPosterior, Phi: Tensor, *, growth: float = 1.0) -> _Stacked:
    """Factor ``K / noise + I``, with the prior's variance ``growth`` times as large."""
    ratio = growth * at.prior_variance / at.noise_variance
    return _Stacked.of(math.sqrt(ratio) * Phi.T)


def _contraction(at: LinearPosterior, Phi: Tensor) -> list[Identity]:
    p = at.num_params
    prior, noise, gamma = at.prior_variance, at.noise_variance, at.effective_dimension
    precision, kernel = _precision(at, Phi), _kernel(at, Phi)
    hat = float(precision.top.square().sum())
    kept = torch.linalg.svdvals(precision.bottom).square()
    unmoved = int((kept > 1.0 - _UNMOVED).sum())
    expected = at.num_beyond + int((at.determined < _UNMOVED).sum())
    on_data = float(predict(at, Phi).variance.sum())
    return [
        Identity(
            name="tr Cov(prior) - tr Cov(posterior) = prior variance * N_eff",
            left=prior * (p - float(precision.bottom.square().sum())),
            right=at.contraction,
        ),
        Identity(name="tr of the hat matrix = N_eff", left=hat, right=gamma),
        Identity(
            name="tr K (K + noise I)^-1 = N_eff, K = prior variance * Phi Phi'",
            left=float(kernel.top.square().sum()),
            right=gamma,
        ),
        Identity(
            name="n - tr of the hat matrix = n - N_eff",
            # tr noise (K + noise I)^-1: the difference itself would lose its digits.
            left=float(kernel.bottom.square().sum()),
            right=at.residual_degrees_of_freedom,
        ),
        Identity(
            name="sum of predictive variances on the data = noise * N_eff",
            left=noise * hat,
            right=on_data,
        ),
        Identity(
            name="directions that keep the prior's variance = p - rank",
            left=float(unmoved),
            right=float(expected),
        ),
    ]


def _evidence(at: LinearPosterior, Phi: Tensor, y: Tensor) -> list[Identity]:
    n, noise = len(y), at.noise_variance
    kernel = _kernel(at, Phi)
    white = torch.linalg.solve_triangular(kernel.R.T, y[:, None], upper=False)
    quadratic = float((white / math.sqrt(noise)).square().sum())
    scale = n * math.log(2.0 * math.pi * noise)
    density = -0.5 * (scale + kernel.log_determinant() + quadratic)
    growth = _precision(at, Phi).log_determinant()

    def occam(step: float) -> float:
        return -0.5 * _kernel(at, Phi, growth=math.exp(step)).log_determinant()

    h = 2e-2
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
    precision = _precision(at, Phi)
    z = prior
    precisions = torch.linalg.svdvals(precision.R).square() / prior
    inverse = float((precisions / (precisions + 1.0 / z)).sum())
    scaled = linear_posterior(
        3.0 * Phi, y, prior_variance=prior, noise_variance=9.0 * noise
    )
    values = noise * torch.linalg.svdvals(precision.top).square()
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
