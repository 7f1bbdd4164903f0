"""``curvescope effdim``: of eigenvalues in a file, and the bounds beside a model's."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from curvescope._core.checks import positive_int, real
from curvescope._core.fingerprints import combine
from curvescope.analysis.spectra_files import (
    effective_dimension_of_file,
    write_spectrum,
)
from curvescope.cli import runs
from curvescope.cli.options import EffDim, EffDimOfFile
from curvescope.report import collect_environment, report
from curvescope.results import Eigenpairs, Result

SPECTRUM_FILE = "eigenvalues.npz"


def names_a_file(words: Sequence[str]) -> bool:
    """Tell ``effdim FILE.npz ...`` from ``effdim MODEL --data ...``."""
    if not words or words[0] != "effdim":
        return False
    of_model = any(word == "--data" or word.startswith("--data=") for word in words)
    return not of_model and any(word.endswith(".npz") for word in words[1:])


def run_file(command: EffDimOfFile, words: list[str], out: Console) -> None:
    """Print the effective dimension, and keep it where a folder is named.

    Raises:
        ValueError: If an option is wrong, or the folder is another run's.
        FileNotFoundError: If there is no such file.
    """
    places = [real("z", place, minimum=0.0, strict=True) for place in command.z]
    results: dict[str, Result] = dict(
        effective_dimension_of_file(
            command.file,
            z=places or None,
            dimension=command.dimension,
            negative=command.negative,
        )
    )
    for result in results.values():
        out.print(str(result), markup=False)
        out.print()
    if command.out is None:
        return
    config = {
        "command": "effdim FILE",
        "file": combine(command.file.read_bytes()),
        "z": places,
        "dimension": command.dimension,
        "negative": command.negative,
    }
    page = command.out / "report.html"
    if not runs.open_folder(command.out, config):
        page = report(
            results,
            path=command.out,
            title=f"effective dimension of {command.file.name}",
            command=shlex.join(["curvescope", *words]),
            environment=collect_environment(),
            config=config,
        )
    out.print(f"report: {page.resolve()}", markup=False)


def bounding(command: EffDim, num_params: int) -> dict[str, Any]:
    """Return the arguments of `analyze` that put certified bounds beside the estimate.

    Raises:
        ValueError: If ``--top`` is negative.
    """
    top = min(positive_int("--top", command.top, minimum=0), num_params)
    parts = ["effective_dimension"]
    if top:
        parts = ["eigenpairs", *parts]
        if command.problem.matrix == "ggn":
            # Where no eigenvalue is negative, the trace bounds the sum of the others.
            parts = ["trace", *parts]
    return {"parts": parts, "k": max(top, 1), "which": "LA"}


def keep_spectra(folder: Path, results: Sequence[Result]) -> list[Path]:
    """Write the eigenvalues of a run beside its tables, in the published format too."""
    return [
        write_spectrum(folder / SPECTRUM_FILE, result)
        for result in results
        if isinstance(result, Eigenpairs)
    ]
