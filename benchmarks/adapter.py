"""What an implementation must offer to be timed: a few things, and no numbers of ours."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from benchmarks.problems import Task


class Adapter(Protocol):
    """One implementation of products with one matrix.

    Attributes:
        name: As the table says it.
    """

    name: str

    def version(self) -> str:
        """Return the installed version."""
        ...

    def build(self, task: Task, matrix: str) -> None:
        """Make the operator, as the implementation's manual says."""
        ...

    def product(self, V: Tensor) -> Tensor:
        """Multiply ``V`` of shape ``(P, k)`` in the parameters' order."""
        ...


class Assembler(Protocol):
    """One way to whole matrices in float64.

    Attributes:
        name: As the table says it.
        blocks: Numbers of columns at once that are worth trying; empty if there is no
            such choice.
    """

    name: str
    blocks: tuple[int, ...]

    def version(self) -> str:
        """Return the installed version."""
        ...

    def build(self, task: Task, matrices: Sequence[str], block: int | None) -> None:
        """Take the task over; refuse one that is too large."""
        ...

    def hessian_columns(self, num: int) -> None:
        """Compute the first ``num`` columns only, to find the best block."""
        ...

    def assemble(self) -> dict[str, Tensor]:
        """Return the matrices of the mean loss by name, finished, not promised."""
        ...
