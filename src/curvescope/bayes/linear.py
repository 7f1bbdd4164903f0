r"""The Bayesian linear model: posterior, evidence, contraction, predictions.

.. math:: y = \Phi\beta + \varepsilon,\quad \beta \sim N(0, \alpha^2 I_p),\quad
    \varepsilon \sim N(0, \sigma^2 I_n)

with :math:`\alpha^2` = ``prior_variance`` and :math:`\sigma^2` = ``noise_variance``
(variances, not deviations or precisions). Everything is in float64 from the singular
values of :math:`\Phi`: squares of a design, and differences of numbers that are almost
equal, would lose the digits that a contraction consists of.
"""

import dataclasses
import math
import time
import warnings
from collections.abc import Collection
from typing import Any, final

import torch
from torch import Tensor

from curvescope._core.checks import (
    describe,
    instance,
    message,
    positive_int,
    real,
    real_tensor,
    unique,
)
from curvescope._core.errors import AccuracyWarning
from curvescope.bayes.decomposition import ROUNDING_ALLOWED, DesignSVD, design_svd
from curvescope.results import (
    Cost,
    EvidenceFit,
    LinearPosterior,
    Predictive,
    Provenance,
)

UPDATES = ("prior_variance", "noise_variance")
_JACOBI_NOTE = (
    "columns differ so much in scale that the singular values were computed by one-sided "
    "Jacobi rotations"
)
_LOG_2_PI = math.log(2.0 * math.pi)


def linear_posterior(
    features: Any, targets: Any, *, prior_variance: float, noise_variance: float
) -> LinearPosterior:
    r"""Compute the posterior of a Bayesian linear model, its contraction and evidence.

    With :math:`z = \sigma^2 / \alpha^2`, :math:`s_i` the singular values and
    :math:`\gamma_i = s_i^2 / (s_i^2 + z)`,

    .. math:: \operatorname{Var}(v_i^\top\beta) = \alpha^2 (1 - \gamma_i),\qquad
        \operatorname{tr}\operatorname{Cov}_\text{prior} -
        \operatorname{tr}\operatorname{Cov}_\text{post} = \alpha^2 \sum_i \gamma_i

    Args:
        features: Phi, shape ``(n, p)``, n and p in any order.
        targets: y, shape ``(n,)``.
        prior_variance: alpha squared, of every coefficient; above 0.
        noise_variance: sigma squared, of every target; above 0.

    Returns:
        Mean, variances along the features' singular directions, contraction, evidence.

    Raises:
        ValueError: If shapes do not fit, entries are not finite, or a variance is not
            above 0.

    Cost:
        One SVD: about ``4 n p min(n, p)`` operations. Much more where columns differ so
        much in scale that its rounding would be felt (a note says so).

    Example:
        >>> Phi, y = torch.eye(2, 3).double(), torch.tensor([1.0, 2.0]).double()
        >>> posterior = linear_posterior(Phi, y, prior_variance=1.0, noise_variance=1.0)
        >>> posterior.mean, posterior.contraction
        (tensor([0.5000, 1.0000, 0.0000], dtype=torch.float64), 1.0)

    References:
        MacKay (1992), doi:10.1162/neco.1992.4.3.415; Maddox, Benton, Wilson (2020),
        arXiv:2003.02139, section 4.
    """
    began = time.perf_counter()
    design = _Design.of(features, targets)
    prior, noise = _variances(prior_variance, noise_variance)
    return design.posterior(prior, noise, began)


