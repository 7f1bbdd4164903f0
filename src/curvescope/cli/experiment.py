"""``curvescope experiment NAME``: options from the registry, a run folder, a page."""

import shlex
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from curvescope._core import files
from curvescope._core.checks import message
from curvescope._core.progress import showing_progress
from curvescope.cli import runs
from curvescope.cli.options import RunExperiment
from curvescope.experiments import Experiment, experiment, names
from curvescope.experiments.around_weights import AUTO
from curvescope.experiments.base import Prepared, decisive, filled
from curvescope.experiments.cluster import Scheduled, scheduled
from curvescope.report import collect_environment, load_results, report
from curvescope.results import RankSweep, Result
from curvescope.results.ranks import MATRICES
from curvescope.results.text import format_table

# What a folder's name need not say.
_USUAL = (None, "small", AUTO)


def run_experiment(command: RunExperiment, words: list[str], out: Console) -> None:
    """Run an experiment in its folder, or return what lies there.

    Raises:
        ValueError: If the configuration is wrong, the folder is another run's, or a plan
            is asked of an experiment that has none.
    """
    chosen: Any = command.chosen
    row = next(
        r for r in map(experiment, names()) if isinstance(chosen.experiment, r.config)
    )
    config, where = filled(chosen.experiment), chosen.run
    if where.dry_run:
        # A plan needs no data, but a wrong configuration has none.
        with suppress(OSError):
            row.check(config)
        out.print(plan_of(row, config), markup=False)
        return
    folder = where.out or _default_folder(row, config)
    wanted = {"command": f"experiment {row.name}", **decisive(config)}
    ready = _prepared(row, config, folder, wanted)
    if runs.open_folder(folder, wanted):
        results = load_results(folder)
        page = folder / "report.html"
    else:
        row.check(config)
        files.write_json(folder / "config.json", wanted)
        with showing_progress(), scheduled(where.scheduler) as cluster:
            run = partial(row.run, config) if ready is None else ready.run
            results = dict(run(folder=folder))
        _say_if_idle(cluster, out)
        page = report(
            results,
            path=folder,
            title=f"{row.name}: {next(iter(results.values())).of.description}",
            command=shlex.join(["curvescope", *words]),
            environment=collect_environment(seed=getattr(config, "seed", 0)),
            config=wanted,
            checks={} if ready is None else ready.checks,
        )
    for result in results.values():
        out.print(table(result), markup=False)
        out.print()
    out.print(f"report: {page.resolve()}", markup=False)


def _prepared(
    row: Experiment, config: Any, folder: Path, wanted: dict[str, Any]
) -> Prepared | None:
    """Load the user's model and data, and put their fingerprint into ``wanted``.

    Raises:
        ValueError: If the configuration is wrong, or the folder another run's.
    """
    if row.prepare is None:
        return None
    runs.open_folder(folder, wanted)
    row.check(config)
    ready = row.prepare(config)
    wanted["problem"] = ready.fingerprint
    return ready


def _say_if_idle(cluster: Scheduled | None, out: Console) -> None:
    """Say that a cluster was asked for and had nothing to do."""
    if cluster is not None and cluster.num_points == 0:
        text = "no point was computed on the cluster: all were saved, or there are none"
        out.print(f"note: {text} that could be computed apart", markup=False)


def plan_of(row: Experiment, config: Any) -> str:
    """Return the plan of an experiment as text.

    Raises:
        ValueError: If it has none.
    """
    if row.plan is None:
        planned = ", ".join(n for n in names() if experiment(n).plan is not None)
        contract = f"be asked of an experiment with a plan ({planned})"
        raise ValueError(message("--dry-run", contract, row.name))
    return str(row.plan(config))


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
    """Return a name that tells apart what is tried most often."""
    choices = [getattr(config, field, None) for field in ("model", "data", "preset")]
    words = [Path(str(c)).name for c in choices if c not in _USUAL]
    text = "-".join([row.name, *words])
    return Path("runs") / "".join(c if c.isalnum() or c in "-_." else "-" for c in text)
