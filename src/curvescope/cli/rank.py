"""``curvescope rank``: the ranks of one network, measured, proved and predicted."""

import shlex
from pathlib import Path
from typing import Any

from rich.console import Console

from curvescope._core import files
from curvescope.cli import runs
from curvescope.cli.options import Rank
from curvescope.experiments.base import plain
from curvescope.experiments.rank import RankPoint, check_points, rank_results
from curvescope.report import collect_environment, load_results, report
from curvescope.results import RankReport, Result

# The symbols of the formulas, by the names of the facts.
_SYMBOLS = {
    "input_rank": "r, rank of the inputs' covariance",
    "bottleneck": "q = min(r, k, hidden widths)",
    "residual_rank": "s, rank of the residuals times inputs",
    "output_rank": "k, rank of the loss by the outputs",
    "num_params": "P, parameters",
    "num_outputs": "K, outputs",
    "num_samples": "n, samples",
}


def run_rank(command: Rank, words: list[str], out: Console) -> None:
    """Measure the ranks, or return those that lie in the folder.

    Raises:
        ValueError: If an option is wrong, or the folder is another run's.
    """
    point = command.point
    folder = command.out or Path("runs") / f"rank-{point.data}"
    config = {"command": "rank", **plain(point)}
    if runs.open_folder(folder, config):
        results = load_results(folder)
        page = folder / "report.html"
    else:
        check_points([point])
        files.write_json(folder / "config.json", config)
        results = dict(rank_results(point))
        page = report(
            results,
            path=folder,
            title=f"ranks: {describe(point)}",
            command=shlex.join(["curvescope", *words]),
            environment=collect_environment(seed=point.seed),
            config=config,
        )
    for result in results.values():
        for line in lines(point, result):
            out.print(line, markup=False)
        out.print()
    out.print(f"report: {page.resolve()}", markup=False)


def describe(point: RankPoint) -> str:
    """Return a point in a few words."""
    units = ",".join(map(str, point.units)) or "none"
    bias = ", biases" if point.bias else ""
    return (
        f"{point.activation} network, hidden {units}{bias}, {point.loss}, "
        f"{point.num_samples} of {point.data}"
    )


def lines(point: RankPoint, result: Result) -> list[str]:
    """Return what is printed of a result: facts, ranks, predictions."""
    if not isinstance(result, RankReport):
        return [result.headline()]
    known: dict[str, Any] = {**result.facts, "num_outputs": point.classes}
    facts = [
        f"{meaning}: {known[name]}"
        for name, meaning in _SYMBOLS.items()
        if known.get(name) is not None
    ]
    predictions = [
        f"predicted: {p.matrix} {p}: {p.formula}" for p in result.predictions
    ]
    assumed = dict.fromkeys(a for p in result.predictions for a in p.assumptions)
    predictions += [f"  assuming {text}" for text in assumed]
    ranks = [f"{name}: {rank.headline()}" for name, rank in result.measured.items()]
    agreement = []
    if result.predictions:
        agrees = "yes" if result.agrees else "NO"
        agreement = [f"measured as predicted: {agrees}"]
    notes = [f"note: {note}" for note in result.notes]
    return [*facts, "", *ranks, *predictions, *agreement, *notes]
