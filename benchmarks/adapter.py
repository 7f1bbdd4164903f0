"""What an implementation must offer to be timed: four things, and no numbers of ours."""

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
