"""SciPy's `eigsh` over a peer's products, as the peers' manuals recommend it."""

from collections.abc import Callable
from importlib.metadata import version as installed
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh

from benchmarks.adapter import Adapter
from benchmarks.problems import Task
from benchmarks.solver import Answer, Count


class Arpack:
    """`eigsh` with its own number of basis vectors.

    Args:
        make: Makes a peer's products.
        name: The peer's, for the table.
    """

    def __init__(self, make: Callable[[], Adapter], name: str) -> None:
        self.name = f"scipy eigsh over {name}"
        self._make = make
        self._products = make()

    def version(self) -> str:
        return f"{installed('scipy')} over {self._products.version()}"

    def build(self, task: Task, matrix: str) -> None:
        self.count = Count()
        self._task = task
        self._products.build(task, matrix)

    def solve(self, seed: int, *, k: int, tol: float = 1e-3) -> Answer:
        n = self._task.num_params
        start = np.random.default_rng(seed).standard_normal(n).astype(np.float32)
        operator = LinearOperator((n, n), matvec=self._product, dtype=np.float32)
        values, vectors = eigsh(operator, k=k, tol=tol, which="LM", v0=start)
        return Answer(torch.from_numpy(values), torch.from_numpy(vectors))

    def _product(self, v: Any) -> Any:
        column = torch.from_numpy(np.ascontiguousarray(v)).reshape(-1, 1)
        self.count.add(column)
        return self._products.product(column).detach().numpy()[:, 0]

    def drop(self) -> None:
        self._products = self._make()
