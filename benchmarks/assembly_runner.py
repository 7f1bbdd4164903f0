"""Interleaved rounds over ways to whole matrices.

Each way first finds its best block in one process, then works in a fresh one, whose
memory is its own peak. In every round each way assembles once, in turns at who goes
first; a round's ratio is over curvescope's time of the same round. It knows workers only
by what they answer.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.process import WorkerError
from benchmarks.registry import OURS, Implementation
from benchmarks.runner import Outcome, Worker


@dataclass(frozen=True)
class AssemblySettings:
    """What is measured.

    Attributes:
        problems: Names.
        matrices: Names joined by a plus: those are assembled together.
        rounds: Wanted for each; fewer where a limit is reached, but at least one.
        most: Seconds that the rounds of one way on one problem may take together.
        budget: Seconds for all, beyond which every way has one round only.
    """

    problems: tuple[str, ...]
    matrices: tuple[str, ...] = ("hessian", "hessian+ggn")
    rounds: int = 5
    most: float = 60.0
    budget: float = 2400.0


class AssemblyRunner:
    """Measures every problem and set of matrices, one group of workers after another.

    Args:
        settings: What to measure.
        implementations: Who takes part.
        start: ``(implementation, problem, matrices) -> worker``.
        exact: ``(problem, matrices, path) -> facts``; writes the exact matrices.
        say: Where progress goes.
        clock: Seconds, for the limits.
    """

    def __init__(
        self,
        settings: AssemblySettings,
        implementations: Sequence[Implementation],
        *,
        start: Callable[[Implementation, str, str], Worker],
        exact: Callable[[str, str, Path], dict[str, Any]],
        say: Callable[[str], None] = print,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._implementations = implementations
        self._start = start
        self._exact = exact
        self._say = say
        self._clock = clock
        # What was found best serves the other matrices of the problem too.
        self._blocks: dict[tuple[str, str], dict[str, Any]] = {}
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Measure everything; a slow way in fewer rounds."""
        end = self._clock() + self._settings.budget
        for problem in self._settings.problems:
            for matrices in self._settings.matrices:
                self._group(problem, matrices, end)
        return self.outcome

    def _group(self, problem: str, matrices: str, end: float) -> None:
        self._say(f"{problem}, {matrices}: exact matrices")
        with tempfile.TemporaryDirectory() as folder:
            reference = Path(folder) / "exact.pt"
            try:
                facts = self._exact(problem, matrices, reference)
            except WorkerError as error:
                self._fail("the reference", problem, matrices, str(error))
                return
            self.outcome.problems.setdefault(problem, facts)
            workers: dict[str, Worker] = {}
            rows: dict[str, dict[str, Any]] = {}
            try:
                for implementation in self._implementations:
                    # One at a time, so that starting disturbs nobody's numbers.
                    self._admit(
                        implementation, problem, matrices, str(reference), workers, rows
                    )
                self._rounds(workers, rows, end)
            finally:
                for worker in workers.values():
                    worker.__exit__(None, None, None)
        finished = [row for row in rows.values() if row["all_seconds"]]
        ours = rows.get(OURS, {}).get("all_seconds", [])
        self.outcome.rows.extend(_summary(row, ours) for row in finished)

    def _admit(
        self,
        implementation: Implementation,
        problem: str,
        matrices: str,
        reference: str,
        workers: dict[str, Worker],
        rows: dict[str, dict[str, Any]],
    ) -> None:
        key = implementation.key
        fingerprint = self.outcome.problems[problem]["fingerprint"]
        worker = self._start(implementation, problem, matrices)
        try:
            _greet(worker, fingerprint)
            chosen = {"block": None, "tried": {}}
            if worker.hello["has_blocks"]:
                chosen = self._blocks.get((problem, key)) or worker.ask("tune")
                if (problem, key) not in self._blocks:
                    # Memory is measured in a process that has not tried anything.
                    worker.__exit__(None, None, None)
                    worker = self._start(implementation, problem, matrices)
                    _greet(worker, fingerprint)
                    self._blocks[problem, key] = chosen
            built = worker.ask("build", block=chosen["block"])
            checked = worker.ask("check", reference=reference)
        except WorkerError as error:
            worker.__exit__(None, None, None)
            self._fail(key, problem, matrices, str(error))
            return
        workers[key] = worker
        known = {fact: worker.hello[fact] for fact in ("name", "version", "torch")}
        rows[key] = {
            "problem": problem,
            "matrix": matrices,
            "implementation": key,
            **known,
            **chosen,
            **built,
            **checked,
            "all_seconds": [],
        }
        self._say(
            f"{problem}, {matrices}: {key}, first {checked['first_seconds']:.2f} s"
        )

    def _rounds(
        self, workers: dict[str, Worker], rows: dict[str, dict[str, Any]], end: float
    ) -> None:
        spent = dict.fromkeys(workers, 0.0)
        for done in range(self._settings.rounds):
            now = self._clock()
            # What another round would take, one way alone and all together.
            next_ones = {key: spent[key] / max(done, 1) for key in workers}
            if done and now + sum(next_ones.values()) > end:
                return
            order = [
                key
                for key in workers
                if done == len(rows[key]["all_seconds"])
                and spent[key] + next_ones[key] <= self._settings.most
            ]
            first = done % max(len(order), 1)
            for key in order[first:] + order[:first]:
                start = self._clock()
                try:
                    seconds = workers[key].ask("assemble")["seconds"]
                except WorkerError as error:
                    row = rows[key]
                    workers.pop(key).__exit__(None, None, None)
                    self._fail(key, row["problem"], row["matrix"], str(error))
                    continue
                rows[key]["all_seconds"].append(seconds)
                spent[key] += self._clock() - start

    def _fail(self, key: str, problem: str, matrices: str, reason: str) -> None:
        self._say(f"{problem}, {matrices}: {key} failed: {reason}")
        self.outcome.failed.append(
            {
                "implementation": key,
                "problem": problem,
                "matrix": matrices,
                "reason": reason,
            }
        )


def _greet(worker: Worker, fingerprint: str) -> None:
    """Let a worker load, and refuse it if it has not the reference's problem."""
    worker.greet()
    if worker.hello["fingerprint"] != fingerprint:
        raise WorkerError("other weights or data than the reference's")


def _summary(row: dict[str, Any], ours: list[float]) -> dict[str, Any]:
    """Add the median, and the ratios over curvescope's time of the same round."""
    seconds = row["all_seconds"]
    ratios = [theirs / mine for theirs, mine in zip(seconds, ours, strict=False)]
    return {
        **row,
        "rounds": len(seconds),
        "seconds": median(seconds),
        "ratio": median(ratios) if ratios else None,
        "ratio_min": min(ratios, default=None),
        "ratio_max": max(ratios, default=None),
    }
