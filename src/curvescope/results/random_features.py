"""Random features: errors and effective dimensions against their number."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from curvescope.results.base import Result
from curvescope.results.text import format_table, thinned

CURVES = ("undetermined_dimension", "effective_dimension", "train_error", "test_error")


@dataclass(frozen=True, kw_only=True)
class RandomFeaturesCurve(Result):
    """Least squares on random features, of norm as small as possible.

    Curves have shape ``(R, T)``: R draws of the data, T numbers of features.

    Attributes:
        num_samples: Of the training data, and of the test data.
        z: Where the effective dimension is taken, in the unit of ``X'X``.
        num_features: Shape ``(T,)``, ascending.
        undetermined_dimension: ``min(num_samples, num_features)`` less the effective
            dimension: directions that the data span but hardly determine.
        effective_dimension: Of ``X'X`` at ``z``.
        train_error: Norm of the residuals relative to that of the targets.
        test_error: Likewise on the test data.
        seeds: Of the draws.
    """

    num_samples: int
    z: float
    num_features: Tensor
    undetermined_dimension: Tensor
    effective_dimension: Tensor
    train_error: Tensor
    test_error: Tensor
    seeds: tuple[int, ...]

    def peak(self, curve: str) -> tuple[int, float]:
        """Return where a curve's mean over the draws is largest, and how large."""
        mean = getattr(self, curve).mean(dim=0)
        place = int(mean.argmax())
        return int(self.num_features[place]), float(mean[place])

    def headline(self) -> str:
        """Return the result in one line."""
        left, undetermined = self.peak("undetermined_dimension")
        right, error = self.peak("test_error")
        return (
            f"{self.num_samples} samples: undetermined dimension largest at {left} "
            f"features ({undetermined:.4g}), test error at {right} ({error:.4g})"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a number of features, and of several draws one a draw."""
        several = len(self.seeds) > 1
        return [
            ({"seed": seed} if several else {})
            | {"num_features": int(count)}
            | {name: float(getattr(self, name)[draw, place]) for name in CURVES}
            for draw, seed in enumerate(self.seeds)
            for place, count in enumerate(self.num_features)
        ]

    def __str__(self) -> str:
        rows, note = thinned(self.rows())
        return format_table(self.headline(), rows, (*self.notes, *note), str(self.cost))
