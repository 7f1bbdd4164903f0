"""A table of all layers, against the whole network's top eigenvalue and peers' loops."""

from benchmarks import layers_report
from benchmarks.registry import OURS, PEERS
from benchmarks.suites.solving import measuring, ours, rows_of, solver
from benchmarks.suites.suite import Reached, Run, Suite, at_most

# A peer's loop begins no further layer after so many seconds.
LIMIT = 60.0
WHOLE = f"{OURS}-whole"
TIMED = "resnet20-256"
IMPLEMENTATIONS = (
    ours(OURS, "all_layers"),
    ours(f"{OURS}-parts", "layer_curvature"),
    ours(WHOLE, "whole_top"),
    solver("curvlinops", f"{PEERS}.curvlinops", "layers", "curvlinops"),
    solver("pyhessian", f"{PEERS}.pyhessian_solvers", "layers", "pyhessian"),
)


def targets(run: Run | None) -> list[Reached]:
    """Return the target of a table of layers."""
    whole = {row["implementation"]: row for row in rows_of(run, TIMED)}.get(WHOLE)
    what = "all layers of ResNet20, over the whole network's top eigenvalue"
    value = 1 / whole["ratio"] if whole and whole["ratio"] else None
    return [at_most(what, 3.0, value)]


SUITE = Suite(
    name="layers",
    implementations=IMPLEMENTATIONS,
    problems=(TIMED, "tiny"),
    timed=(TIMED,),
    quick="tiny",
    budget_minutes=6.0,
    measure=measuring(
        "layers", judge_options={}, grid=({"limit": LIMIT},), shares={TIMED: 1.0}
    ),
    full=layers_report.full,
    marker="layers",
    targets=targets,
)
