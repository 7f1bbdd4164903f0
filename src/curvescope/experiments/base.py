"""What an experiment is: a name, a configuration with defaults, and a function."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from curvescope.results import Result
from curvescope.results.text import format_table

Preset = Literal["small", "paper"]
Config = TypeVar("Config")

# Fields of a configuration that say how to compute, not what: a folder's run may go on
# with other ones.
_HOW = ("jobs",)


class Run(Protocol):
    """Computes an experiment's results; with a ``folder`` it resumes what lies there."""

    def __call__(
        self, config: Any, *, folder: Path | None = None
    ) -> Mapping[str, Result]:
        """Return the results by name."""


class Prepared(Protocol):
    """An experiment whose model and data are loaded; nothing is computed yet."""

    @property
    def fingerprint(self) -> str:
        """A hash of weights, data and code: files may change under the same names."""

    @property
    def checks(self) -> Mapping[str, str]:
        """What shows that model, weights and data belong together."""

    def run(self, *, folder: Path | None = None) -> Mapping[str, Result]:
        """Return the results by name."""


def _accept(config: Any) -> None:
    """Refuse nothing."""


@dataclass(frozen=True, kw_only=True)
class PlannedRuns:
    """Runs of one kind.

    Attributes:
        what: In words, such as ``"width 16"``.
        runs: How many.
        num_params: Parameters of each.
        num_steps: Updates of each training.
        num_matvecs: Products with a curvature matrix, over the whole data, of each.
        hours: Of all of them together, estimated.
    """

    what: str
    runs: int
    num_params: int
    num_steps: int = 0
    num_matvecs: int = 0
    hours: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an experiment is about to do, and how long it may take.

    Attributes:
        rows: Runs, kind by kind.
        basis: What the hours were estimated from, such as a machine.
    """

    rows: tuple[PlannedRuns, ...]
    basis: str

    @property
    def runs(self) -> int:
        """All runs."""
        return sum(row.runs for row in self.rows)

    @property
    def hours(self) -> float:
        """All hours."""
        return sum(row.hours for row in self.rows)

    def __str__(self) -> str:
        names = ("num_steps", "num_matvecs")
        unused = {n for n in names if not any(getattr(row, n) for row in self.rows)}
        rows = [
            {k: v for k, v in vars(row).items() if k not in unused}
            | {"hours": f"{row.hours:.3g}"}
            for row in self.rows
        ]
        matvecs = sum(row.runs * row.num_matvecs for row in self.rows)
        total = f"{self.runs} runs, {matvecs} matrix products"
        headline = "plan: each row's numbers are of one run, but for its hours"
        hours = f"about {self.hours:.3g} hours ({self.basis})"
        return format_table(headline, rows, (), f"{total}, {hours}")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One row of the registry; its command, help and run folder follow from it.

    Attributes:
        name: The command's name, with hyphens.
        config: A frozen dataclass. Every field has a default, and a docstring below it
            that becomes its help.
        run: From a configuration to results by name.
        summary: One line for the help.
        check: Refuses a wrong configuration before anything is written.
        plan: Says what a configuration will cost, without computing; for ``--dry-run``.
        prepare: Loads the user's model and data, of an experiment that is about these.
    """

    name: str
    config: type
    run: Run
    summary: str
    check: Callable[[Any], None] = _accept
    plan: Callable[[Any], Plan] | None = None
    prepare: Callable[[Any], Prepared] | None = None


def filled(config: Config) -> Config:
    """Return a configuration with its preset's values in the fields that are ``None``.

    A class with presets has a field ``preset``, fields that may be ``None``, and a class
    variable or property ``PRESETS`` from each preset's name to those fields' values.

    Example:
        >>> from curvescope.experiments.random_features import RandomFeatures
        >>> filled(RandomFeatures(num_samples=50)).max_features
        399
    """
    presets = getattr(config, "PRESETS", None)
    if presets is None:
        return config
    values = presets[config.preset]  # type: ignore[attr-defined]
    missing = {k: v for k, v in values.items() if getattr(config, k) is None}
    return dataclasses.replace(config, **missing)  # type: ignore[type-var]


def decisive(config: Any) -> dict[str, Any]:
    """Return what decides an experiment's numbers, as plain values; presets filled in.

    Example:
        >>> from curvescope.experiments.rank_sweep import RankVsWidth
        >>> "jobs" in decisive(RankVsWidth())
        False
    """
    return {k: v for k, v in plain(filled(config)).items() if k not in _HOW}


def plain(value: Any) -> Any:
    """Return a dataclass, path or tuple as what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
