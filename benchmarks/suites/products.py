"""Single products with the Hessian and the GGN, in units of a gradient."""

import argparse
from collections.abc import Sequence

from benchmarks import process, report
from benchmarks.problems import PRODUCTS
from benchmarks.registry import BOTH, OURS, PEERS, Implementation
from benchmarks.runner import Outcome, Runner, Settings
from benchmarks.suites.suite import Reached, Run, Suite, at_least, at_most, say

COMPILED, BFLOAT16 = "curvescope-compiled", "curvescope-bfloat16"
# More columns than these are asked of an MLP only: elsewhere they say nothing new.
WIDE = 8
WIDE_ON = ("mlp", "tiny")
IMPLEMENTATIONS = (
    Implementation(OURS, "benchmarks.ours", "curvescope", ".venv", BOTH),
    Implementation(
        COMPILED, "benchmarks.ours", "compiled", ".venv", BOTH, most_columns=WIDE
    ),
    Implementation(BFLOAT16, "benchmarks.ours", "bfloat16", ".venv", most_columns=1),
    Implementation("pyhessian", f"{PEERS}.pyhessian", "one_batch", ".bench/pyhessian"),
    Implementation(
        "pyhessian-loader", f"{PEERS}.pyhessian", "dataloader", ".bench/pyhessian"
    ),
    Implementation(
        "curvlinops", f"{PEERS}.curvlinops", "curvlinops", ".bench/curvlinops", BOTH
    ),
    Implementation("cola", f"{PEERS}.cola", "hessian", ".bench/cola"),
    Implementation(
        "eigenthings",
        f"{PEERS}.hessian_eigenthings",
        "autograd",
        ".bench/hessian_eigenthings",
        BOTH,
    ),
    Implementation(
        "eigenthings-fd",
        f"{PEERS}.hessian_eigenthings",
        "finite_difference",
        ".bench/hessian_eigenthings",
    ),
)
# What is timed, and roughly how dear it is: a problem's share of the run's time. Cheap
# ones come first, so that what they leave goes to the dear ones.
TIMED = {"mlp": 1.0, "gpt": 2.0, "resnet20": 5.0, "mlp-ragged": 0.5}
# Of one product, in gradients, eager and compiled.
HESSIAN = {"mlp": (1.5, None), "resnet20": (1.5, 1.2), "gpt": (2.35, 1.9)}
GGN = {"mlp": 1.35, "resnet20": 1.5, "gpt": 1.4}
NAMES = {"mlp": "MLP", "resnet20": "ResNet20", "gpt": "GPT"}
# Against whom the ResNet's product is to be how much faster.
FASTER = {"pyhessian-loader": 2.3, "curvlinops": 2.5, "cola": 2.5, "eigenthings": 2.5}


def _measure(
    options: argparse.Namespace, implementations: Sequence[Implementation]
) -> tuple[Settings, Outcome]:
    columns = (1,) if options.quick else tuple(sorted(set(options.columns)))
    narrow = tuple(k for k in columns if k <= WIDE) or columns
    settings = Settings(
        problems=tuple(options.problems),
        matrices=tuple(options.matrices),
        columns=columns,
        columns_of={p: narrow for p in options.problems if p not in WIDE_ON},
        rounds=options.rounds,
        budget=60 * options.budget_minutes,
        shares=TIMED,
    )
    threads, clock = options.threads, options.clock
    runner = Runner(
        settings,
        implementations,
        # Compiling takes tens of seconds, on a busy machine minutes.
        start=lambda *a: process.start(*a, threads=threads, clock=clock, timeout=900.0),
        exact=lambda *a: process.exact_products(*a, threads=threads),
        say=say,
    )
    return settings, runner.run()


def targets(run: Run | None) -> list[Reached]:
    """Return the targets of single products."""

    def ratio(key: str, problem: str, matrix: str, columns: int = 1) -> float | None:
        rows = [] if run is None else run["rows"]
        found = [
            row["ratio"]
            for row in rows
            if (row["implementation"], row["problem"], row["matrix"], row["columns"])
            == (key, problem, matrix, columns)
            and row["relative_error"] <= report.WRONG
        ]
        return found[0] if found else None

    found = []
    for problem, (eager, compiled) in HESSIAN.items():
        what = f"one Hessian product, {NAMES[problem]}"
        value = ratio(OURS, problem, "hessian")
        found.append(at_most(what, eager, value, "gradients"))
        if compiled is not None:
            value = ratio(COMPILED, problem, "hessian")
            found.append(at_most(f"{what}, compiled", compiled, value, "gradients"))
    for problem, limit in GGN.items():
        what = f"one GGN product, {NAMES[problem]}"
        found.append(at_most(what, limit, ratio(OURS, problem, "ggn"), "gradients"))
    value = ratio(OURS, "mlp", "hessian", 32)
    found.append(at_most("32 columns on the MLP, each", 1.1, value, "gradients"))
    mine = ratio(OURS, "resnet20", "hessian")
    for key, factor in FASTER.items():
        theirs = ratio(key, "resnet20", "hessian")
        value = theirs / mine if theirs and mine else None
        found.append(at_least(f"ResNet20's product against {key}", factor, value))
    found.append(_never_slower(run))
    return found


def _never_slower(run: Run | None) -> Reached:
    what, target = "never slower than a peer that is right", "at most 1"
    if run is None:
        return Reached(what, target)
    ours: dict[tuple[str, str, int], float] = {}
    peers: dict[tuple[str, str, int], float] = {}
    for row in run["rows"]:
        if row["relative_error"] > report.WRONG:
            continue
        place = row["problem"], row["matrix"], row["columns"]
        best = ours if row["implementation"].startswith(OURS) else peers
        best[place] = min(best.get(place, row["ratio"]), row["ratio"])
    worst, where = max(
        ((ours[p] / peers[p], p) for p in ours.keys() & peers.keys()),
        default=(None, None),
    )
    if worst is None:
        return Reached(what, target)
    problem, matrix, columns = where
    text = f"{worst:.2f} x the best peer ({matrix}, {problem}, {columns} columns)"
    return Reached(what, target, text, worst <= 1.0)


SUITE = Suite(
    name="products",
    implementations=IMPLEMENTATIONS,
    problems=tuple(PRODUCTS),
    timed=tuple(TIMED),
    matrices=("hessian", "ggn"),
    quick="mlp",
    budget_minutes=10.0,
    measure=_measure,
    full=report.full,
    marker=report.MARKERS,
    short=report.short,
    targets=targets,
)
