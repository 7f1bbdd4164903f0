"""The command ``curvescope``: parse, run, save; no numerics."""

import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from rich.console import Console

from curvescope._core import files
from curvescope._core.errors import AccuracyWarning, MissingExtraError
from curvescope._core.memory import available_memory, format_bytes, peak_memory
from curvescope._core.processes import Processes
from curvescope._core.progress import showing_progress
from curvescope.analysis.run import (
    PARTS,
    analyze,
    check_settings,
    explained,
    operator_of,
    peak_vectors,
)
from curvescope.cli import runs
from curvescope.cli.experiment import run_experiment
from curvescope.cli.initialisation import run_initialisation, run_step_size
from curvescope.cli.layers import run_layers
from curvescope.cli.options import (
    Analyze,
    Command,
    Computing,
    Data,
    Density,
    DimensionOptions,
    EffDim,
    EffDimOfFile,
    EigenpairOptions,
    Initialisation,
    Layers,
    Plot,
    ProbeOptions,
    Rank,
    Report,
    RunExperiment,
    Spectrum,
    StepSizeOptions,
)
from curvescope.cli.positional import without_option
from curvescope.cli.problems import Built, build_problem
from curvescope.cli.rank import run_rank
from curvescope.cli.spectra import bounding, keep_spectra, names_a_file, run_file
from curvescope.cli.together import (
    STOPPED,
    Stopped,
    has_to_say,
    joined,
    on_own_device,
    one_voice,
    refuse_several,
    speaker,
)
from curvescope.data import fetch
from curvescope.report import report, report_from_folder
from curvescope.report.environment import collect_environment

_NAMES: dict[type, str] = {
    Analyze: "analyze",
    Spectrum: "spectrum",
    Density: "density",
    EffDim: "effdim",
}
_PARTS: dict[type, tuple[str, ...]] = {
    Analyze: PARTS,
    Spectrum: ("eigenpairs",),
    Density: ("density",),
    EffDim: ("effective_dimension",),
}
# What a user's input can cause; anything else is our bug and shows its trace.
_INPUT_ERRORS = (
    ValueError,
    TypeError,
    OSError,
    MissingExtraError,
    MemoryError,
    RuntimeError,
)
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
BAD_INPUT = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words behind ``curvescope``; those of the process by default.

    Returns:
        The exit code: 0 done, 2 wrong input, 130 interrupted, 143 stopped.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with one_voice():
        command = parse(words)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        with warnings.catch_warnings():
            # The notes of the results say the same, where they will be read.
            warnings.simplefilter("ignore", AccuracyWarning)
            _dispatch(command, words)
    except Stopped as stopped:
        errors.print(str(stopped), style="yellow", markup=False)
        return STOPPED
    except KeyboardInterrupt:
        errors.print("interrupted: the same command goes on from here", style="yellow")
        return INTERRUPTED
    except _INPUT_ERRORS as error:
        if has_to_say(error):
            errors.print(f"{speaker()}error: {error}", style="red", markup=False)
        return BAD_INPUT
    return 0


def parse(words: Sequence[str]) -> Command | EffDimOfFile:
    """Return the command of the words; exits with 2 where they are none.

    Raises:
        MissingExtraError: If tyro is not installed.
    """
    import tyro

    if names_a_file(words):
        rest = _split_lists(words[1:])
        return tyro.cli(EffDimOfFile, args=rest, prog="curvescope effdim")
    return tyro.cli(
        Command,
        args=without_option(_split_lists(words)),
        prog="curvescope",
        description="Trustworthy curvature analysis of PyTorch models.",
    )


def _split_lists(words: Sequence[str]) -> list[str]:
    """Read lists of numbers with commas, such as ``5,10``, as tyro does with spaces."""
    several = rf"{_NUMBER}(?:,{_NUMBER})+"
    split: list[str] = []
    for word in words:
        option, equals, value = word.rpartition("=")
        if re.fullmatch(several, value) and (not equals or option[:2] == "--"):
            split += [*([option] if equals else []), *value.split(",")]
        else:
            split.append(word)
    return split


