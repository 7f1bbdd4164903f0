"""What the commands on a user's model share: a folder, a problem, results, a page."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from curvescope._core import files
from curvescope._core.progress import showing_progress
from curvescope.cli import runs
from curvescope.cli.options import Initialisation, Layers, StepSizeOptions
from curvescope.cli.problems import build_problem
from curvescope.problem import Problem
from curvescope.report import collect_environment, load_results, report
from curvescope.results import Result

# From the problem and the run's folder to results by name.
Measure = Callable[[Problem, Path], Mapping[str, Result]]


def run_measured(
    name: str,
    command: Initialisation | Layers | StepSizeOptions,
    measure: Measure,
    words: list[str],
    out: Console,
) -> None:
    """Measure, or return what lies in the folder; print the results and where they are.

    Raises:
        ValueError: If an option is wrong, or the folder is another run's.
    """
    options = command.problem
    folder = options.out or runs.default_folder(name, options.model, options.data)
    config = runs.configuration(name, command)
    runs.open_folder(folder, config)
    built = build_problem(options)
    config["problem"] = built.problem.refresh()
    if runs.open_folder(folder, config):
        results = load_results(folder)
        page = folder / "report.html"
    else:
        for check, text in built.checks.items():
            out.print(f"{check}: {text}", markup=False)
        files.write_json(folder / "config.json", config)
        with showing_progress():
            results = dict(measure(built.problem, folder))
        page = report(
            results,
            path=folder,
            title=f"{options.model} on {options.data}: {name}",
            command=shlex.join(["curvescope", *words]),
            environment=collect_environment(seed=options.seed),
            config=config,
            checks=built.checks,
        )
    for result in results.values():
        out.print()
        out.print(str(result), markup=False)
    out.print()
    out.print(f"report: {page.resolve()}", markup=False)
