"""What an experiment is: a name, a configuration with defaults, and a function."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from curvescope.results import Result

# Fields of a configuration that say how to compute, not what: a folder's run may go on
# with other ones.
_HOW = ("jobs",)


class Run(Protocol):
    """Computes an experiment's results; with a ``folder`` it resumes what lies there."""

    def __call__(
        self, config: Any, *, folder: Path | None = None
    ) -> Mapping[str, Result]:
        """Return the results by name."""


def _accept(config: Any) -> None:
    """Refuse nothing."""


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
    """

    name: str
    config: type
    run: Run
    summary: str
    check: Callable[[Any], None] = _accept


def decisive(config: Any) -> dict[str, Any]:
    """Return what decides an experiment's numbers, as plain values.

    Example:
        >>> from curvescope.experiments.rank_sweep import RankVsWidth
        >>> "jobs" in decisive(RankVsWidth())
        False
    """
    return {k: v for k, v in plain(config).items() if k not in _HOW}


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
