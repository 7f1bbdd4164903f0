"""Time one product of the Hessian and the GGN against one gradient and the peers.

    python benchmarks/run.py [--quick] [--problems mlp gpt] [--rounds 5] ...

Writes ``benchmarks/results/products_<hardware>_<yyyymmdd>.json`` and, from it, the
tables in the documentation and the README.
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
    return parser.parse_args(arguments)


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
    facts = environment.describe(options.threads)
    neighbours = environment.Neighbours()
    outcome = _measure(settings, there, options.threads)
    for missing in (i for i in chosen if i not in there):
        reason = f"no environment at {missing.venv}: run `make bench-setup`"
        outcome.absent.append({"implementation": missing.key, "reason": reason})
    facts.update(neighbours.summary())
    path = options.out or _path(facts)
    write(path, settings, facts, outcome)
    print(f"results: {path}")
    if options.quick or options.out:
        print(report.full(json.loads(path.read_text())))
    else:
        report.main([str(path)])
    return path


def _measure(
    settings: Settings, implementations: list[Implementation], threads: int
) -> Outcome:
    runner = Runner(
        settings,
        implementations,
        start=lambda *a: process.start(*a, threads=threads),
        exact=lambda *a: process.exact_products(*a, threads=threads),
        say=lambda text: print(text, flush=True),
    )
    return runner.run()


def _path(facts: dict[str, Any]) -> Path:
    today = dt.datetime.now(dt.UTC).strftime("%Y%m%d")
    return RESULTS / f"products_{environment.hardware_slug(facts)}_{today}.json"


def write(
    path: Path, settings: Settings, facts: dict[str, Any], outcome: Outcome
) -> None:
    """Write one run as JSON, complete or not at all."""
    today = dt.datetime.now(dt.UTC).date().isoformat()
    content = {
        "theme": "products",
        "date": today,
        "environment": facts,
        "settings": dataclasses.asdict(settings),
        **dataclasses.asdict(outcome),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


if __name__ == "__main__":
    main()
