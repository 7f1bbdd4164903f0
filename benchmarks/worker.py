"""One implementation on one problem, in a process of its own, asked over a pipe.

A request is a line of JSON, and so is the answer. Whatever a library prints goes to
stderr, so that it cannot be taken for an answer.
"""

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

import torch

from benchmarks.adapter import Adapter
from benchmarks.measure import PeakMemory, seconds_of
from benchmarks.problems import PROBLEMS

# One answer's time is the median of calls that last this long together.
AT_LEAST = 0.15


class Worker:
    """Answers requests about one adapter on one problem."""

    def __init__(self, adapter: Adapter, problem: str, matrix: str, clock: str) -> None:
        self._adapter = adapter
        self._matrix = matrix
        self._clock = clock
        self._task = PROBLEMS[problem]()
        self._memory = PeakMemory()

    def hello(self) -> dict[str, Any]:
        """Say who answers, and on what."""
        return {
            "name": self._adapter.name,
            "version": self._adapter.version(),
            "torch": torch.__version__,
            "fingerprint": self._task.fingerprint,
        }

    def build(self) -> dict[str, Any]:
        """Make the operator and multiply once, which is when lazy ones are made."""
        vector = self._task.columns(1)
        self._memory.reset()
        start = time.perf_counter()
        self._adapter.build(self._task, self._matrix)
        built = time.perf_counter()
        self._adapter.product(vector)
        return {
            "build_seconds": built - start,
            "first_product_seconds": time.perf_counter() - built,
        }

    def check(self, columns: int, reference: str) -> dict[str, Any]:
        """Warm up with ``columns`` columns; compare the first and last with the exact."""
        exact = torch.load(reference, weights_only=True)
        vectors = self._task.columns(columns)
        if columns > 1:
            self._memory.reset()
        start = time.perf_counter()
        got = self._adapter.product(vectors).detach()
        seconds = time.perf_counter() - start
        peak = self._memory.growth()
        ends = sorted({0, columns - 1})
        truth = torch.stack([exact[index] for index in ends], dim=1)
        error = (got[:, ends].double() - truth).norm() / truth.norm()
        self._task.gradient()
        return {"seconds": seconds, "peak_bytes": peak, "relative_error": float(error)}

    def gradient(self) -> dict[str, Any]:
        """Time one gradient."""
        return {"seconds": self._time(self._task.gradient)}

    def product(self, columns: int) -> dict[str, Any]:
        """Time one product with ``columns`` columns."""
        vectors = self._task.columns(columns)
        return {"seconds": self._time(lambda: self._adapter.product(vectors))}

    def _time(self, call: Callable[[], Any]) -> float:
        return seconds_of(call, at_least=AT_LEAST, clock=self._clock)


def serve(worker: Any, requests: TextIO, answer: Callable[[Any], None]) -> None:
    """Answer until the pipe closes; a failed request is an answer too."""
    answer(worker.hello())
    for line in requests:
        request = json.loads(line)
        try:
            answer(getattr(worker, request.pop("do"))(**request))
        except Exception as error:  # a peer may raise anything
            traceback.print_exc()
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            answer({"error": f"{type(error).__name__}: {first}"})


def main(
    kind: Callable[..., Any],
    module: str,
    factory: str,
    problem: str,
    matrix: str,
    threads: str,
    clock: str,
) -> None:
    """Serve one implementation through a worker of ``kind`` until stdin closes."""
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(int(threads))
    adapter = getattr(importlib.import_module(module), factory)()

    def answer(message: Any) -> None:
        pipe.write(json.dumps(message) + "\n")
        pipe.flush()

    serve(kind(adapter, problem, matrix, clock), sys.stdin, answer)


if __name__ == "__main__":
    main(Worker, *sys.argv[1:])