@final
class _Design:
    """Features and targets, decomposed once for all variances."""

    def __init__(self, features: Tensor, targets: Tensor) -> None:
        self.features, self.targets = features, targets
        self.found: DesignSVD | None = None
        self.scale = math.inf
        self.beyond = 0.0  # squared norm of the targets outside the features' span

    @staticmethod
    def of(features: Any, targets: Any) -> "_Design":
        """Check and promote."""
        Phi = matrix("features", features)
        y = real_tensor("targets", targets)
        if y.shape != Phi.shape[:1]:
            contract = f"have shape ({len(Phi)},), one number a row of `features`"
            raise ValueError(message("targets", contract, tuple(y.shape)))
        if not bool(torch.isfinite(y).all()):
            raise ValueError(message("targets", "be finite", describe(y)))
        return _Design(Phi, y)

    def decomposed(self, scale: float) -> DesignSVD:
        """Return the decomposition that is accurate at this scale; kept if it still is."""
        stale = self.found is None or (
            self.found.method == "svd" and self._rounding(scale) > ROUNDING_ALLOWED
        )
        if stale:
            self.found, self.scale = design_svd(self.features, scale=scale), scale
            self.projections = self.found.left.T @ self.targets
            rest = self.targets - self.found.left @ self.projections
            # Once more: the first difference leaves rounding of the size of y.
            rest = rest - self.found.left @ (self.found.left.T @ rest)
            full = len(self.found.values) == len(self.targets)
            self.beyond = 0.0 if full else float(rest.square().sum())
        assert self.found is not None
        return self.found

    def _rounding(self, scale: float) -> float:
        """Return the present decomposition's error at another scale."""
        assert self.found is not None
        if self.found.method == "jacobi":
            return self.found.rounding
        return self.found.rounding * (self.scale / scale)

    def posterior(self, prior: float, noise: float, began: float) -> LinearPosterior:
        scale = math.sqrt(noise) / math.sqrt(prior)
        svd = self.decomposed(scale)
        s, c, n = svd.values, self.projections, len(self.targets)
        determined, undetermined = shares(s / scale)
        # s / (s^2 + z), which neither overflows nor divides by zero.
        gain = torch.where(s > 0.0, determined / torch.where(s > 0.0, s, 1.0), 0.0)
        mean = svd.right.T @ (gain * c)
        square = float((undetermined * c).square().sum()) + self.beyond
        energy = float((undetermined * c.square()).sum()) + self.beyond
        occam = -float(log_growth(s / scale).sum()) / 2.0
        constant = -0.5 * n * (_LOG_2_PI + math.log(noise))
        notes: tuple[str, ...] = ()
        if svd.method == "jacobi":
            notes = (_JACOBI_NOTE,)
        return LinearPosterior(
            of=_provenance(self.features),
            cost=Cost(seconds=time.perf_counter() - began),
            settings={
                "prior_variance": prior,
                "noise_variance": noise,
                "method": svd.method,
            },
            notes=notes,
            prior_variance=prior,
            noise_variance=noise,
            num_observations=n,
            mean=mean,
            singular_values=s,
            rank=svd.rank,
            directions=svd.right,
            projections=c,
            determined=determined,
            undetermined=undetermined,
            residual_square=square,
            log_likelihood=constant - 0.5 * square / noise,
            log_evidence=constant - 0.5 * energy / noise + occam,
            log_occam_factor=occam,
            rounding=self._rounding(scale),
        )


def maximise_evidence(
    features: Any,
    targets: Any,
    *,
    prior_variance: float = 1.0,
    noise_variance: float = 1.0,
    update: Collection[str] = UPDATES,
    tol: float = 1e-10,
    max_iterations: int = 1000,
) -> EvidenceFit:
    r"""Choose the variances by MacKay's fixed-point updates of the evidence.

    .. math:: \gamma = N_\text{eff},\qquad \alpha^2 \leftarrow \|\mu\|^2 / \gamma,\qquad
        \sigma^2 \leftarrow \|y - \Phi\mu\|^2 / (n - \gamma)

    At a fixed point the evidence's derivatives by both logarithms vanish. The updates
    need not rise monotonically, and there may be no maximum inside (targets of pure
    noise send the prior variance to 0): the result says whether they converged.

    Args:
        features: Phi, shape ``(n, p)``.
        targets: y, shape ``(n,)``.
        prior_variance: Where to start, or what it is if it is not updated.
        noise_variance: Likewise.
        update: Which of the two to update.
        tol: Relative derivative of the log evidence to stop at.
        max_iterations: Updates at most.

    Returns:
        The posterior at the last variances, and the way there.

    Raises:
        ValueError: If an argument is out of range.

    Cost:
        One SVD, and ``O(n min(n, p))`` operations an update.

    Example:
        >>> Phi = torch.linspace(-1, 1, 40).double()[:, None] ** torch.arange(4)
        >>> y = Phi @ torch.tensor([1.0, -2.0, 0.5, 1.0]).double()
        >>> y = y + 0.1 * torch.cos(37.0 * torch.arange(40).double())
        >>> fit = maximise_evidence(Phi, y)
        >>> fit.converged, round(fit.posterior.noise_variance, 3)
        (True, 0.005)

    References:
        MacKay (1992), doi:10.1162/neco.1992.4.3.415, section 4.
    """
    began = time.perf_counter()
    design = _Design.of(features, targets)
    prior, noise = _variances(prior_variance, noise_variance)
    update = unique("update", update)
    if not update or not set(update) <= set(UPDATES):
        contract = f"be some of {UPDATES}"
        raise ValueError(message("update", contract, describe(update)))
    tol = real("tol", tol, minimum=0.0)
    limit = positive_int("max_iterations", max_iterations)
    path: list[tuple[float, float, float]] = []
    while True:
        at = design.posterior(prior, noise, began)
        path.append((prior, noise, at.log_evidence))
        steps = _fixed_point(at, update)
        off = max(abs(ratio - 1.0) / (ratio + 1.0) for ratio in steps.values())
        if off <= tol or len(path) > limit:
            break
        new_prior = prior * steps.get("prior_variance", 1.0)
        new_noise = noise * steps.get("noise_variance", 1.0)
        if not _usable(new_prior) or not _usable(new_noise):
            break
        prior, noise = new_prior, new_noise
    return _fit(at, path, off, tol, began)


