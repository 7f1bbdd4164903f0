"""The ten eigenvalues of largest magnitude, each implementation as its manual says."""

from benchmarks import top_report
from benchmarks.registry import OURS, PEERS
from benchmarks.suites.solving import best_peer, measuring, ours, rows_of, solver
from benchmarks.suites.suite import Reached, Run, Suite, at_least, at_most

K = 10
COMPILED = f"{OURS}-compiled"
UNCHECKED = f"{OURS}-unchecked"
DEAR = "resnet20-256"
ARPACK = "eigsh-curvlinops"
PYHESSIAN = f"{PEERS}.pyhessian_solvers"
EIGENTHINGS = f"{PEERS}.hessian_eigenthings"

IMPLEMENTATIONS = (
    ours(OURS, "top"),
    ours(UNCHECKED, "top_unchecked"),
    ours(COMPILED, "top_compiled", fresh=True),
    solver(ARPACK, f"{PEERS}.curvlinops", "eigsh_over", "curvlinops"),
    solver("eigsh-cola", f"{PEERS}.cola", "eigsh_over", "cola"),
    solver("eigsh-eigenthings", EIGENTHINGS, "eigsh_over", "hessian_eigenthings"),
    solver("cola-30", f"{PEERS}.cola", "top_30", "cola"),
    solver("eigenthings", EIGENTHINGS, "top", "hessian_eigenthings"),
    solver("pyhessian", PYHESSIAN, "top_one_batch", "pyhessian"),
    solver("pyhessian-loader", PYHESSIAN, "top_dataloader", "pyhessian"),
    solver("cola-100", f"{PEERS}.cola", "top_100", "cola", not_on=(DEAR,)),
    solver("eigenthings-60", EIGENTHINGS, "top_60", "hessian_eigenthings"),
)
SHARES = {"mlp": 1.0, "gpt-stories": 2.0, DEAR: 9.0}


def is_right(row: Run) -> bool:
    """Whether all ten are eigenvalues, each proven to the tolerance."""
    worst = row["verdict"].get("worst_residual")
    if worst is None or worst > top_report.TOLERANCE:
        return False
    return row["verdict"]["right"] == K


def targets(run: Run | None) -> list[Reached]:
    """Return the targets of the top ten."""
    rows = rows_of(run, DEAR)
    by_key = {row["implementation"]: row for row in rows}
    best = best_peer(rows, is_right)
    what = "top ten of ResNet20 to a residual of 1e-3"
    found = []
    mine, arpack = by_key.get(OURS), by_key.get(ARPACK)
    products = mine["products"] if mine and is_right(mine) else None
    found.append(at_most(f"{what}: products", 30, products))
    for key, words in (
        (OURS, ""),
        (UNCHECKED, ", without the check for repeated eigenvalues"),
    ):
        row = by_key.get(key)
        there = row is not None and is_right(row) and arpack is not None
        over = row["products"] / arpack["products"] if there else None
        found.append(at_most(f"{what}: products{words}, over scipy's eigsh", 1.0, over))
    for key, words, factor in ((OURS, "", 2.5), (COMPILED, ", compiled", 3.0)):
        row = by_key.get(key)
        there = row is not None and is_right(row) and best is not None
        value = best["seconds"] / row["seconds"] if there else None
        text = f"{what}{words}, against the fastest peer that reaches it"
        found.append(at_least(text, factor, value))
    return found


SUITE = Suite(
    name="top",
    implementations=IMPLEMENTATIONS,
    problems=(*SHARES, "gpt", "tiny"),
    timed=tuple(SHARES),
    quick="mlp",
    budget_minutes=12.0,
    measure=measuring(
        "top",
        judge_options={"k": K},
        grid=({"k": K, "tol": top_report.TOLERANCE},),
        shares=SHARES,
    ),
    full=top_report.full,
    marker="top-eigenvalues",
    short=top_report.short,
    targets=targets,
)
