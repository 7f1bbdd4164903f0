"""``curvescope initialisation`` and ``curvescope step-size``: before training."""

import shlex
from collections.abc import Callable, Mapping

from rich.console import Console

from curvescope._core import files
from curvescope._core.checks import message, positive_int
from curvescope._core.progress import showing_progress
from curvescope.analysis.initialisation import Candidate, report_of
from curvescope.analysis.step_size import step_size
from curvescope.cli import runs
from curvescope.cli.options import Initialisation, StepSizeOptions
from curvescope.cli.problems import Built, build_problem
from curvescope.report import collect_environment, load_results, report
from curvescope.results import Result


def run_initialisation(command: Initialisation, words: list[str], out: Console) -> None:
    """Measure the layers under the candidates, or return what lies in the folder.

    Raises:
        ValueError: If an option is wrong, or the folder is another run's.
    """
    candidates = [_candidate(word) for word in command.candidates] or None
    num_seeds = positive_int("--num-seeds", command.num_seeds)

    def measure(built: Built) -> Mapping[str, Result]:
        problem = built.problem
        if not command.problem.params:
            problem = problem.select("weights")
        found = report_of(
            problem,
            candidates=candidates,
            seeds=range(num_seeds),
            num_probes=command.num_probes,
        )
        return {"initialisation": found}

    _run("initialisation", command, measure, words, out)


def run_step_size(command: StepSizeOptions, words: list[str], out: Console) -> None:
    """Measure the step size, or return what lies in the folder.

    Raises:
        ValueError: If an option is wrong, or the folder is another run's.
    """

    def measure(built: Built) -> Mapping[str, Result]:
        found = step_size(built.problem, tol=command.tol, num_points=command.num_points)
        return {"step_size": found}

    _run("step-size", command, measure, words, out)


def _candidate(word: str) -> Candidate:
    """Read a name, or a standard deviation.

    Raises:
        ValueError: If a number is no standard deviation.
    """
    try:
        std = float(word)
    except ValueError:
        return word.replace("-", "_")
    if not 0.0 <= std < float("inf"):
        raise ValueError(message("--candidates", "be names or numbers from 0", word))
    return "normal", std


def _run(
    name: str,
    command: Initialisation | StepSizeOptions,
    measure: Callable[[Built], Mapping[str, Result]],
    words: list[str],
    out: Console,
) -> None:
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
            results = dict(measure(built))
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
