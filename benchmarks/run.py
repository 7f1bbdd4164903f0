"""Time one product of the Hessian and the GGN against one gradient and the peers.

    python benchmarks/run.py [--quick] [--problems mlp gpt] [--rounds 5] ...

Writes ``benchmarks/results/products_<hardware>_<yyyymmdd>.json`` and, from it, the
tables in the documentation and the README. A second run of the same day on the same
terms replaces the problems that it measures and leaves the others.

On a shared machine use ``--threads 1 --clock cpu``: processor time does not see that
others had the core.
"""

import argparse
import dataclasses
import datetime as dt
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it also runs as a script

from benchmarks import environment, process, report  # noqa: E402
from benchmarks.measure import CLOCKS  # noqa: E402
from benchmarks.problems import PROBLEMS, TIMED  # noqa: E402
from benchmarks.registry import IMPLEMENTATIONS, Implementation  # noqa: E402
from benchmarks.runner import Outcome, Runner, Settings  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--problems", nargs="+", default=list(TIMED), choices=sorted(PROBLEMS)
    )
    parser.add_argument("--matrices", nargs="+", default=("hessian", "ggn"))
    parser.add_argument("--columns", nargs="+", type=int, default=(1, 8, 32))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--budget-minutes", type=float, default=8.0)
    parser.add_argument(
        "--only", nargs="+", help="keys of implementations (default: all)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="mlp, one column, two rounds; writes no tables",
    )
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    options = parser.parse_args(arguments)
    if options.clock == "cpu" and options.threads != 1:
        parser.error("--clock cpu must come with --threads 1")
    return options


def main(arguments: list[str] | None = None) -> Path:
    """Measure, write the JSON and the tables; return the JSON's path."""
    options = parse(arguments)
    settings = Settings(
        problems=("mlp",) if options.quick else tuple(options.problems),
        matrices=tuple(options.matrices),
        columns=(1,) if options.quick else tuple(sorted(set(options.columns))),
        rounds=2 if options.quick else options.rounds,
        budget=60 * options.budget_minutes,
        shares=TIMED,
    )
    chosen = [
        i for i in IMPLEMENTATIONS if options.only is None or i.key in options.only
    ]
    there = [i for i in chosen if i.python.exists()]
    facts = environment.describe(options.threads, options.clock)
    neighbours = environment.Neighbours()
    outcome = _measure(settings, there, options.threads, options.clock)
    for missing in (i for i in chosen if i not in there):
        reason = f"no environment at {missing.venv}: run `make bench-setup`"
        outcome.absent.append({"implementation": missing.key, "reason": reason})
    conditions = {
        **neighbours.summary(),
        **environment.source(),
        "settings": dataclasses.asdict(settings),
    }
    for problem in outcome.problems.values():
        problem["conditions"] = conditions
    path = options.out or _path(facts)
    write(path, facts, outcome)
    print(f"results: {path}")
    if options.quick or options.out:
        print(report.full(json.loads(path.read_text())))
    else:
        report.main([str(path)])
    return path


def _measure(
    settings: Settings, implementations: list[Implementation], threads: int, clock: str
) -> Outcome:
    runner = Runner(
        settings,
        implementations,
        start=lambda *a: process.start(*a, threads=threads, clock=clock),
        exact=lambda *a: process.exact_products(*a, threads=threads),
        say=lambda text: print(text, flush=True),
    )
    return runner.run()


def _path(facts: dict[str, Any]) -> Path:
    today = dt.datetime.now(dt.UTC).strftime("%Y%m%d")
    return RESULTS / f"products_{environment.hardware_slug(facts)}_{today}.json"


def write(path: Path, facts: dict[str, Any], outcome: Outcome) -> None:
    """Write a run as JSON, complete or not at all, beside what the file has of others."""
    found = dataclasses.asdict(outcome)
    if path.exists():
        found = merged(json.loads(path.read_text()), facts, found)
    today = dt.datetime.now(dt.UTC).date().isoformat()
    content = {"theme": "products", "date": today, "environment": facts, **found}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


def merged(
    old: dict[str, Any], facts: dict[str, Any], new: dict[str, Any]
) -> dict[str, Any]:
    """Return the new results with the old ones of other problems, if comparable."""
    if old["environment"] != facts:
        return new
    again = new["problems"].keys()
    problems = {**old["problems"], **new["problems"]}
    kept = {
        key: [entry for entry in old[key] if entry["problem"] not in again]
        for key in ("rows", "failed", "skipped")
    }
    return {
        "problems": {name: problems[name] for name in PROBLEMS if name in problems},
        **{key: kept[key] + new[key] for key in kept},
        "absent": new["absent"],
    }


if __name__ == "__main__":
    main()
