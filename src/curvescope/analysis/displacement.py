"""The objective at other weights, over all data, without writing into the model.

The present weights are read, never written: other values go into a functional call of
the model, so that no interruption can leave the model changed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from curvescope._core.checkpoint import Checkpoint
from curvescope._core.checks import message
from curvescope._core.errors import ChangedDuringComputationError
from curvescope._core.progress import track
from curvescope.problem import Problem


@final
@dataclass(frozen=True)
class Points:
    """The objective at some points, float64; NaN where a loss knows no labels.

    Attributes:
        losses: Weight decay included.
        accuracies: Fractions of right predictions.
        agreements: Fractions of predictions that are those of the present weights.
    """

    losses: Tensor
    accuracies: Tensor
    agreements: Tensor

    def stacked(self) -> Tensor:
        """Return all three, shape ``(3, m)``."""
        return torch.stack([self.losses, self.accuracies, self.agreements])


@dataclass
class _Sums:
    """What adds up over batches, one entry a point."""

    totals: list[float]
    right: list[int]
    same: list[int]
    denominator: float = 0.0
    counted: int = 0
    compared: int = 0

    @staticmethod
    def of(num: int) -> "_Sums":
        return _Sums([0.0] * num, [0] * num, [0] * num)


@final
@dataclass
class Displacements:
    """Evaluates a problem at ``theta + D c`` for many ``c``, exactly as at ``theta``.

    Attributes:
        problem: What is evaluated.
        compare: Whether labels are compared with those of the present weights.
        num_forward_passes: Forward passes over all the data so far.
        num_data_passes: Readings of all the data so far.
    """

    problem: Problem
    compare: bool = False
    num_forward_passes: int = 0
    num_data_passes: int = 0
    _fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        self._fingerprint = self.problem.refresh()

    @property
    def fingerprint(self) -> str:
        """Of the problem when the computation began."""
        return self._fingerprint

    def check(self) -> None:
        """Raise if weights, buffers or data are not what they were at the beginning.

        Raises:
            ChangedDuringComputationError: If so.
        """
        if self.problem.refresh() != self._fingerprint:
            contract = "stay the same while the loss around it is computed"
            remedy = "Do not train or edit the model until the call returns."
            got = "another fingerprint (weights, buffers or data changed)"
            raise ChangedDuringComputationError(
                message("problem", contract, got, remedy)
            )

    def evaluate(
        self,
        D: Tensor,
        coefficients: Tensor,
        *,
        advance: Callable[[float], None] = lambda _: None,
    ) -> Points:
        """Evaluate at the rows of ``coefficients``, ``(m, d)``; one reading of the data.

        Args:
            D: Directions, ``(P, d)``, in the problem's dtype and place.
            coefficients: One point a row, float64.
            advance: Told of finished points.
        """
        problem = self.problem
        pieces = problem.layout.split(D.T)
        _, parameters = problem.leaves()
        sums = _Sums.of(len(coefficients))
        with problem.network.running(), torch.no_grad():
            for batch in problem.batches():
                reference = problem.outputs(batch, parameters) if self.compare else None
                for place, row in enumerate(coefficients):
                    moved = dict(parameters)
                    weights = row.to(D)
                    for name, piece in zip(problem.layout.names, pieces, strict=True):
                        step = torch.tensordot(weights, piece, dims=1)
                        moved[name] = parameters[name].detach() + step
                    outputs = problem.outputs(batch, moved)
                    self._add(sums, place, outputs, reference, batch.targets)
                    advance(1.0 / problem.num_batches)
                # The denominator is the data's, not the weights'.
                sums.denominator += problem.loss.denominator(outputs, batch.targets)
        self.num_data_passes += 1
        self.num_forward_passes += len(coefficients) + int(self.compare)
        self.check()
        return self._points(sums, D, coefficients)

    def _add(
        self,
        sums: _Sums,
        place: int,
        outputs: Tensor,
        reference: Tensor | None,
        targets: object,
    ) -> None:
        loss = self.problem.loss
        sums.totals[place] += float(loss.total(outputs, targets))
        counts = loss.correct(outputs, targets)
        if counts is not None:
            sums.right[place] += counts[0]
            sums.counted += counts[1] if place == 0 else 0
        if reference is None:
            return
        same = loss.agreeing(outputs, reference, targets)
        if same is not None:
            sums.same[place] += same[0]
            sums.compared += same[1] if place == 0 else 0

    def _points(self, sums: _Sums, D: Tensor, coefficients: Tensor) -> Points:
        losses = torch.tensor(sums.totals, dtype=torch.float64)
        if self.problem.reduction == "mean":
            losses = losses / sums.denominator
        if self.problem.weight_decay:
            losses = losses + self._decay(D, coefficients)
        right = torch.tensor(sums.right, dtype=torch.float64)
        same = torch.tensor(sums.same, dtype=torch.float64)
        return Points(
            losses,
            right / (sums.counted or torch.nan),
            same / (sums.compared or torch.nan),
        )

    def _decay(self, D: Tensor, coefficients: Tensor) -> Tensor:
        theta, wide = self.problem.parameter_vector().double(), D.double()
        linear = coefficients @ (wide.T @ theta).cpu()
        square = ((coefficients @ (wide.T @ wide).cpu()) * coefficients).sum(-1)
        whole = float(theta.square().sum()) + 2.0 * linear + square
        return 0.5 * self.problem.weight_decay * whole


def evaluate_rows(
    sheets: Sequence[Displacements],
    row: Callable[[int], tuple[Tensor, Tensor]],
    *,
    shape: tuple[int, int],
    description: str,
    checkpoint: Checkpoint | None,
) -> Tensor:
    """Evaluate rows of points on each sheet, saving those that are done.

    Args:
        sheets: Problems on the same model; the first one is the present one.
        row: From a row's number to its directions ``(P, d)`` and points ``(m, d)``.
        shape: Number of rows, and of points in each.
        description: For the progress line.
        checkpoint: Where to save, and to go on from; also saved when interrupted.

    Returns:
        Losses, accuracies and agreements: ``(sheets, 3, rows, points)``, float64.
    """
    values = torch.full((len(sheets), 3, *shape), math.nan, dtype=torch.float64)
    done = saved = 0
    state = None if checkpoint is None else checkpoint.load()
    if state is not None:
        values, done = state[1]["values"], int(state[0]["done"])
        saved = done
    total = shape[0] * shape[1] * len(sheets)
    with track(description, total=total) as task:
        task.update(completed=done * shape[1] * len(sheets))
        try:
            for place in range(done, shape[0]):
                D, points = row(place)
                for number, sheet in enumerate(sheets):
                    found = sheet.evaluate(D, points, advance=task.advance)
                    values[number, :, place] = found.stacked()
                done = place + 1
                if checkpoint is not None and checkpoint.due():
                    checkpoint.save({"done": done}, {"values": values})
                    saved = done
        finally:
            # What is done is kept, whatever ended the loop.
            if checkpoint is not None and done > saved:
                checkpoint.save({"done": done}, {"values": values})
    return values
