"""What a suite is: one file of this folder, one row in its list, and nothing else."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.registry import Implementation
from benchmarks.runner import Outcome

Run = dict[str, Any]
Measure = Callable[[argparse.Namespace, Sequence[Implementation]], tuple[Any, Outcome]]


@dataclass(frozen=True)
class Reached:
    """One target, and what a run says of it.

    Attributes:
        what: The quantity.
        target: In words, with its unit.
        reached: Likewise; ``None`` if the run does not say.
        met: Whether that is enough; ``None`` if the run does not say.
    """

    what: str
    target: str
    reached: str | None = None
    met: bool | None = None


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
        full: A run's JSON as Markdown, for the documentation.
        marker: The place of that in the documentation.
        short: Likewise for the README; ``None`` if it has no place there.
        targets: What was aimed at, and what a run reached; of no run without one.
    """

    name: str
    implementations: tuple[Implementation, ...]
    problems: tuple[str, ...]
    timed: tuple[str, ...]
    quick: str
    budget_minutes: float
    measure: Measure
    full: Callable[[Run], str]
    marker: str
    matrices: tuple[str, ...] = ("hessian",)
    short: Callable[[Run], str] | None = None
    targets: Callable[[Run | None], list[Reached]] = field(default=lambda _: [])


def say(text: str) -> None:
    """Print progress at once."""
    print(text, flush=True)


def at_most(what: str, limit: float, value: float | None, unit: str = "") -> Reached:
    """A target that is met by a value not above ``limit``."""
    unit = f" {unit}" if unit else ""
    target = f"at most {limit:g}{unit}"
    if value is None:
        return Reached(what, target)
    return Reached(what, target, f"{value:.3g}{unit}", value <= limit)


def at_least(what: str, limit: float, value: float | None, unit: str = "x") -> Reached:
    """A target that is met by a value not below ``limit``."""
    unit = f" {unit}" if unit else ""
    target = f"at least {limit:g}{unit}"
    if value is None:
        return Reached(what, target)
    return Reached(what, target, f"{value:.3g}{unit}", value >= limit)
