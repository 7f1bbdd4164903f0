"""What an implementation of a whole algorithm must offer, and what it answers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmarks.problems import Task


@dataclass
class Answer:
    """What an algorithm found; what it does not have stays empty.

    Attributes:
        values: Eigenvalues, or quadrature nodes.
        vectors: Eigenvectors as columns in the parameters' order.
        weights: Of the nodes; they sum to 1.
        claimed: Which eigenvalues the implementation calls converged.
        names: Layers, in the order of the values.
        facts: More, for the results' file.
    """

    values: Tensor | None = None
    vectors: Tensor | None = None
    weights: Tensor | None = None
    claimed: list[bool] | None = None
    names: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str) -> None:
        """Write everything where a judge finds it."""
        torch.save(
            {
                "values": None if self.values is None else self.values.double(),
                "vectors": self.vectors,
                "weights": None if self.weights is None else self.weights.double(),
                "claimed": self.claimed,
                "names": self.names,
            },
            path,
        )


@dataclass
class Count:
    """Products with the whole data, and passes over the data.

    Attributes:
        products: One for each column.
        passes: One for each block of columns.
    """

    products: float = 0
    passes: float = 0

    def of(self, product: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``product`` of a vector, a block or a list of parts, counted."""

        def counted(*arguments: Any, **options: Any) -> Any:
            self.add(arguments[-1])
            return product(*arguments, **options)

        return counted

    def add(self, V: Any) -> None:
        """Count one product with ``V``: its columns if it is a matrix, else one."""
        is_block = not isinstance(V, list | tuple) and V.ndim == 2
        self.products += V.shape[1] if is_block else 1
        self.passes += 1


class Solver(Protocol):
    """One implementation of one algorithm, to be started as often as asked.

    Attributes:
        name: As the table says it.
        count: Of what it has multiplied since `build`.
    """

    name: str
    count: Count

    def version(self) -> str:
        """Return the installed version."""
        ...

    def build(self, task: Task, matrix: str) -> None:
        """Make the operator, as the implementation's manual says; this is timed."""
        ...

    def solve(self, seed: int, **settings: Any) -> Answer:
        """Run the algorithm; this is timed."""
        ...

    def drop(self) -> None:
        """Forget the operator, so that an idle process holds no memory."""
        ...
