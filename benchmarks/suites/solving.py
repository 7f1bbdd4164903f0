"""How a suite of whole algorithms measures: the same for all of them."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import process
from benchmarks.registry import OURS, Implementation
from benchmarks.runner import Outcome
from benchmarks.solver_runner import SolverRunner, SolverSettings
from benchmarks.suites.suite import Measure, Run, say

WORKER = "benchmarks.solver_worker"
OURS_MODULE = "benchmarks.ours_solvers"
# The slowest of the peers takes minutes for one answer.
TIMEOUT = 1800.0


def solver(
    key: str, module: str, factory: str, venv: str, **more: Any
) -> Implementation:
    """Return the row of a solver; peers' environments are named alone."""
    place = venv if venv == ".venv" else f".bench/{venv}"
    return Implementation(key, module, factory, place, worker=WORKER, **more)


def ours(key: str, factory: str, *, fresh: bool = False) -> Implementation:
    """Return the row of one of curvescope's own."""
    return solver(key, OURS_MODULE, factory, ".venv", fresh=fresh)


def measuring(
    kind: str,
    *,
    judge_options: Mapping[str, Any],
    grid: tuple[dict[str, Any], ...],
    quick_grid: tuple[dict[str, Any], ...] | None = None,
    shares: Mapping[str, float],
    judge_all: bool = False,
) -> Measure:
    """Return what measures a suite.

    Args:
        kind: Of the judge.
        judge_options: Its options.
        grid: Settings of the algorithm.
        quick_grid: Those of a trial, by default all.
        shares: Of the budget, by problem.
        judge_all: Whether every round's answer is judged.
    """

    def measure(
        options: argparse.Namespace, implementations: Sequence[Implementation]
    ) -> tuple[SolverSettings, Outcome]:
        settings = SolverSettings(
            problems=tuple(options.problems),
            grid=(quick_grid or grid) if options.quick else grid,
            rounds=options.rounds,
            budget=60 * options.budget_minutes,
            shares=dict(shares),
            judge_all=judge_all,
        )
        threads, clock = options.threads, options.clock
        prepare, judge = process.judge_of(kind, dict(judge_options), threads=threads)
        runner = SolverRunner(
            settings,
            implementations,
            start=lambda *a: process.start(
                *a, threads=threads, clock=clock, timeout=TIMEOUT
            ),
            prepare=prepare,
            judge=judge,
            say=say,
        )
        return settings, runner.run()

    return measure


def rows_of(run: Run | None, problem: str, key: str | None = None) -> list[Run]:
    """Return the rows on a problem, of one implementation or of all."""
    rows = [] if run is None else run["rows"]
    return [
        row
        for row in rows
        if row["problem"] == problem and key in (None, row["implementation"])
    ]


def best_peer(rows: Sequence[Run], is_right: Callable[[Run], bool]) -> Run | None:
    """Return the fastest row that is not ours and is right."""
    right = [
        r for r in rows if not r["implementation"].startswith(OURS) and is_right(r)
    ]
    return min(right, key=lambda row: row["seconds"], default=None)
