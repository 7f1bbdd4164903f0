"""How a posterior contracts while observations come in."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from curvescope.results.base import Result
from curvescope.results.text import format_table, thinned

CURVES = ("parameter_dimension", "function_dimension", "effective_dimension")


@dataclass(frozen=True, kw_only=True)
class PosteriorContraction(Result):
    """Effective dimensions of a posterior against the number of observations.

    Curves have shape ``(R, T)``: R draws (orders of the data, or data and networks), T
    numbers of observations.

    Attributes:
        model: ``"linear"``, or ``"net"`` by its linearised Laplace posterior.
        num_observations: Shape ``(T,)``, ascending.
        parameter_dimension: Of the covariance of the parameters at ``z``; it begins at
            ``prior_dimension`` and falls.
        effective_dimension: Of the Hessian of the negative log-likelihood (for a
            network the GGN), at the prior's precision: parameters that are determined.
        function_dimension: Of the covariance of the function at the observations at
            ``z``; ``None`` for a network.
        prior_dimension: ``parameter_dimension`` without data: ``p v / (v + z)`` of p
            parameters of variance v.
        z: In the unit of a variance.
        num_params: p.
        seeds: Of the draws.
    """

    model: Literal["linear", "net"]
    num_observations: Tensor
    parameter_dimension: Tensor
    effective_dimension: Tensor
    function_dimension: Tensor | None
    prior_dimension: float
    z: float
    num_params: int
    seeds: tuple[int, ...]

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
        return [
            {"num_observations": int(count), "seed": seed}
            | {name: float(curve[draw, at]) for name, curve in self.curves.items()}
            for at, count in enumerate(self.num_observations)
            for draw, seed in enumerate(self.seeds)
        ]

    def __str__(self) -> str:
        rows, note = thinned(self.rows())
        return format_table(self.headline(), rows, (*self.notes, *note), str(self.cost))
