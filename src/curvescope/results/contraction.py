"""How a posterior contracts while observations come in."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from curvescope.results.base import Result
from curvescope.results.text import format_table, thinned

CURVES = ("parameter_dimension", "function_dimension", "effective_dimension")


@dataclass(frozen=True, kw_only=True)
class ChainSummary:
    """What the chains at one number of observations are worth, and the published way.

    Attributes:
        num_observations: How many.
        seed: Of the draw and the chains.
        half_dimension: `parameter_dimension` by the first half of each chain: where it is
            lower, more samples would raise the number still.
        published_dimension: By the published code's way: samples not centred, the noise's
            precision as one parameter more.
        published_function_dimension: Likewise of noisy predictions, at z = 1e-10: the
            smaller of the numbers of observations and of samples less one.
        weights_r_hat: Largest split R-hat of a weight; far above 1 where chains differ.
        function_r_hat: Largest of the function at up to 50 observations.
        weights_sample_size: Smallest effective sample size of a weight.
        median_sample_size: The median one.
        function_sample_size: Smallest of the function there.
        divergences: Transitions that diverged.
        largest_trees: Part of the transitions that were cut at the largest tree.
        mean_steps: Gradients of a transition.
        acceptance: Mean acceptance.
        noise_variance: Posterior mean; sampled with the weights.
        sampler: Library, version, precision.
        seconds: Of sampling and measuring.
    """

    num_observations: int
    seed: int
    half_dimension: float
    published_dimension: float
    published_function_dimension: float
    weights_r_hat: float
    function_r_hat: float
    weights_sample_size: float
    median_sample_size: float
    function_sample_size: float
    divergences: int
    largest_trees: float
    mean_steps: float
    acceptance: float
    noise_variance: float
    sampler: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class PosteriorContraction(Result):
    """Effective dimensions of a posterior against the number of observations.

    Curves have shape ``(R, T)``: R draws (orders of the data, or data and networks), T
    numbers of observations.

    Attributes:
        model: ``"linear"`` or ``"net"``.
        posterior: ``"exact"`` for the linear model; of a network ``"laplace"``
            (linearised) or ``"nuts"`` (of samples).
        num_observations: Shape ``(T,)``, ascending.
        parameter_dimension: Of the covariance of the parameters at ``z``; it begins at
            ``prior_dimension`` and falls.
        effective_dimension: Of the Hessian of the negative log-likelihood (for a
            network the GGN), at the prior's precision: parameters that are determined.
            Of samples ``sum (1 - v / prior variance)``, which is the same number for a
            Gaussian posterior.
        function_dimension: Of the covariance of the function at the observations at
            ``z``; ``None`` for a network by Laplace.
        prior_dimension: ``parameter_dimension`` without data: ``p v / (v + z)`` of p
            parameters of variance v.
        z: In the unit of a variance.
        num_params: p.
        seeds: Of the draws.
        chains: One a number of observations and draw, for samples.
        independent_prior_dimension: ``prior_dimension`` by as many independent samples:
            few samples alone make it smaller. NaN without samples.
    """

    NESTED: ClassVar[Mapping[str, type]] = {"chains": ChainSummary}
    model: Literal["linear", "net"]
    posterior: Literal["exact", "laplace", "nuts"] = "exact"
    num_observations: Tensor
    parameter_dimension: Tensor
    effective_dimension: Tensor
    function_dimension: Tensor | None
    prior_dimension: float
    z: float
    num_params: int
    seeds: tuple[int, ...]
    chains: tuple[ChainSummary, ...] = ()
    independent_prior_dimension: float = math.nan

    @property
    def curves(self) -> dict[str, Tensor]:
        """The curves that are there, by name."""
        found = {name: getattr(self, name) for name in CURVES}
        return {name: curve for name, curve in found.items() if curve is not None}

    def headline(self) -> str:
        """Return the result in one line."""
        last = float(self.parameter_dimension[:, -1].mean())
        return (
            f"posterior of {self.num_params} parameters: effective dimension of their "
            f"covariance at z = {self.z:g} falls from {self.prior_dimension:.4g} (prior) "
            f"to {last:.4g} with {int(self.num_observations[-1])} observations"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a number of observations and draw."""
        chains = {(c.num_observations, c.seed): dict(vars(c)) for c in self.chains}
        return [
            {"num_observations": int(count), "seed": seed}
            | {name: float(curve[draw, at]) for name, curve in self.curves.items()}
            | chains.get((int(count), seed), {})
            for at, count in enumerate(self.num_observations)
            for draw, seed in enumerate(self.seeds)
        ]

    def published_curve(self) -> Tensor | None:
        """Return ``parameter_dimension`` by the published way, ``(R, T)``, of samples."""
        return self._of_chains("published_dimension")

    def half_curve(self) -> Tensor | None:
        """Return ``parameter_dimension`` by the first half of each chain, ``(R, T)``."""
        return self._of_chains("half_dimension")

    def _of_chains(self, name: str) -> Tensor | None:
        if not self.chains:
            return None
        found = {(c.num_observations, c.seed): getattr(c, name) for c in self.chains}
        counts = [int(count) for count in self.num_observations]
        return torch.tensor(
            [[found[count, seed] for count in counts] for seed in self.seeds],
            dtype=torch.float64,
        )

    def __str__(self) -> str:
        rows, note = thinned(self.rows())
        return format_table(self.headline(), rows, (*self.notes, *note), str(self.cost))
