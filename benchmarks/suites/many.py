"""One product where the data are too many for kept graphs."""

import argparse
from collections.abc import Sequence

from benchmarks import process, report
from benchmarks.problems import CIFAR
from benchmarks.registry import OURS, PEERS, Implementation
from benchmarks.runner import Outcome, Runner, Settings
from benchmarks.suites.suite import Reached, Run, Suite, at_most, say

TIMED = "resnet20-1024"
IMPLEMENTATIONS = (
    Implementation(OURS, "benchmarks.ours", "nothing_kept", ".venv"),
    Implementation(
        "pyhessian-loader", f"{PEERS}.pyhessian", "dataloader", ".bench/pyhessian"
    ),
    Implementation(
        "curvlinops", f"{PEERS}.curvlinops", "curvlinops", ".bench/curvlinops"
    ),
    Implementation("cola", f"{PEERS}.cola", "hessian", ".bench/cola"),
    Implementation(
        "eigenthings",
        f"{PEERS}.hessian_eigenthings",
        "autograd",
        ".bench/hessian_eigenthings",
    ),
)


def _measure(
    options: argparse.Namespace, implementations: Sequence[Implementation]
) -> tuple[Settings, Outcome]:
    settings = Settings(
        problems=tuple(options.problems),
        matrices=tuple(options.matrices),
        columns=(1,),
        rounds=options.rounds,
        budget=60 * options.budget_minutes,
    )
    threads, clock = options.threads, options.clock
    runner = Runner(
        settings,
        implementations,
        start=lambda *a: process.start(
            *a, threads=threads, clock=clock, timeout=process.JUDGE_TIMEOUT
        ),
        exact=lambda *a: process.exact_products(*a, threads=threads),
        say=say,
    )
    return settings, runner.run()


def targets(run: Run | None) -> list[Reached]:
    """Return the target of a product whose graphs are not kept."""
    rows = [] if run is None else run["rows"]
    right = {
        row["implementation"]: row["ratio"]
        for row in rows
        if row["problem"] == TIMED and row["relative_error"] <= report.WRONG
    }
    what = "one product of ResNet20, no graphs kept"
    mine = right.pop(OURS, None)
    found = [at_most(what, 2.3, mine, "gradients")]
    over = mine / min(right.values()) if mine and right else None
    found.append(at_most(f"{what}, over the best peer's", 1.0, over))
    return found


SUITE = Suite(
    name="many",
    implementations=IMPLEMENTATIONS,
    problems=(*CIFAR, "tiny"),
    timed=(TIMED,),
    quick="tiny",
    budget_minutes=7.0,
    measure=_measure,
    full=report.full,
    marker="many",
    targets=targets,
)
