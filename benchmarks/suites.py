"""What can be measured: each suite has its problems, its runner and its tables."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import assembly_report, commands, process, report
from benchmarks.assembly_runner import AssemblyRunner, AssemblySettings
from benchmarks.problems import ASSEMBLED, PRODUCTS, TIMED, TIMED_ASSEMBLED
from benchmarks.registry import ASSEMBLERS, IMPLEMENTATIONS, Implementation
from benchmarks.runner import Outcome, Runner, Settings

Measure = Callable[[argparse.Namespace, Sequence[Implementation]], tuple[Any, Outcome]]


@dataclass(frozen=True)
class Suite:
    """One theme.

    Attributes:
        name: Also the beginning of the results' file.
        implementations: Who takes part.
        problems: Names that it can measure.
        timed: What it measures if not told otherwise.
        matrices: Likewise.
        quick: The problem of a trial.
        budget_minutes: By default.
        measure: ``(options, implementations) -> settings, outcome``.
        full: A run's JSON as Markdown.
        publish: Puts a JSON file's tables into the documentation.
    """

    name: str
    implementations: tuple[Implementation, ...]
    problems: tuple[str, ...]
    timed: tuple[str, ...]
    matrices: tuple[str, ...]
    quick: str
    budget_minutes: float
    measure: Measure
    full: Callable[[dict[str, Any]], str]
    publish: Callable[[list[str]], None]


def _products(
    options: argparse.Namespace, implementations: Sequence[Implementation]
) -> tuple[Settings, Outcome]:
    settings = Settings(
        problems=tuple(options.problems),
        matrices=tuple(options.matrices),
        columns=(1,) if options.quick else tuple(sorted(set(options.columns))),
        rounds=options.rounds,
        budget=60 * options.budget_minutes,
        shares=TIMED,
    )
    threads, clock = options.threads, options.clock
    runner = Runner(
        settings,
        implementations,
        start=lambda *a: process.start(*a, threads=threads, clock=clock),
        exact=lambda *a: process.exact_products(*a, threads=threads),
        say=_say,
    )
    return settings, runner.run()


def _exact(
    options: argparse.Namespace, implementations: Sequence[Implementation]
) -> tuple[AssemblySettings, Outcome]:
    settings = AssemblySettings(
        problems=tuple(options.problems),
        matrices=tuple(options.matrices),
        rounds=options.rounds,
        most=options.most_seconds,
        budget=60 * options.budget_minutes,
    )
    threads, clock = options.threads, options.clock
    runner = AssemblyRunner(
        settings,
        implementations,
        start=lambda *a: process.start(*a, threads=threads, clock=clock),
        exact=lambda *a: process.exact_matrices(*a, threads=threads),
        say=_say,
    )
    outcome = runner.run()
    wanted = [c for c in commands.COMMANDS if c.key in options.commands]
    outcome.commands, failed = commands.measure(wanted, threads=threads, say=_say)
    outcome.failed += failed
    return settings, outcome


def _say(text: str) -> None:
    print(text, flush=True)


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            name="products",
            implementations=IMPLEMENTATIONS,
            problems=tuple(PRODUCTS),
            timed=tuple(TIMED),
            matrices=("hessian", "ggn"),
            quick="mlp",
            budget_minutes=8.0,
            measure=_products,
            full=report.full,
            publish=report.main,
        ),
        Suite(
            name="exact",
            implementations=ASSEMBLERS,
            problems=tuple(ASSEMBLED),
            timed=TIMED_ASSEMBLED,
            matrices=("hessian", "hessian+ggn"),
            quick="tanh-tiny",
            budget_minutes=40.0,
            measure=_exact,
            full=assembly_report.full,
            publish=assembly_report.main,
        ),
    )
}
