"""Bounds of the effective dimension from certified eigenpairs, beside an estimate."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from curvescope.results.base import Result


@dataclass(frozen=True, kw_only=True)
class DimensionBounds(Result):
    """What certified eigenpairs leave open of an effective dimension.

    Attributes:
        z: Where, ascending, in the unit of an eigenvalue.
        lower: At least so much, whatever the other eigenvalues are.
        upper: At most so much; see ``upper_from``.
        negative: How negative eigenvalues count: ``"clip"`` or ``"abs"``.
        num_pairs: Pairs that were known.
        dimension: Number of all eigenvalues.
        upper_from: What the upper bound rests on besides the pairs: ``"nothing"`` known
            of the others, their ``"number"`` and the last pair, or also their ``"sum"``,
            an interval of 95 %.
        verdict: Whether the estimate that they stand beside agrees, in words.
    """

    z: Tensor
    lower: Tensor
    upper: Tensor
    negative: str
    num_pairs: int
    dimension: int
    upper_from: str
    verdict: str = ""

    def headline(self) -> str:
        """Return the result in one line."""
        return (
            f"bounds of the effective dimension of the {self.of.matrix} from "
            f"{self.num_pairs} of {self.dimension} eigenpairs"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a value of ``z``."""
        columns = (self.z, self.lower, self.upper)
        return [
            {"z": float(z), "lower_bound": float(low), "upper_bound": float(high)}
            for z, low, high in zip(*columns, strict=True)
        ]
