"""One way to whole matrices on one problem, in a process of its own.

What `benchmarks.worker` is for products: a request is a line of JSON, and so is the
answer.
"""

import sys
import time
from typing import Any

import torch

from benchmarks import worker
from benchmarks.adapter import Assembler
from benchmarks.measure import PeakMemory, seconds_of
from benchmarks.problems import PROBLEMS

# One answer's time is the median of calls that last this long together.
AT_LEAST = 0.15
# Columns that a block is tried on: their share of the whole is what it would take.
TRIED = 512
# A block that is slower than the best by this factor ends the search for a wider one.
SLOWER = 1.5


class AssemblyWorker:
    """Answers requests about one adapter on one problem."""

    def __init__(
        self, adapter: Assembler, problem: str, matrices: str, clock: str
    ) -> None:
        self._adapter = adapter
        self._matrices = tuple(matrices.split("+"))
        self._clock = clock
        task = PROBLEMS[problem]()
        self._fingerprint = task.fingerprint
        self._task = task.double()
        self._memory = PeakMemory()

    def hello(self) -> dict[str, Any]:
        """Say who answers, and on what."""
        return {
            "name": self._adapter.name,
            "version": self._adapter.version(),
            "torch": torch.__version__,
            "fingerprint": self._fingerprint,
            "has_blocks": bool(self._adapter.blocks),
        }

    def tune(self) -> dict[str, Any]:
        """Find the block that computes some columns of the Hessian fastest."""
        num = min(TRIED, self._task.num_params)
        tried: dict[int, float] = {}
        # Anything wider than all columns is the same as all of them.
        for block in sorted({min(block, num) for block in self._adapter.blocks}):
            self._adapter.build(self._task, ("hessian",), block)
            self._adapter.hessian_columns(num)
            tried[block] = self._time(lambda: self._adapter.hessian_columns(num))
            if tried[block] > SLOWER * min(tried.values()):
                break
        return {"block": min(tried, key=tried.__getitem__), "tried": tried}

    def build(self, block: int | None) -> dict[str, Any]:
        """Take the task over, with the block that was found best."""
        self._memory.reset()
        start = time.perf_counter()
        self._adapter.build(self._task, self._matrices, block)
        return {"build_seconds": time.perf_counter() - start}

    def check(self, reference: str) -> dict[str, Any]:
        """Assemble once, which is when lazy ones compile; compare with the exact."""
        start = time.perf_counter()
        got = self._adapter.assemble()
        seconds = time.perf_counter() - start
        peak = self._memory.growth()
        exact = torch.load(reference, weights_only=True)
        if got.keys() != exact.keys():
            message = f"got {sorted(got)}, not {sorted(exact)}"
            raise ValueError(message)
        errors = [relative_error(got[name], exact[name]) for name in exact]
        return {
            "first_seconds": seconds,
            "peak_bytes": peak,
            "relative_error": max(errors),
        }

    def assemble(self) -> dict[str, Any]:
        """Time the matrices."""
        return {"seconds": self._time(self._adapter.assemble)}

    def _time(self, call: Any) -> float:
        return seconds_of(call, at_least=AT_LEAST, clock=self._clock)


def relative_error(got: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the largest error of an entry over the largest entry."""
    if got.dtype != torch.float64:
        message = f"the matrix is {got.dtype}, not float64"
        raise ValueError(message)
    return float((got.detach() - exact).abs().max() / exact.abs().max())


if __name__ == "__main__":
    worker.main(AssemblyWorker, *sys.argv[1:])