def _usable(variance: float) -> bool:
    return 1e-290 < variance < 1e290


def _fixed_point(at: LinearPosterior, update: tuple[str, ...]) -> dict[str, float]:
    """Return what each updated variance is to be multiplied by; 0 where it is to vanish."""
    ratios = {}
    if "prior_variance" in update:
        gamma = at.effective_dimension
        ratios["prior_variance"] = (
            -2.0 * at.log_prior_penalty / gamma if gamma > 0.0 else 1.0
        )
    if "noise_variance" in update:
        free = at.residual_degrees_of_freedom
        scaled = at.residual_square / at.noise_variance
        ratios["noise_variance"] = scaled / free if free > 0.0 else 1.0
    return ratios


def _fit(
    at: LinearPosterior,
    path: list[tuple[float, float, float]],
    off: float,
    tol: float,
    began: float,
) -> EvidenceFit:
    converged = off <= tol
    notes = at.notes
    if not converged:
        text = (
            f"the evidence has no maximum within {len(path) - 1} updates: prior variance "
            f"{at.prior_variance:.3g}, noise variance {at.noise_variance:.3g}"
        )
        notes = (*notes, text)
        warnings.warn(text, AccuracyWarning, stacklevel=3)
    columns = torch.tensor(path, dtype=torch.float64).T
    return EvidenceFit(
        of=at.of,
        cost=Cost(seconds=time.perf_counter() - began),
        settings={"tol": tol},
        notes=notes,
        posterior=at,
        prior_variances=columns[0].clone(),
        noise_variances=columns[1].clone(),
        log_evidences=columns[2].clone(),
        stationarity=off,
        converged=converged,
    )


