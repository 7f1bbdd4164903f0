"""Whole matrices in float64, and whole commands."""

import argparse
from collections.abc import Sequence

from benchmarks import assembly_report, commands, process
from benchmarks.assembly_runner import AssemblyRunner, AssemblySettings
from benchmarks.problems import DENSE
from benchmarks.registry import OURS, PEERS, Implementation
from benchmarks.runner import Outcome
from benchmarks.suites.suite import Reached, Run, Suite, at_least, say

TORCH, JAX = f"{PEERS}.torch_matrices", f"{PEERS}.jax_matrices"


def _assembler(key: str, module: str, factory: str, venv: str) -> Implementation:
    sets = ("hessian", "hessian+ggn")
    return Implementation(
        key, module, factory, venv, sets, "benchmarks.assembly_worker"
    )


ASSEMBLERS = (
    _assembler(OURS, "benchmarks.ours", "assembly", ".venv"),
    _assembler("torch-hessian", TORCH, "hessian", ".venv"),
    _assembler("torch-jacrev-grad", TORCH, "jacrev_grad", ".venv"),
    _assembler("torch-jvp-grad", TORCH, "jvp_grad", ".venv"),
    _assembler("torch-linearize-grad", TORCH, "linearize_grad", ".venv"),
    _assembler("jax-hessian", JAX, "hessian", ".bench/jax"),
    _assembler("jax-hessian-batches", JAX, "hessian_of_batches", ".bench/jax"),
    _assembler("jax-jacrev-grad", JAX, "jacrev_grad", ".bench/jax"),
    _assembler("jax-linearize-grad", JAX, "linearize_grad", ".bench/jax"),
)
TIMED = ("tanh-920", "tanh-1050", "tanh-3776-few", "tanh-3776")


def _measure(
    options: argparse.Namespace, implementations: Sequence[Implementation]
) -> tuple[AssemblySettings, Outcome]:
    settings = AssemblySettings(
        problems=tuple(options.problems),
        matrices=tuple(options.matrices),
        rounds=options.rounds,
        most=options.most_seconds,
        budget=60 * options.budget_minutes,
    )
    threads, clock = options.threads, options.clock
    runner = AssemblyRunner(
        settings,
        implementations,
        start=lambda *a: process.start(*a, threads=threads, clock=clock),
        exact=lambda *a: process.exact_matrices(*a, threads=threads),
        say=say,
    )
    outcome = runner.run()
    wanted = [c for c in commands.COMMANDS if c.key in options.commands]
    outcome.commands, failed = commands.measure(wanted, threads=threads, say=say)
    outcome.failed += failed
    return settings, outcome


def targets(run: Run | None) -> list[Reached]:
    """Return the target of an exact Hessian."""
    rows = [] if run is None else run["rows"]
    ratios = [
        row["ratio"]
        for row in rows
        if (row["problem"], row["matrix"]) == ("tanh-1050", "hessian")
        and row["implementation"] != OURS
        and row["ratio"] is not None
        and row["relative_error"] <= assembly_report.WRONG
    ]
    what = "exact float64 Hessian, P = 1,050, n = 1,000, against the best peer"
    return [at_least(what, 10.0, min(ratios, default=None))]


SUITE = Suite(
    name="exact",
    implementations=ASSEMBLERS,
    problems=tuple(DENSE),
    timed=TIMED,
    matrices=("hessian", "hessian+ggn"),
    quick="tanh-tiny",
    budget_minutes=40.0,
    measure=_measure,
    full=assembly_report.full,
    marker=assembly_report.MARKERS,
    short=assembly_report.short,
    targets=targets,
)
