"""``curvescope initialisation`` and ``curvescope step-size``: before training."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from curvescope._core.checks import message, positive_int
from curvescope.analysis.initialisation import Candidate, report_of
from curvescope.analysis.step_size import step_size
from curvescope.cli.measuring import run_measured
from curvescope.cli.options import Initialisation, StepSizeOptions
from curvescope.problem import Problem
from curvescope.results import Result


def run_initialisation(command: Initialisation, words: list[str], out: Console) -> None:
    """Measure the layers under the candidates, or return what lies in the folder.

    Raises:
        ValueError: If an option is wrong, or the folder is another run's.
    """
    candidates = [_candidate(word) for word in command.candidates] or None
    num_seeds = positive_int("--num-seeds", command.num_seeds)

    def measure(problem: Problem, _: Path) -> Mapping[str, Result]:
        if not command.problem.params:
            problem = problem.select("weights")
        found = report_of(
            problem,
            candidates=candidates,
            seeds=range(num_seeds),
            num_probes=command.num_probes,
        )
        return {"initialisation": found}

    run_measured("initialisation", command, measure, words, out)


def run_step_size(command: StepSizeOptions, words: list[str], out: Console) -> None:
    """Measure the step size, or return what lies in the folder.

    Raises:
        ValueError: If an option is wrong, or the folder is another run's.
    """

    def measure(problem: Problem, _: Path) -> Mapping[str, Result]:
        found = step_size(problem, tol=command.tol, num_points=command.num_points)
        return {"step_size": found}

    run_measured("step-size", command, measure, words, out)


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
