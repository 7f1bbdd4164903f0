"""The search for factors that make layers' blocks equal: Gauss-Newton within bounds.

Unknowns are the logarithms of the factors. Of a positively homogeneous chain the Jacobian
is known and the first step exact; elsewhere it is learnt from the steps (Broyden) and
taken anew by differences after a step that failed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from curvescope.results.initialisation import ratio

# A factor changes at most tenfold in a round, and a thousandfold in all, where the
# function changes with it.
_MOST_PER_ROUND = math.log(10.0)
_MOST = math.log(1000.0)
_LEAST_RADIUS = 1e-4
_DIFFERENCE = 0.02
# How much the outputs' size counts beside the blocks', at first and within bounds.
_WEIGHT, _LEAST_WEIGHT, _MOST_WEIGHT = 0.3, 0.02, 2.0

Norms = dict[str, float]


@final
@dataclass(frozen=True, kw_only=True)
class Trial:
    """What was measured at some factors.

    Attributes:
        norms: Of the blocks.
        size: Of the outputs, their norm.
        loss: The objective.
    """

    norms: Norms
    size: float
    loss: float

    @property
    def usable(self) -> bool:
        """Whether all numbers can be worked with."""
        values = [*self.norms.values(), self.size]
        return math.isfinite(self.loss) and all(
            math.isfinite(value) and value > 0.0 for value in values
        )


@final
@dataclass(frozen=True, kw_only=True)
class Found:
    """The best factors.

    Attributes:
        logs: Logarithms of the factors, by layer; all zero where nothing was better.
        norms: The blocks' norms there.
        rounds: Trials.
    """

    logs: Norms
    norms: Norms
    rounds: int


@final
@dataclass
class Search:
    """A search over the factors of some layers.

    Attributes:
        measure: Measures at logarithms of factors; ``None`` where that fails.
        start: What is measured at factors of 1.
        groups: Layers whose blocks are made equal among themselves.
        bounded: Whether factors are; the product of a group's is 1 where they are not.
        most_loss: Trials with a larger loss are refused.
    """

    measure: Callable[[Mapping[str, float]], Trial | None]
    start: Trial
    groups: Sequence[Sequence[str]]
    bounded: bool
    most_loss: float
    weight: float = field(default=_WEIGHT, init=False)

    def __post_init__(self) -> None:
        self.names = [name for group in self.groups for name in group]
        n = len(self.names)
        averages = torch.zeros(n, n, dtype=torch.float64)
        begin = 0
        for group in self.groups:
            end = begin + len(group)
            averages[begin:end, begin:end] = 1.0 / len(group)
            begin = end
        self.centre = torch.eye(n, dtype=torch.float64) - averages

    def run(self, *, tol: float, max_rounds: int) -> Found:
        """Search until the norms are equal within each group, and return the best."""
        n = len(self.names)
        here, logs = self.start, torch.zeros(n, dtype=torch.float64)
        best, best_logs = here, logs
        sizes = torch.ones(1, n, dtype=torch.float64)
        J = torch.cat([-2.0 * self.centre, sizes])
        radius = math.inf if not self.bounded else _MOST_PER_ROUND
        rounds, fresh = 0, False
        while (
            self.ratio(best.norms) > 1.0 + tol
            and rounds < max_rounds
            and radius > _LEAST_RADIUS
        ):
            move = self._move(J, here, logs, radius)
            length = float(move.norm())
            if length == 0.0:
                break
            trial = self._try(logs + move)
            rounds += 1
            allowed = trial is not None and trial.loss <= self.most_loss
            predicted = self._error(self._residual(here) + J @ move)
            before = self._error(self._residual(here))
            after = math.inf
            if trial is not None:
                change = self._residual(trial) - self._residual(here)
                J = J + torch.outer(change - J @ move, move) / length**2
                after = self._error(self._residual(trial))
            if allowed and trial is not None and after < before:
                here, logs, fresh = trial, logs + move, False
                if self.ratio(here.norms) < self.ratio(best.norms):
                    best, best_logs = here, logs
                gain = (before - after) / max(before - predicted, 1e-12)
                if gain > 0.5:
                    radius = max(radius, 2.0 * length)
                elif gain < 0.1:
                    radius = 0.5 * length
                if self.bounded:
                    radius = min(radius, _MOST_PER_ROUND)
                continue
            radius = 0.5 * length
            if trial is not None and not allowed:
                self.weight = min(_MOST_WEIGHT, 3.0 * self.weight)
            elif fresh:
                self.weight = max(_LEAST_WEIGHT, 0.3 * self.weight)
            if not fresh:
                J, fresh = self._jacobian(here, logs, J), True
        return Found(
            logs=dict(zip(self.names, best_logs.tolist(), strict=True)),
            norms=best.norms,
            rounds=rounds,
        )

    def ratio(self, norms: Mapping[str, float]) -> float:
        """Return the largest over the smallest norm, of the group where that is worst."""
        return max(ratio([norms[name] for name in group]) for group in self.groups)

    def _try(self, logs: Tensor) -> Trial | None:
        trial = self.measure(dict(zip(self.names, logs.tolist(), strict=True)))
        return trial if trial is not None and trial.usable else None

    def _residual(self, trial: Trial) -> Tensor:
        """Return what should be zero: differences of the norms, growth of the outputs."""
        values = [trial.norms[name] for name in self.names]
        logs = torch.tensor(values, dtype=torch.float64).log()
        growth = math.log(trial.size / self.start.size)
        return torch.cat([self.centre @ logs, logs.new_tensor([growth])])

    def _error(self, residual: Tensor) -> float:
        return float((self._weights(residual) * residual).norm())

    def _weights(self, residual: Tensor) -> Tensor:
        weights = torch.ones_like(residual)
        weights[-1] = self.weight
        return weights

    def _move(self, J: Tensor, here: Trial, logs: Tensor, radius: float) -> Tensor:
        residual = self._residual(here)
        weights = self._weights(residual)
        move = shortened(weights[:, None] * J, weights * residual, radius)
        if self.bounded:
            return (logs + move).clamp(-_MOST, _MOST) - logs
        return self.centre @ move

    def _jacobian(self, here: Trial, logs: Tensor, J: Tensor) -> Tensor:
        """Measure the Jacobian by differences; a column that fails stays as it was."""
        residual, columns = self._residual(here), []
        for k in range(len(self.names)):
            aside = logs.clone()
            aside[k] += _DIFFERENCE
            trial = self._try(aside)
            columns.append(
                J[:, k]
                if trial is None
                else (self._residual(trial) - residual) / _DIFFERENCE
            )
        return torch.stack(columns, 1)


def shortened(J: Tensor, residual: Tensor, radius: float) -> Tensor:
    """Return the least-squares step of length ``radius`` at most (Levenberg, Marquardt).

    Example:
        >>> J, residual = torch.eye(1).double(), torch.tensor([-4.0]).double()
        >>> [round(float(shortened(J, residual, r)), 3) for r in (9.0, 1.0)]
        [4.0, 1.0]
    """
    U, S, Vh = torch.linalg.svd(J, full_matrices=False)
    c = U.mT @ residual

    def step(damping: float) -> Tensor:
        return -(Vh.mT @ (S / (S * S + damping) * c))

    low = 1e-12 * float(S[0]) ** 2
    if not low > 0.0 or float(step(low).norm()) <= radius:
        return step(low) if low > 0.0 else torch.zeros_like(Vh[0])
    high = float(S[0] * c.norm()) / radius
    for _ in range(60):
        middle = math.sqrt(low * high)
        if float(step(middle).norm()) > radius:
            low = middle
        else:
            high = middle
    return step(high)
