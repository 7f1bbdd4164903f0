"""``curvescope experiment NAME``: options from the registry, a run folder, a page."""

import dataclasses
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Union

import tyro
from rich.console import Console
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes

from curvescope._core import files
from curvescope._core.progress import showing_progress
from curvescope.cli import runs
from curvescope.experiments import Experiment, experiment, names
from curvescope.experiments.base import decisive
from curvescope.report import collect_environment, load_results, report
from curvescope.results import RankSweep, Result
from curvescope.results.ranks import MATRICES
from curvescope.results.text import format_table

# Its own types are made at run time, which a type checker cannot follow.
_FLAT: Any = OmitArgPrefixes


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where the run is kept."""

    out: Path | None = None
    """The run folder; runs/NAME-DATA by default. A second call resumes or returns it."""


def _command(row: Experiment) -> Any:
    """Return the dataclass of one experiment's options."""
    made = dataclasses.make_dataclass(
        "".join(word.capitalize() for word in row.name.split("-")),
        [
            ("experiment", _FLAT[row.config], field(default_factory=row.config)),
            ("run", _FLAT[Where], field(default_factory=Where)),
        ],
        frozen=True,
        kw_only=True,
    )
    made.__doc__ = row.summary
    return Annotated[made, tyro.conf.subcommand(row.name, description=row.summary)]


_COMMANDS: Any = Union[tuple(_command(experiment(name)) for name in names())]  # noqa: UP007


@dataclass(frozen=True, kw_only=True)
class RunExperiment:
    """Reproduce a figure of a paper: data, table, figure, page."""

    chosen: Annotated[OmitSubcommandPrefixes[_COMMANDS], tyro.conf.arg(name="")]
    """Which experiment."""


def run_experiment(command: RunExperiment, words: list[str], out: Console) -> None:
    """Run an experiment in its folder, or return what lies there.

    Raises:
        ValueError: If the configuration is wrong, or the folder is another run's.
    """
    chosen: Any = command.chosen
    row = next(
        r for r in map(experiment, names()) if type(chosen.experiment) is r.config
    )
    config, where = chosen.experiment, chosen.run
    folder = where.out or _default_folder(row, config)
    wanted = {"command": f"experiment {row.name}", **decisive(config)}
    if runs.open_folder(folder, wanted):
        results = load_results(folder)
        page = folder / "report.html"
    else:
        row.check(config)
        files.write_json(folder / "config.json", wanted)
        with showing_progress():
            results = dict(row.run(config, folder=folder))
        page = report(
            results,
            path=folder,
            title=f"{row.name}: {next(iter(results.values())).of.description}",
            command=shlex.join(["curvescope", *words]),
            environment=collect_environment(seed=getattr(config, "seed", 0)),
            config=wanted,
        )
    for result in results.values():
        out.print(table(result), markup=False)
        out.print()
    out.print(f"report: {page.resolve()}", markup=False)


def table(result: Result) -> str:
    """Return a result as text; of a sweep only the ranks, which fit a terminal."""
    if not isinstance(result, RankSweep):
        return str(result)
    rows = [_row(record, result.axis) for record in result.records]
    return format_table(result.headline(), rows, result.notes, str(result.cost))


def _row(record: Mapping[str, Any], axis: str) -> dict[str, Any]:
    kept = dict.fromkeys((axis, "seed", "num_params"))
    row = {name: record[name] for name in kept}
    return row | {name: _cell(record, name) for name in MATRICES}


def _cell(record: Mapping[str, Any], name: str) -> str:
    """Write a rank beside its prediction, and what speaks against either."""
    rank, exact = record[f"{name}_rank"], record[f"{name}_certified"]
    predicted = record[f"{name}_predicted"]
    text = f"{rank}?" if record[f"{name}_verdict"] == "undetermined" else f"{rank}"
    if exact is not None and exact != rank:
        text += f" (exact {exact})"
    if predicted is None:
        return text
    found = rank if exact is None else exact
    if record[f"{name}_claim"] == "equal":
        return f"{text} {'=' if found == predicted else '/='} {predicted}"
    return f"{text} {'<=' if found <= predicted else '>'} {predicted}"


def _default_folder(row: Experiment, config: Any) -> Path:
    words = [row.name, *filter(None, [getattr(config, "data", None)])]
    return Path("runs") / "-".join(words)
