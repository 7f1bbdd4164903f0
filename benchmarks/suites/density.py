"""The spectral density, at equal error to the exact spectrum."""

from benchmarks import density_report
from benchmarks.registry import OURS, PEERS
from benchmarks.suites.solving import measuring, ours, rows_of, solver
from benchmarks.suites.suite import Reached, Run, Suite, at_least

IMPLEMENTATIONS = (
    ours(OURS, "density"),
    solver("pyhessian", f"{PEERS}.pyhessian_solvers", "density", "pyhessian"),
    solver("curvlinops", f"{PEERS}.curvlinops", "density", "curvlinops"),
    solver("cola", f"{PEERS}.cola", "density", "cola"),
    solver(
        "eigenthings",
        f"{PEERS}.hessian_eigenthings",
        "density",
        "hessian_eigenthings",
    ),
)
# Probes and steps.
POINTS = (
    *((1, 20), (1, 50), (1, 100), (2, 25), (2, 50), (4, 25), (4, 50)),
    *((8, 50), (16, 25), (16, 50), (16, 100)),
)
GRID = tuple({"num_probes": p, "num_steps": s} for p, s in POINTS)
QUICK = ({"num_probes": 2, "num_steps": 20}, density_report.USUAL)
SMALL = "spectrum-1158"
SHARES = {SMALL: 1.0, "spectrum-5122": 1.5}


def targets(run: Run | None) -> list[Reached]:
    """Return the targets of densities."""
    found = []
    for problem in SHARES:
        rows = rows_of(run, problem)
        for error in density_report.ERRORS:
            what = f"density to an error of {error:g}, {problem}, against the best peer"
            best = density_report.best_times(rows, error)
            mine = best.pop(OURS, None)
            peers = [row["seconds"] for row in best.values()]
            value = min(peers) / mine["seconds"] if mine and peers else None
            found.append(at_least(what, 2.0, value))
    usual = {
        row["implementation"]: row
        for row in rows_of(run, SMALL)
        if row["settings"] == density_report.USUAL
    }
    value = usual["pyhessian"]["ratio"] if "pyhessian" in usual else None
    found.append(at_least("8 probes x 50 steps against PyHessian", 5.0, value))
    return found


SUITE = Suite(
    name="density",
    implementations=IMPLEMENTATIONS,
    problems=(*SHARES, "spectrum-tiny"),
    timed=tuple(SHARES),
    quick=SMALL,
    budget_minutes=6.0,
    measure=measuring(
        "density",
        judge_options={},
        grid=GRID,
        quick_grid=QUICK,
        shares=SHARES,
        judge_all=True,
    ),
    full=density_report.full,
    marker="density",
    short=density_report.short,
    targets=targets,
)
