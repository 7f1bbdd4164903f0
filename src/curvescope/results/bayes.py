"""Posteriors, predictions, scales: what Bayesian linear models and Laplace give."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from curvescope.results.base import Result
from curvescope.results.kinds import Estimate


@dataclass(frozen=True, kw_only=True)
class LinearPosterior(Result):
    r"""Posterior of ``y = Phi beta + eps`` under a Gaussian prior, in the SVD's basis.

    The parametrisation is by variances: ``beta ~ N(0, prior_variance I)`` and
    ``eps ~ N(0, noise_variance I)``. Directions beyond the stored ones keep the prior.

    Attributes:
        prior_variance: Of every coefficient.
        noise_variance: Of every target.
        num_observations: Rows of the features.
        mean: Posterior mean, shape ``(p,)``.
        singular_values: Of the features, descending, shape ``(min(n, p),)``.
        rank: How many of these are above rounding.
        directions: Their right singular vectors as rows.
        projections: Left singular vectors' products with the targets.
        determined: ``s^2 / (s^2 + noise / prior)`` of each direction, in [0, 1]; their
            sum is the effective dimension.
        undetermined: One minus that, not by subtraction.
        residual_square: ``||y - Phi mean||^2``.
        log_likelihood: Of the targets at the mean.
        log_evidence: Of the targets, coefficients integrated out.
        log_occam_factor: ``-1/2 sum ln(1 + prior_variance lambda)``.
        rounding: Bound on the rounding error of a single entry of ``determined``.
    """

    prior_variance: float
    noise_variance: float
    num_observations: int
    mean: Tensor
    singular_values: Tensor
    rank: int
    directions: Tensor
    projections: Tensor
    determined: Tensor
    undetermined: Tensor
    residual_square: float
    log_likelihood: float
    log_evidence: float
    log_occam_factor: float
    rounding: float

    @property
    def num_params(self) -> int:
        """Number of coefficients p."""
        return len(self.mean)

    @property
    def num_prior_directions(self) -> int:
        """Dimensions that no observation reaches: they keep the prior's variance.

        Of a design whose columns depend on each other these are more than
        `num_beyond`: some stored directions are among them, to rounding.
        """
        return self.num_params - self.rank

    @property
    def num_beyond(self) -> int:
        """Dimensions orthogonal to all stored directions."""
        return self.num_params - len(self.singular_values)

    @property
    def effective_dimension(self) -> float:
        """``N_eff(Phi'Phi / noise, 1 / prior)``: trace of the hat matrix, MacKay's gamma."""
        return float(self.determined.sum())

    @property
    def eigenvalues(self) -> Tensor:
        """Of ``Phi'Phi / noise_variance``, without those that are zero by shape."""
        return (self.singular_values / math.sqrt(self.noise_variance)).square()

    @property
    def variances(self) -> Tensor:
        """Posterior variance along each stored direction."""
        return self.prior_variance * self.undetermined

    @property
    def contractions(self) -> Tensor:
        """Prior minus posterior variance along each stored direction."""
        return self.prior_variance * self.determined

    @property
    def contraction(self) -> float:
        """Prior minus posterior variance in all: ``prior_variance * N_eff``."""
        return float(self.contractions.sum())

    @property
    def residual_degrees_of_freedom(self) -> float:
        """``n - N_eff``, not by subtraction."""
        beyond = self.num_observations - len(self.singular_values)
        return float(self.undetermined.sum()) + beyond

    @property
    def log_prior_penalty(self) -> float:
        """``-||mean||^2 / (2 prior_variance)``; evidence = likelihood + it + Occam."""
        scaled = self.mean / math.sqrt(self.prior_variance)
        return -0.5 * float(scaled.square().sum())

    @property
    def generalised_cross_validation(self) -> float:
        """``n ||y - Phi mean||^2 / (n - N_eff)^2``; NaN where the fit interpolates."""
        free = self.residual_degrees_of_freedom
        if free == 0.0:
            return math.nan
        return self.num_observations * (self.residual_square / free) / free

    def headline(self) -> str:
        """Return the result in one line."""
        return (
            f"posterior of {self.num_params} coefficients given "
            f"{self.num_observations} observations: {self.effective_dimension:.6g} "
            f"determined, contraction {self.contraction:.6g} of "
            f"{self.prior_variance * self.num_params:.6g}, log evidence "
            f"{self.log_evidence:.8g}"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a stored direction; a last one for all beyond these."""
        columns = {
            "eigenvalue": self.eigenvalues,
            "determined": self.determined,
            "posterior_variance": self.variances,
            "contraction": self.contractions,
        }
        rows = [
            {
                "directions": 1,
                **{name: float(c[i]) for name, c in columns.items()},
            }
            for i in range(len(self.singular_values))
        ]
        if self.num_beyond:
            untouched = (0.0, 0.0, self.prior_variance, 0.0)
            rows.append(
                {
                    "directions": self.num_beyond,
                    **dict(zip(columns, untouched, strict=True)),
                }
            )
        return rows


@dataclass(frozen=True, kw_only=True)
class EvidenceFit(Result):
    """Variances that maximise the evidence, and the way there.

    Attributes:
        posterior: At the last variances.
        prior_variances: One an iteration, the start first.
        noise_variances: Likewise.
        log_evidences: Likewise.
        stationarity: Largest derivative of the log evidence by the logarithm of an
            updated variance, relative to its own two terms; 0 at a maximum.
        converged: Whether that reached the tolerance.
    """

    posterior: LinearPosterior
    prior_variances: Tensor
    noise_variances: Tensor
    log_evidences: Tensor
    stationarity: float
    converged: bool

    def headline(self) -> str:
        """Return the result in one line."""
        at = self.posterior
        state = "converged" if self.converged else "NOT converged"
        return (
            f"evidence maximised in {len(self.log_evidences) - 1} updates ({state}, "
            f"relative derivative {self.stationarity:.2g}): prior variance "
            f"{at.prior_variance:.6g}, noise variance {at.noise_variance:.6g}, "
            f"log evidence {at.log_evidence:.8g}"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row an iteration."""
        names = ("prior_variance", "noise_variance", "log_evidence")
        columns = (self.prior_variances, self.noise_variances, self.log_evidences)
        return [
            {"iteration": i, **dict(zip(names, map(float, row), strict=True))}
            for i, row in enumerate(zip(*columns, strict=True))
        ]


@dataclass(frozen=True, kw_only=True)
class Predictive(Result):
    """Gaussian posterior of function values at inputs.

    Attributes:
        mean: Shape ``(m, K)``: at input m, output K.
        covariance: Of the K outputs at each input, shape ``(m, K, K)``; an upper bound
            in the positive-semidefinite order where ``covariance_slack`` is not 0.
        covariance_slack: How far each input's covariance may lie too high, in every
            direction, shape ``(m,)``; 0 where exact.
        noise_variance: What a new observation adds; 0 for a classifier.
        joint_covariance: Of all ``m K`` values, sample by sample; where it was asked.
    """

    mean: Tensor
    covariance: Tensor
    covariance_slack: Tensor
    noise_variance: float = 0.0
    joint_covariance: Tensor | None = None

    @property
    def variance(self) -> Tensor:
        """Of each function value, shape ``(m, K)``."""
        return self.covariance.diagonal(dim1=1, dim2=2)

    @property
    def observation_variance(self) -> Tensor:
        """Of a new observation, shape ``(m, K)``."""
        return self.variance + self.noise_variance

    def headline(self) -> str:
        """Return the result in one line."""
        m, k = self.mean.shape
        return f"posterior of the function at {m} inputs, {k} outputs each"

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a function value."""
        return [
            {
                "input": i,
                "output": k,
                "mean": float(self.mean[i, k]),
                "variance": float(self.variance[i, k]),
                "too_high_by_at_most": float(self.covariance_slack[i]),
            }
            for i in range(self.mean.shape[0])
            for k in range(self.mean.shape[1])
        ]


@dataclass(frozen=True, kw_only=True)
class LaplacePosterior(Result):
    """Linearised Laplace posterior of a network: Gaussian, through the GGN.

    The precision is ``G + prior_precision I`` with G the GGN of the summed negative
    log-likelihood, whatever the problem's reduction.

    Attributes:
        prior_precision: Of every parameter.
        noise_variance: Of a regression's targets; ``None`` for other likelihoods.
        likelihood: What the loss stands for.
        eigenvalues: Of G, descending: all that are not zero by shape, or the top ones.
        directions: Their eigenvectors as rows, shape ``(k, P)``.
        method: ``"exact"`` or ``"low_rank"``.
        num_left_out: Eigenvalues between 0 and ``left_out_bound`` that are not stored.
        left_out_bound: What each of them is at most; 0 where exact.
        left_out_nodes: Lanczos quadratures of these, one row a probe; empty where exact.
        left_out_weights: Likewise.
        left_out_degrees: Degrees of freedom of the errors that the probes cause; ``inf``
            where the nodes are the eigenvalues themselves.
        effective_dimension: Of the posterior: ``sum lambda / (lambda + prior_precision)``.
        log_marginal_likelihood: Laplace evidence, in nats.
        log_likelihood: At the weights.
        log_prior_penalty: ``-prior_precision ||theta||^2 / 2``.
        log_occam_factor: ``-1/2 sum ln(1 + lambda / prior_precision)``.
        newton_decrement: Nats by which the posterior's own quadratic model would still
            rise from the weights to its mode; 0 at a trained minimum.
    """

    prior_precision: float
    noise_variance: float | None
    likelihood: str
    eigenvalues: Tensor
    directions: Tensor
    method: Literal["exact", "low_rank"]
    num_left_out: int
    left_out_bound: float
    left_out_nodes: Tensor
    left_out_weights: Tensor
    left_out_degrees: float
    effective_dimension: Estimate
    log_marginal_likelihood: Estimate
    log_likelihood: float
    log_prior_penalty: float
    log_occam_factor: Estimate
    newton_decrement: float

    @property
    def num_params(self) -> int:
        """Number of parameters P."""
        return self.directions.shape[1]

    @property
    def variances(self) -> Tensor:
        """Posterior variance along each stored direction."""
        return 1.0 / (self.eigenvalues + self.prior_precision)

    @property
    def determined(self) -> Tensor:
        """``lambda / (lambda + prior_precision)`` of each stored direction."""
        return self.eigenvalues / (self.eigenvalues + self.prior_precision)

    def headline(self) -> str:
        """Return the result in one line."""
        dimension, evidence = self.effective_dimension, self.log_marginal_likelihood
        return (
            f"linearised Laplace posterior ({self.method}) of {self.num_params} "
            f"parameters, prior precision {self.prior_precision:.4g}: effective dimension "
            f"{_with_half_width(dimension)}, log marginal likelihood "
            f"{_with_half_width(evidence)}"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a stored direction."""
        values = (self.eigenvalues, self.determined, self.variances)
        names = ("eigenvalue", "determined", "posterior_variance")
        return [
            dict(zip(names, map(float, row), strict=True))
            for row in zip(*values, strict=True)
        ]


def _with_half_width(estimate: Estimate) -> str:
    low, high = estimate.interval()
    half = (high - low) / 2
    return f"{estimate.value:.6g}" + (f" +- {half:.2g}" if half > 0.0 else "")


@dataclass(frozen=True, kw_only=True)
class RegularisationScale(Result):
    """A ``z`` for the effective dimension, with the unit that it is in.

    Use it wherever a ``z`` is asked for: ``float(scale)`` is the number.

    Attributes:
        z: In the unit of an eigenvalue of the problem.
        reduction: The problem's; ``""`` for a plain spectrum.
        meaning: Where the number comes from, in words.
        low: The smallest ``z`` that the same reasoning supports.
        high: The largest.
    """

    z: float
    reduction: str
    meaning: str
    low: float
    high: float

    def __float__(self) -> float:
        return self.z

    def headline(self) -> str:
        """Return the result in one line."""
        between = (
            "" if self.low == self.high else f" ({self.low:.4g} to {self.high:.4g})"
        )
        return f"z = {self.z:.6g}{between}, {self.of.unit}: {self.meaning}"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """An equation of the theory with both sides computed, each in its own way."""

    name: str
    left: float
    right: float

    @property
    def relative_difference(self) -> float:
        """``|left - right|`` relative to the larger side."""
        size = max(abs(self.left), abs(self.right))
        return abs(self.left - self.right) / size if size > 0.0 else 0.0


@dataclass(frozen=True, kw_only=True)
class IdentityTable(Result):
    """The identities of a Bayesian linear model, each with both sides."""

    NESTED: ClassVar[Mapping[str, type]] = {"identities": Identity}
    identities: tuple[Identity, ...]

    @property
    def largest_difference(self) -> float:
        """The largest relative difference."""
        return max(row.relative_difference for row in self.identities)

    def headline(self) -> str:
        """Return the result in one line."""
        return (
            f"{len(self.identities)} identities, largest relative difference "
            f"{self.largest_difference:.2g}"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row an identity."""
        return [
            {
                "identity": row.name,
                "left": row.left,
                "right": row.right,
                "relative_difference": row.relative_difference,
            }
            for row in self.identities
        ]


@dataclass(frozen=True, kw_only=True)
class HomogeneityStep:
    """One step length of `FunctionSpaceHomogeneity`; changes are relative norms.

    ``null_change`` and ``random_change`` are of the outputs on the data, along
    directions in the Jacobian's null space and random ones of the same length, relative
    to the outputs' own norm; ``nonlinearity`` is the part of the random change that the
    Jacobian does not explain, relative to that change.
    """

    step: float
    null_change: float
    random_change: float
    nonlinearity: float


@dataclass(frozen=True, kw_only=True)
class FunctionSpaceHomogeneity(Result):
    """Whether directions exist in which the data's predictions cannot change.

    Attributes:
        verdict: ``"linear theorem"``: squared error, outputs linear in the parameters:
            unchanged at any step. ``"GLM theorem"``: so for any loss that is convex in
            such outputs. ``"first order only"``: a network, changes of second order.
            ``"none"``: the Jacobian has no null space.
        rank: Of the Jacobian over the data.
        num_params: P; the null space has dimension ``P - rank``.
        num_outputs: Outputs over the data.
        steps: One a step length, ascending.
        null_order: Exponent of the null change against the step; NaN where it is rounding.
        random_order: Likewise of the random change, 1 in theory for small steps.
        hessian_residual: Largest ``||H v||`` over null directions v, H the true Hessian
            without weight decay, relative to ``||J||^2`` times the output curvature.
        output_curvature: Smallest and largest eigenvalue of the loss's output Hessians.
        tolerance: Below which a relative change counts as rounding.
    """

    NESTED: ClassVar[Mapping[str, type]] = {"steps": HomogeneityStep}
    verdict: Literal["linear theorem", "GLM theorem", "first order only", "none"]
    rank: int
    num_params: int
    num_outputs: int
    steps: tuple[HomogeneityStep, ...]
    null_order: float
    random_order: float
    hessian_residual: float
    output_curvature: tuple[float, float]
    tolerance: float

    @property
    def null_dimension(self) -> int:
        """Dimension of the space in which predictions stay, to first order at least."""
        return self.num_params - self.rank

    def headline(self) -> str:
        """Return the result in one line."""
        return (
            f"function-space homogeneity: {self.verdict}; {self.null_dimension} of "
            f"{self.num_params} directions leave the {self.num_outputs} outputs alone "
            f"(Jacobian of rank {self.rank}), Hessian residual {self.hessian_residual:.2g}"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a step length."""
        return [dict(vars(step)) for step in self.steps]
