"""The processes that share the data of one computation; in most runs there is one.

Every process computes the same numbers from the same sums. What they must do together
stands here; `curvescope.distributed` does it over a network.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, final

from torch import Tensor

T = TypeVar("T")


class Processes(Protocol):
    """Processes that each hold a share of the data.

    All of them make the same calls in the same order. Each method takes a function,
    so that an error in one process becomes an error in all of them.

    Attributes:
        rank: Which of them this is, from 0.
        size: How many there are.
    """

    @property
    def rank(self) -> int:
        """Which of them this is, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    def sum(
        self, compute: Callable[[], Tensor], like: Tensor, *, key: Sequence[object]
    ) -> Tensor:
        """Return the sum over all processes of what ``compute`` gives in each.

        Args:
            compute: Gives this process's term, of the shape and dtype of ``like``.
            like: What was multiplied: the same numbers in every process.
            key: What is computed: the same in every process.
        """

    def gather(self, compute: Callable[[], T]) -> list[T]:
        """Return what ``compute`` gives in each process, in their order."""

    def from_first(self, compute: Callable[[], T]) -> T:
        """Return in every process what ``compute`` gives in the first; called there only."""

    def tensor_from_first(self, tensor: Tensor) -> Tensor:
        """Return in every process the first one's CPU ``tensor``, of the same shape."""

    def check(self) -> None:
        """Raise if a process was seen to fail, or to compute something else."""


@final
class OneProcess:
    """No others: nothing is sent."""

    rank = 0
    size = 1

    def sum(
        self, compute: Callable[[], Tensor], like: Tensor, *, key: Sequence[object]
    ) -> Tensor:
        """Return what ``compute`` gives."""
        return compute()

    def gather(self, compute: Callable[[], T]) -> list[T]:
        """Return what ``compute`` gives, alone in a list."""
        return [compute()]

    def from_first(self, compute: Callable[[], T]) -> T:
        """Return what ``compute`` gives."""
        return compute()

    def tensor_from_first(self, tensor: Tensor) -> Tensor:
        """Return the tensor."""
        return tensor

    def check(self) -> None:
        """Do nothing."""


ALONE = OneProcess()