def posterior_covariance(posterior: LinearPosterior) -> Tensor:
    r"""Return the posterior's covariance :math:`(\Phi^\top\Phi/\sigma^2 + \alpha^{-2}I)^{-1}`.

    Args:
        posterior: Of a linear model.

    Returns:
        Shape ``(p, p)``.

    Cost:
        ``8 p^2`` bytes.

    Example:
        >>> Phi, y = torch.eye(1, 2).double(), torch.ones(1).double()
        >>> at = linear_posterior(Phi, y, prior_variance=1.0, noise_variance=1.0)
        >>> posterior_covariance(at).diagonal()
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    linear_only(posterior)
    V = posterior.directions
    covariance = (V.T * posterior.variances) @ V
    if posterior.num_beyond:
        # The projector as its own square: differences of ones leave errors of 1e-16,
        # squares of such differences 1e-32.
        outside = torch.eye(posterior.num_params, dtype=V.dtype) - V.T @ V
        outside = outside - (outside @ V.T) @ V
        covariance += posterior.prior_variance * (outside.T @ outside)
    return (covariance + covariance.T) / 2.0


def predict(
    posterior: LinearPosterior, features: Any, *, joint: bool = False
) -> Predictive:
    r"""Return mean and variance of the function at new rows of features.

    .. math:: \operatorname{Var} f = \alpha^2 \Bigl(\sum_i (1 - \gamma_i)
        (v_i^\top\varphi)^2 + \|\varphi_\perp\|^2\Bigr),\qquad
        \operatorname{Var} y = \operatorname{Var} f + \sigma^2

    Args:
        posterior: Of a linear model.
        features: Shape ``(m, p)``.
        joint: Whether to keep the covariance of all m values.

    Returns:
        One output an input; ``observation_variance`` includes the noise.

    Raises:
        ValueError: If the features do not fit the posterior.

    Cost:
        ``O(m p min(n, p))``.

    Example:
        >>> Phi, y = torch.eye(1, 2).double(), torch.ones(1).double()
        >>> at = linear_posterior(Phi, y, prior_variance=1.0, noise_variance=1.0)
        >>> predict(at, torch.eye(2).double()).variance.flatten()
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    began = time.perf_counter()
    linear_only(posterior)
    X = matrix("features", features)
    if X.shape[1] != posterior.num_params:
        contract = f"have {posterior.num_params} columns, those of the posterior"
        raise ValueError(message("features", contract, tuple(X.shape)))
    V = posterior.directions
    inside = X @ V.T
    weighted = inside * posterior.variances.sqrt()
    parts = [weighted]
    if posterior.num_beyond:
        outside = X - inside @ V
        outside = outside - (outside @ V.T) @ V
        parts.append(outside * math.sqrt(posterior.prior_variance))
    root = torch.cat(parts, dim=1)
    variance = root.square().sum(dim=1)
    return Predictive(
        of=posterior.of,
        cost=Cost(seconds=time.perf_counter() - began),
        mean=(X @ posterior.mean)[:, None],
        covariance=variance[:, None, None],
        covariance_slack=torch.zeros_like(variance),
        noise_variance=posterior.noise_variance,
        joint_covariance=root @ root.T if joint else None,
    )


def shares(ratio: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return ``r^2 / (1 + r^2)`` and ``1 / (1 + r^2)``, each to its own last digit.

    Example:
        >>> shares(torch.tensor([0.0, 1e200], dtype=torch.float64))[1].tolist()
        [1.0, 0.0]
    """
    small = ratio <= 1.0
    below = torch.where(small, ratio, 0.0).square()
    above = torch.where(small, 1.0, 1.0 / torch.where(small, 1.0, ratio)).square()
    determined = torch.where(small, below / (1.0 + below), 1.0 / (1.0 + above))
    undetermined = torch.where(small, 1.0 / (1.0 + below), above / (1.0 + above))
    return determined, undetermined


def log_growth(ratio: Tensor) -> Tensor:
    """Return ``ln(1 + r^2)`` without overflow.

    Example:
        >>> log_growth(torch.tensor([0.0, 1e200], dtype=torch.float64)).tolist()
        [0.0, 921.0340371976183]
    """
    small = ratio <= 1.0
    below = torch.log1p(torch.where(small, ratio, 0.0).square())
    safe = torch.where(small, 1.0, ratio)
    return torch.where(
        small, below, 2.0 * safe.log() + torch.log1p((1.0 / safe).square())
    )


def linear_only(posterior: Any) -> LinearPosterior:
    """Return a posterior if it is of a linear model."""
    remedy = "Compute one: `linear_posterior(features, targets, ...)`."
    return instance("posterior", posterior, LinearPosterior, remedy)


def matrix(argument: str, value: Any) -> Tensor:
    """Return a finite float64 matrix on the CPU."""
    M = real_tensor(argument, value)
    if M.ndim != 2 or M.shape[1] == 0:
        contract = "be a matrix, one row an observation"
        raise ValueError(message(argument, contract, tuple(M.shape)))
    if not bool(torch.isfinite(M).all()):
        raise ValueError(message(argument, "be finite", describe(M)))
    return M


def _variances(prior_variance: float, noise_variance: float) -> tuple[float, float]:
    prior = real("prior_variance", prior_variance, minimum=0.0, strict=True)
    noise = real("noise_variance", noise_variance, minimum=0.0, strict=True)
    return prior, noise


def _provenance(features: Tensor) -> Provenance:
    n, p = features.shape
    return dataclasses.replace(
        Provenance(),
        matrix="Bayesian linear model",
        description=f"linear model of {p} coefficients, {n} observations",
        reduction="sum",
        unit="inverse variance of a coefficient",
        num_params=p,
        num_samples=n,
    )
