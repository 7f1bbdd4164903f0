"""Runs' tables put into the documentation and the README.

    python -m benchmarks.publish [RESULTS.json ...]

Without files, every suite's newest. The table of targets is made of the newest of all.
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.registry import ROOT
from benchmarks.suites import SUITES
from benchmarks.suites.suite import Reached

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
TARGETS = "targets"


def publish(paths: list[Path]) -> None:
    """Put the tables of runs, and what they reached, where they belong."""
    for path in paths:
        run = json.loads(path.read_text())
        suite = SUITES[run["theme"]]
        report.insert(PAGE, suite.full(run), suite.marker)
        if suite.short is not None:
            report.insert(README, suite.short(run), suite.marker)
    report.insert(PAGE, targets(), TARGETS)


def newest(theme: str) -> Path | None:
    """Return a suite's last results, by the date in their names."""
    found = sorted(RESULTS.glob(f"{theme}_*.json"), key=lambda path: path.stem[-8:])
    return found[-1] if found else None


def targets() -> str:
    """Return the table of what was aimed at, and what the newest runs reached."""
    lines = [
        report.line("suite", "what", "target", "reached", "met"),
        report.line("---", "---", "---", "---", "---"),
    ]
    for name, suite in SUITES.items():
        path = newest(name)
        run: dict[str, Any] | None = (
            None if path is None else json.loads(path.read_text())
        )
        lines += [_row(name, entry) for entry in suite.targets(run)]
    return "\n".join(lines)


def _row(suite: str, entry: Reached) -> str:
    reached = "not measured" if entry.reached is None else entry.reached
    met = {None: "", True: "yes", False: "**no**"}[entry.met]
    return report.line(suite, entry.what, entry.target, reached, met)


def main(arguments: list[str]) -> None:
    """Publish the files named, or every suite's newest."""
    named = [Path(argument) for argument in arguments]
    publish(named or [path for name in SUITES if (path := newest(name)) is not None])


if __name__ == "__main__":
    main(sys.argv[1:])
