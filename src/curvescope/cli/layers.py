"""``curvescope layers``: the layers' own blocks, in parts or by spectrum, and others."""

from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console

from curvescope._core.checks import message
from curvescope.analysis.all_layers import all_layers
from curvescope.analysis.block_norms import block_norms
from curvescope.analysis.layers import layer_curvature
from curvescope.cli.measuring import run_measured
from curvescope.cli.options import Layers
from curvescope.problem import Problem
from curvescope.results import Result, load


def run_layers(command: Layers, words: list[str], out: Console) -> None:
    """Measure the layers, or return what lies in the folder.

    Raises:
        ValueError: If an option is wrong, or the folder is another run's.
    """
    sweep = command.k is not None or command.density
    if command.problem.matrix != "hessian" and (not sweep or command.blocks):
        remedy = "The table has the Hessian and both of its parts; `--k 1` has a GGN."
        got = command.problem.matrix
        raise ValueError(message("--matrix", "be left out", got, remedy))
    groups = read_groups(command.groups)

    def measure(problem: Problem, folder: Path) -> Mapping[str, Result]:
        return _measure(command, problem, groups, folder)

    run_measured("layers", command, measure, words, out)


def read_groups(words: tuple[str, ...]) -> dict[str, tuple[str, ...]] | None:
    """Read ``NAME=GLOB,GLOB`` words; ``None`` where there are none.

    Raises:
        ValueError: If a word has no name or no glob, or a name is there twice.
    """
    groups: dict[str, tuple[str, ...]] = {}
    for word in words:
        name, _, globs = word.partition("=")
        patterns = tuple(glob for glob in globs.split(",") if glob)
        if not name or not patterns or name in groups:
            contract = "be NAME=GLOB,GLOB with a name of its own each"
            raise ValueError(message("--groups", contract, word))
        groups[name] = patterns
    return groups or None


def _measure(
    command: Layers,
    problem: Problem,
    groups: dict[str, tuple[str, ...]] | None,
    folder: Path,
) -> dict[str, Result]:
    """Measure what is asked; a table that an earlier run left is not made again."""
    sweep = command.k is not None or command.density
    name = "layer_spectra" if sweep else "layers"
    saved = folder / "results"
    results: dict[str, Result] = {}
    if (saved / f"{name}.json").exists():
        results[name] = load(saved, name)
    else:
        found = _swept if sweep else _table
        results[name] = found(command, problem, groups)
        results[name].save(saved, name)
    if command.blocks:
        results["block_norms"] = block_norms(
            problem,
            groups=groups,
            num_probes=command.num_probes,
            method=command.method,
            generator=torch.Generator().manual_seed(command.problem.seed),
        )
    return results


def _table(
    command: Layers, problem: Problem, groups: dict[str, tuple[str, ...]] | None
) -> Result:
    return layer_curvature(
        problem,
        groups=groups,
        num_probes=command.num_probes,
        tol=command.tol,
        method=command.method,
        generator=torch.Generator().manual_seed(command.problem.seed),
    )


def _swept(
    command: Layers, problem: Problem, groups: dict[str, tuple[str, ...]] | None
) -> Result:
    if command.method != "auto":
        remedy = "With `--k` or `--density` every block goes the way that is cheapest."
        raise ValueError(message("--method", "be left out", command.method, remedy))
    return all_layers(
        problem,
        k=1 if command.k is None else command.k,
        matrix=command.problem.matrix,
        density=command.density,
        groups=groups,
        num_probes=command.num_probes,
        num_steps=command.num_steps,
        tol=command.tol,
        generator=torch.Generator().manual_seed(command.problem.seed),
    )
