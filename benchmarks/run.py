"""Time products, eigenvalues, densities, tables and matrices against the peers.

    python benchmarks/run.py [--suite top] [--quick] [--problems mlp gpt] ...

Writes ``benchmarks/results/<suite>_<hardware>_<yyyymmdd>.json`` and, from it, the
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

from benchmarks import environment, publish  # noqa: E402
from benchmarks.commands import COMMANDS  # noqa: E402
from benchmarks.measure import CLOCKS  # noqa: E402
from benchmarks.problems import PROBLEMS  # noqa: E402
from benchmarks.runner import Outcome  # noqa: E402
from benchmarks.suites import SUITES  # noqa: E402


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", choices=[*SUITES], default="products")
    parser.add_argument("--problems", nargs="*")
    parser.add_argument("--matrices", nargs="+")
    parser.add_argument(
        "--columns", nargs="+", type=int, default=(1, 8, 32), help="products only"
    )
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--budget-minutes", type=float)
    parser.add_argument(
        "--most-seconds",
        type=float,
        default=60.0,
        help="exact only: for the rounds of one way on one problem",
    )
    keys = [command.key for command in COMMANDS]
    parser.add_argument(
        "--commands",
        nargs="*",
        choices=keys,
        help="exact only: whole commands to time (default: all)",
    )
    parser.add_argument(
        "--only", nargs="+", help="keys of implementations (default: all)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one problem, two rounds, no commands; writes no tables",
    )
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    options = parser.parse_args(arguments)
    if options.clock == "cpu" and options.threads != 1:
        parser.error("--clock cpu must come with --threads 1")
    _fill(parser, options)
    return options


def _fill(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Put the suite's defaults where nothing was said; refuse what it has not."""
    suite = SUITES[options.suite]
    if options.problems is None:
        options.problems = [suite.quick] if options.quick else list(suite.timed)
    options.matrices = tuple(options.matrices or suite.matrices)
    for option, has in (("problems", suite.problems), ("matrices", suite.matrices)):
        foreign = [name for name in getattr(options, option) if name not in has]
        if foreign:
            parser.error(
                f"--{option} must be of {', '.join(has)} with --suite {suite.name}; "
                f"got {', '.join(foreign)}"
            )
    if options.rounds is None:
        options.rounds = 2 if options.quick else 5
    if options.budget_minutes is None:
        options.budget_minutes = suite.budget_minutes
    if options.commands is None:
        options.commands = [] if options.quick else [c.key for c in COMMANDS]


def main(arguments: list[str] | None = None) -> Path:
    """Measure, write the JSON and the tables; return the JSON's path."""
    options = parse(arguments)
    suite = SUITES[options.suite]
    chosen = [
        i
        for i in suite.implementations
        if options.only is None or i.key in options.only
        # Compiling anew in every round is no trial.
        if not (options.quick and i.fresh)
    ]
    there = [i for i in chosen if i.python.exists()]
    facts = environment.describe(options.threads, options.clock)
    neighbours = environment.Neighbours()
    settings, outcome = suite.measure(options, there)
    for missing in (i for i in chosen if i not in there):
        reason = f"no environment at {missing.venv}: run `make bench-setup`"
        outcome.absent.append({"implementation": missing.key, "reason": reason})
    conditions = {
        **neighbours.summary(),
        **environment.source(),
        "settings": dataclasses.asdict(settings),
    }
    for measured in (*outcome.problems.values(), *outcome.commands):
        measured["conditions"] = conditions
    path = options.out or _path(suite.name, facts)
    write(path, facts, outcome, theme=suite.name)
    print(f"results: {path}")
    if options.quick or options.out:
        print(suite.full(json.loads(path.read_text())))
    else:
        publish.publish([path])
    return path


def _path(theme: str, facts: dict[str, Any]) -> Path:
    today = dt.datetime.now(dt.UTC).strftime("%Y%m%d")
    return publish.RESULTS / f"{theme}_{environment.hardware_slug(facts)}_{today}.json"


def write(
    path: Path, facts: dict[str, Any], outcome: Outcome, *, theme: str = "products"
) -> None:
    """Write a run as JSON, complete or not at all, beside what the file has of others."""
    found = dataclasses.asdict(outcome)
    if path.exists():
        found = merged(json.loads(path.read_text()), facts, found)
    today = dt.datetime.now(dt.UTC).date().isoformat()
    content = {"theme": theme, "date": today, "environment": facts, **found}
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
    again = {
        *new["problems"],
        *(entry["problem"] for entry in (*new["failed"], *new["commands"])),
    }
    problems = {**old["problems"], **new["problems"]}
    kept = {
        # Files of before there were commands have none.
        key: [entry for entry in old.get(key, []) if entry["problem"] not in again]
        for key in ("rows", "failed", "skipped", "commands")
    }
    return {
        "problems": {name: problems[name] for name in PROBLEMS if name in problems},
        **{key: kept[key] + new[key] for key in kept},
        "absent": new["absent"],
    }


if __name__ == "__main__":
    main()
