"""Interleaved rounds over workers, within a budget of time.

In every round each implementation times one gradient and, right after it, one product;
a round's ratio is of two neighbours in time, so that what else the machine does mostly
cancels. Implementations take turns at going first. It knows workers only by what they
answer.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Protocol, Self

from benchmarks.process import WorkerError
from benchmarks.registry import Implementation


class Worker(Protocol):
    """What the runner asks of a worker."""

    hello: dict[str, Any]

    def greet(self) -> None: ...
    def ask(self, do: str, **arguments: Any) -> dict[str, Any]: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        problems: Names.
        matrices: ``hessian``, ``ggn``.
        columns: Widths of the blocks, ascending.
        columns_of: Others, by problem.
        rounds: Wanted for each; fewer where the budget ends.
        budget: Seconds for all, without those for references, starting and building.
        shares: Of the budget, by problem, in any unit; 1 where none is given.
    """

    problems: tuple[str, ...]
    matrices: tuple[str, ...] = ("hessian", "ggn")
    columns: tuple[int, ...] = (1, 8, 32)
    columns_of: dict[str, tuple[int, ...]] = field(default_factory=dict)
    rounds: int = 5
    budget: float = 480.0
    shares: dict[str, float] = field(default_factory=dict)


@dataclass
class Outcome:
    """Everything that was found; plain data, for JSON."""

    problems: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    absent: list[dict[str, str]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    commands: list[dict[str, Any]] = field(default_factory=list)


class Runner:
    """Measures every problem and matrix, one group of workers after another.

    Args:
        settings: What to measure.
        implementations: Who takes part.
        start: ``(implementation, problem, matrix) -> worker``.
        exact: ``(problem, matrix, columns, path) -> facts``; writes the exact products.
        say: Where progress goes.
        clock: Seconds, for the budget.
    """

    def __init__(
        self,
        settings: Settings,
        implementations: Sequence[Implementation],
        *,
        start: Callable[[Implementation, str, str], Worker],
        exact: Callable[[str, str, Sequence[int], Path], dict[str, Any]],
        say: Callable[[str], None] = print,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._implementations = implementations
        self._start = start
        self._exact = exact
        self._say = say
        self._clock = clock
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Measure everything that fits the budget."""
        settings = self._settings
        left = settings.budget
        groups = [(p, m) for p in settings.problems for m in settings.matrices]
        costs = [settings.shares.get(p, 1.0) * len(self._members(m)) for p, m in groups]
        for position, (problem, matrix) in enumerate(groups):
            share = costs[position] / max(sum(costs[position:]), 1e-9)
            left -= self._group(problem, matrix, max(left, 0.0) * share)
        return self.outcome

    def _members(self, matrix: str) -> list[Implementation]:
        return [i for i in self._implementations if matrix in i.matrices]

    def _group(self, problem: str, matrix: str, budget: float) -> float:
        """Measure one problem's matrix; return what it took, but for getting ready."""
        columns = self._settings.columns_of.get(problem, self._settings.columns)
        wanted = sorted({0, *(k - 1 for k in columns)})
        self._say(f"{problem}, {matrix}: exact products")
        with tempfile.TemporaryDirectory() as folder:
            reference = Path(folder) / "exact.pt"
            facts = self._exact(problem, matrix, wanted, reference)
            self.outcome.problems.setdefault(problem, facts)
            workers: dict[str, tuple[Worker, dict[str, Any]]] = {}
            members = self._members(matrix)
            most = {i.key: i.most_columns or max(columns) for i in members}
            try:
                for implementation in members:
                    # One at a time, so that starting disturbs nobody's numbers.
                    self._admit(implementation, problem, matrix, facts, workers)
                start = self._clock()
                for k in columns:
                    asked = {key: w for key, w in workers.items() if k <= most[key]}
                    there = set(asked)
                    self._block(
                        problem, matrix, k, asked, str(reference), start + budget
                    )
                    for key in there - asked.keys():  # those that failed
                        del workers[key]
                return self._clock() - start
            finally:
                for worker, _ in workers.values():
                    worker.__exit__(None, None, None)

    def _admit(
        self,
        implementation: Implementation,
        problem: str,
        matrix: str,
        facts: dict[str, Any],
        workers: dict[str, tuple[Worker, dict[str, Any]]],
    ) -> None:
        worker = self._start(implementation, problem, matrix)
        try:
            built = _built(worker, facts["fingerprint"])
        except WorkerError as error:
            worker.__exit__(None, None, None)
            self._fail(implementation.key, problem, matrix, str(error))
            return
        known = {key: worker.hello[key] for key in ("name", "version", "torch")}
        workers[implementation.key] = (worker, {**known, **built})

    def _block(
        self,
        problem: str,
        matrix: str,
        k: int,
        workers: dict[str, tuple[Worker, dict[str, Any]]],
        reference: str,
        end: float,
    ) -> None:
        """Measure products with k columns: a warm-up that checks, then rounds."""
        expected = sum(
            k * built.get("one_column", 0.0) for _, built in workers.values()
        )
        if k > 1 and self._clock() + 2 * expected > end:
            self.outcome.skipped.append(
                {"problem": problem, "matrix": matrix, "columns": k}
            )
            self._say(f"{problem}, {matrix}, k={k}: skipped, no time left")
            return
        rows: dict[str, dict[str, Any]] = {}
        for key in list(workers):
            worker, built = workers[key]
            try:
                checked = worker.ask("check", columns=k, reference=reference)
            except WorkerError as error:
                self._drop(key, problem, matrix, str(error), workers)
                continue
            if k == 1:
                built["one_column"] = checked["seconds"]
            facts = {f: v for f, v in built.items() if f != "one_column"}
            rows[key] = {
                "problem": problem,
                "matrix": matrix,
                "columns": k,
                "implementation": key,
                **facts,
                "relative_error": checked["relative_error"],
                "peak_bytes": checked["peak_bytes"],
                "gradient_seconds": [],
                "product_seconds": [],
            }
        done = self._rounds(rows, workers, problem, matrix, k, end)
        self._say(f"{problem}, {matrix}, k={k}: {done} rounds")
        finished = [_summary(row) for row in rows.values() if row["product_seconds"]]
        self.outcome.rows.extend(finished)

    def _rounds(
        self,
        rows: dict[str, dict[str, Any]],
        workers: dict[str, tuple[Worker, dict[str, Any]]],
        problem: str,
        matrix: str,
        k: int,
        end: float,
    ) -> int:
        longest = 0.0
        for done in range(self._settings.rounds):
            start = self._clock()
            if done and start + longest > end:
                return done
            order = [key for key in rows if key in workers]
            first = done % max(len(order), 1)
            for key in order[first:] + order[:first]:
                worker, _ = workers[key]
                try:
                    gradient = worker.ask("gradient")["seconds"]
                    product = worker.ask("product", columns=k)["seconds"]
                except WorkerError as error:
                    self._drop(key, problem, matrix, str(error), workers)
                    continue
                rows[key]["gradient_seconds"].append(gradient)
                rows[key]["product_seconds"].append(product)
            longest = max(longest, self._clock() - start)
        return self._settings.rounds

    def _drop(
        self,
        key: str,
        problem: str,
        matrix: str,
        reason: str,
        workers: dict[str, tuple[Worker, dict[str, Any]]],
    ) -> None:
        worker, _ = workers.pop(key)
        worker.__exit__(None, None, None)
        self._fail(key, problem, matrix, reason)

    def _fail(self, key: str, problem: str, matrix: str, reason: str) -> None:
        self._say(f"{problem}, {matrix}: {key} failed: {reason}")
        self.outcome.failed.append(
            {
                "implementation": key,
                "problem": problem,
                "matrix": matrix,
                "reason": reason,
            }
        )


def _built(worker: Worker, fingerprint: str) -> dict[str, Any]:
    """Let a worker load and build, if it has the problem that the reference had."""
    worker.greet()
    if worker.hello["fingerprint"] != fingerprint:
        raise WorkerError("other weights or data than the reference's")
    return worker.ask("build")


def _summary(row: dict[str, Any]) -> dict[str, Any]:
    """Add the ratios per column: each round's own, their median and range."""
    pairs = zip(row["product_seconds"], row["gradient_seconds"], strict=True)
    ratios = [product / row["columns"] / gradient for product, gradient in pairs]
    return {
        **row,
        "rounds": len(ratios),
        "ratio": median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "seconds_per_column": median(row["product_seconds"]) / row["columns"],
        "seconds_gradient": median(row["gradient_seconds"]),
    }
