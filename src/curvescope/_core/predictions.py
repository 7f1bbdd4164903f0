"""What a theory says of a rank: a number, what it claims, and how far it is proved."""

from dataclasses import dataclass
from typing import Literal

RankClaim = Literal["equal", "at_most"]
Status = Literal["published", "derived", "fitted"]


@dataclass(frozen=True, kw_only=True)
class PredictedRank:
    """One predicted rank.

    Attributes:
        matrix: ``"hessian"``, ``"ggn"`` or ``"functional"``.
        value: The number.
        claim: ``"equal"`` for generic weights under the assumptions, or ``"at_most"``.
        status: ``"published"`` (stated in the cited work), ``"derived"`` (proved here),
            ``"fitted"`` (found by fitting, verified on fresh cases, not proved).
        formula: The formula in plain text, in the symbols of the docstrings.
        assumptions: What must hold; each was checked as far as the arguments tell.
        source: The cited work, or how it was derived.
    """

    matrix: str
    value: int
    claim: RankClaim
    status: Status
    formula: str
    assumptions: tuple[str, ...] = ()
    source: str = ""

    def agrees(self, rank: int) -> bool:
        """Tell whether a rank is what was claimed."""
        return rank == self.value if self.claim == "equal" else rank <= self.value

    def __str__(self) -> str:
        sign = "=" if self.claim == "equal" else "<="
        return f"rank {sign} {self.value} ({self.status})"
