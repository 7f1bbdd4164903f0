"""``curvescope layers``: the layers' own blocks, and the blocks between layers."""

from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console

from curvescope._core.checks import message
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
    if command.problem.matrix != "hessian":
        remedy = "Every row has the Hessian and both of its parts."
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
    saved = folder / "results"
    results: dict[str, Result] = {}
    if (saved / "layers.json").exists():
        results["layers"] = load(saved, "layers")
    else:
        results["layers"] = layer_curvature(
            problem,
            groups=groups,
            num_probes=command.num_probes,
            tol=command.tol,
            method=command.method,
            generator=torch.Generator().manual_seed(command.problem.seed),
        )
        results["layers"].save(saved, "layers")
    if command.blocks:
        results["block_norms"] = block_norms(
            problem,
            groups=groups,
            num_probes=command.num_probes,
            method=command.method,
            generator=torch.Generator().manual_seed(command.problem.seed),
        )
    return results