def _dispatch(command: Command | EffDimOfFile, words: list[str]) -> None:
    out = Console(highlight=False, soft_wrap=True)
    if not isinstance(command, Computing):
        refuse_several()
    if isinstance(command, Data):
        for path in fetch(command.name, root=command.data_root):
            out.print(str(path), markup=False)
    elif isinstance(command, (Plot, Report)):
        page = report_from_folder(command.run)
        where = page.parent / "figures" if isinstance(command, Plot) else page
        out.print(f"written: {where}", markup=False)
    elif isinstance(command, Rank):
        run_rank(command, words, out)
    elif isinstance(command, Layers):
        run_layers(command, words, out)
    elif isinstance(command, Initialisation):
        run_initialisation(command, words, out)
    elif isinstance(command, StepSizeOptions):
        run_step_size(command, words, out)
    elif isinstance(command, RunExperiment):
        run_experiment(command, words, out)
    elif isinstance(command, EffDimOfFile):
        run_file(command, words, out)
    else:
        with joined(command.problem) as processes:
            first = processes.rank == 0
            _compute(command, words, out if first else Console(quiet=True), processes)


def _compute(
    command: Computing, words: list[str], out: Console, processes: Processes
) -> None:
    name = _NAMES[type(command)]
    options = command.problem
    folder = options.out or runs.default_folder(name, options.model, options.data)
    config = runs.configuration(name, command)
    processes.from_first(lambda: runs.open_folder(folder, config))
    built = build_problem(on_own_device(options), processes=processes)
    config["problem"] = built.problem.refresh()
    done = processes.from_first(lambda: runs.open_folder(folder, config))
    for check, text in built.checks.items():
        out.print(f"{check}: {text}", markup=False)
    arguments = _arguments(command)
    if isinstance(command, EffDim):
        arguments |= bounding(command, built.problem.num_params)
    check_settings(built.problem, **arguments)
    first = processes.rank == 0
    if command.products.explain or command.products.dry_run:
        # Every process measures: products are computed by all of them or by none.
        out.print(str(explained(built.problem, arguments)), markup=False)
    if command.products.dry_run:
        return
    if first:
        files.write_json(folder / "config.json", config)
        _print_plan(built, arguments, out)
    with showing_progress() if first else nullcontext():
        results = analyze(built.problem, folder=folder, **arguments)
    if not first:
        return
    if isinstance(command, EffDim):  # what was asked for comes first, and is the table
        results = {"effective_dimension": results["effective_dimension"]} | results
    if not done:
        page = report(
            results,
            path=folder,
            title=f"{options.model} on {options.data}: {name}",
            command=shlex.join(["curvescope", *words]),
            environment=collect_environment(seed=options.seed),
            config=config,
            checks=built.checks,
        )
    else:
        page = folder / "report.html"
    keep_spectra(folder, list(results.values()))
    for result in results.values():
        out.print()
        out.print(str(result), markup=False)
    out.print()
    peak = format_bytes(peak_memory(built.problem.device))
    out.print(f"peak memory: {peak}", markup=False)
    out.print(f"report: {page.resolve()}", markup=False)


def _print_plan(built: Built, arguments: dict[str, Any], out: Console) -> None:
    """Say what will be kept in memory, before anything is computed."""
    problem = built.problem
    free = available_memory(problem.device)
    plan = operator_of(problem, arguments).memory_plan()
    vectors = peak_vectors(problem, arguments)
    total = plan.peak + vectors * plan.vector
    out.print(f"memory: {format_bytes(free)} free; {plan.summary}", markup=False)
    text = f"{vectors} vectors at a time; planned: {format_bytes(total)}"
    out.print(f"memory: {text} besides the libraries and the model", markup=False)


def _arguments(command: Computing) -> dict[str, Any]:
    """Return the arguments of `analyze` that the options stand for."""
    pairs = getattr(command, "eigenpairs", EigenpairOptions())
    probes = getattr(command, "probes", ProbeOptions())
    dimension = getattr(command, "dimension", DimensionOptions())
    parts = [
        part
        for part in _PARTS[type(command)]
        if part != "layers" or getattr(command, "layers", True)
    ]
    both = isinstance(command, Analyze)
    return {
        "matrix": command.problem.matrix,
        "parts": parts,
        "k": pairs.k,
        "which": pairs.which or ("BE" if both else "LM"),
        "tol": pairs.tol,
        "max_matvecs": pairs.max_matvecs,
        "eigenvectors": pairs.eigenvectors,
        "num_probes": probes.num_probes,
        "num_steps": probes.num_steps,
        "z": dimension.z or None,
        "generator": torch.Generator().manual_seed(command.problem.seed),
        "compile": command.products.compile,
        "precision": command.products.precision,
        "columns": command.products.columns,
    }
