"""One implementation of a whole algorithm, in a process of its own.

What `benchmarks.worker` is for products: a request is a line of JSON, and so is the
answer.
"""

import contextlib
import ctypes
import gc
import sys
from typing import Any

import torch

from benchmarks import worker
from benchmarks.measure import CLOCKS, PeakMemory, seconds_of
from benchmarks.problems import PROBLEMS
from benchmarks.solver import Solver


class SolverWorker:
    """Answers requests about one solver on one problem."""

    def __init__(self, solver: Solver, problem: str, matrix: str, clock: str) -> None:
        self._solver = solver
        self._matrix = matrix
        self._clock = clock
        self._task = PROBLEMS[problem]()
        self._memory = PeakMemory()

    def hello(self) -> dict[str, Any]:
        """Say who answers, and on what."""
        return {
            "name": self._solver.name,
            "version": self._solver.version(),
            "torch": torch.__version__,
            "fingerprint": self._task.fingerprint,
        }

    def gradient(self) -> dict[str, Any]:
        """Time one gradient over all the data."""
        seconds = seconds_of(self._task.gradient, at_least=0.15, clock=self._clock)
        return {"seconds": seconds}

    def run(self, seed: int, settings: dict[str, Any], path: str) -> dict[str, Any]:
        """Build the operator and solve, both timed; write the answer to ``path``."""
        now = CLOCKS[self._clock]
        # PyHessian draws from the global generator.
        torch.manual_seed(seed)
        self._memory.reset()
        start = now()
        try:
            self._solver.build(self._task, self._matrix)
            built = now()
            answer = self._solver.solve(seed, **settings)
            done = now()
            peak = self._memory.growth()
            count = self._solver.count
            answer.save(path)
        finally:
            self._solver.drop()
            _release()
        return {
            "build_seconds": built - start,
            "seconds": done - start,
            "products": count.products,
            "passes": count.passes,
            "peak_bytes": peak,
            **answer.facts,
        }


def _release() -> None:
    """Give freed memory back: a dozen of these processes wait side by side."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


if __name__ == "__main__":
    worker.main(SolverWorker, *sys.argv[1:])
