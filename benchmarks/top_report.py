"""A run of the top eigenvalues as Markdown tables."""

from typing import Any

from benchmarks import report
from benchmarks.registry import OURS

TOLERANCE = 1e-3
WANTED = 10


def full(run: dict[str, Any]) -> str:
    """Return every table of a run, with what it ran on."""
    parts = [report.caption(run)]
    for problem, facts in run["problems"].items():
        rows = [row for row in run["rows"] if row["problem"] == problem]
        parts += [f"### {facts['description']}\n\n{_facts(facts)}", _table(rows)]
    parts += [_explanation(), *remarks(run)]
    return "\n\n".join(parts)


def short(run: dict[str, Any]) -> str:
    """Return one table: the last problem, the dearest, and what is right of it."""
    (problem, facts) = list(run["problems"].items())[-1]
    rows = [row for row in run["rows"] if row["problem"] == problem]
    heads = ("seconds", "over curvescope", "products", "worst residual", "right")
    lines = [
        report.line("", *heads),
        report.line("---", *("---:" for _ in heads)),
    ]
    lines += [
        report.line(
            row["name"],
            _seconds(row),
            ratio(row),
            f"{row['products']:g}",
            _residual(row),
            _right(row),
        )
        for row in sorted(rows, key=lambda row: row["seconds"])
    ]
    head = (
        f"The ten eigenvalues of largest magnitude, {facts['description']}: wrong ones "
        "are counted, not left out."
    )
    return "\n\n".join([head, "\n".join(lines), report.caption(run)])


def _facts(facts: dict[str, Any]) -> str:
    values = ", ".join(f"{v:.4g}" for v in facts["exact_values"][:WANTED])
    worst = max(facts["exact_residuals"][:WANTED])
    batches = facts["num_batches"]
    return (
        f"{facts['num_params']:,} parameters, {facts['num_samples']} samples in {batches} "
        f"batch{'es' if batches > 1 else ''}. Exact: {values} (residuals up to "
        f"{worst:.0e})."
    )


def _table(rows: list[dict[str, Any]]) -> str:
    heads = (
        "seconds",
        "over curvescope",
        "gradients",
        "products",
        "passes",
        "peak MiB",
        "worst residual",
        "largest error",
        "right",
        "duplicates",
    )
    lines = [
        report.line("", *heads),
        report.line("---", *("---:" for _ in heads)),
    ]
    fastest = min((row["seconds"] for row in rows if _is_right(row)), default=None)
    for row in rows:
        seconds = _seconds(row)
        if _is_right(row) and min(row["all_seconds"]) <= fastest:
            seconds = f"**{seconds}**"
        lines.append(
            report.line(
                f"{row['name']} {row['version']}",
                seconds + few(row),
                ratio(row),
                f"{row['gradients']:.0f}",
                f"{row['products']:g}",
                f"{row['passes']:g}",
                report.mib(row["peak_bytes"]),
                _residual(row),
                f"{row['verdict']['largest_error']:.1e}",
                _right(row),
                _duplicates(row),
            )
        )
    values = [
        f"- {row['name']}: {', '.join(f'{v:.4g}' for v in row['verdict']['values'])}"
        for row in rows
        if row["verdict"]["right"] < WANTED
    ]
    text = "\n".join(lines)
    if values:
        text += "\n\nWhat was returned where not all ten are right:\n\n" + "\n".join(
            values
        )
    return text


def _explanation() -> str:
    return (
        "Seconds: making the operator and the whole algorithm, the median of the rounds, "
        "in bold the fastest of those whose ten are all right to the tolerance, and those "
        "whose fastest round is not slower; each round has its own random start. What "
        "is compiled is so anew in every round, in a process of its own. Over "
        "curvescope: the median of the rounds' own ratios. Gradients: the seconds over "
        "those of one gradient of the same data in the same process. Products and "
        "passes over the data are counted, not claimed. Peak: growth of a fresh "
        "process's resident memory over the loaded problem. Worst residual: "
        "||Hv - lambda v|| / |lambda|, the worst of the ten, with the float64 Hessian of "
        "plain PyTorch's double backward. Largest error: of the i-th largest value against "
        "the i-th exact one. Right: values within 0.1 % of one of the exact ten, each "
        "used once. Duplicates: values that repeat an eigenvalue that the matrix has only "
        "once; in parentheses how many wrong values the implementation itself calls "
        "converged. `which` is largest magnitude everywhere; CoLA means by it the "
        "largest algebraically."
    )


def remarks(run: dict[str, Any]) -> list[str]:
    """Return what is not in the tables, with its reasons."""
    listed = [
        f"- {row['implementation']} on {row['problem']}: {row['reason']}"
        for row in run["failed"]
    ]
    listed += [f"- {row['implementation']}: {row['reason']}" for row in run["absent"]]
    return ["Not in the tables:\n\n" + "\n".join(listed)] if listed else []


def _is_right(row: dict[str, Any]) -> bool:
    verdict = row["verdict"]
    worst = verdict.get("worst_residual", float("inf"))
    return verdict["right"] == WANTED and worst <= TOLERANCE


def _seconds(row: dict[str, Any]) -> str:
    value = row["seconds"]
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def ratio(row: dict[str, Any]) -> str:
    """Return the time over curvescope's."""
    if row["implementation"] == OURS:
        return "1"
    return "?" if row["ratio"] is None else f"{row['ratio']:.3g} x"


def few(row: dict[str, Any]) -> str:
    """Say how many rounds, where they are fewer than promised."""
    return "" if row["rounds"] >= report.ROUNDS else f" (n={row['rounds']})"


def _residual(row: dict[str, Any]) -> str:
    worst = row["verdict"].get("worst_residual")
    if worst is None:
        return "?"
    return f"{worst:.1e}" if worst <= TOLERANCE else f"**{worst:.1e}**"


def _right(row: dict[str, Any]) -> str:
    right = row["verdict"]["right"]
    return f"{right}" if right == WANTED else f"**{right}**"


def _duplicates(row: dict[str, Any]) -> str:
    verdict = row["verdict"]
    text = f"{verdict['duplicates']}"
    if verdict["duplicates"]:
        text = f"**{text}**"
    claimed = verdict["wrong_but_claimed"]
    return f"{text} ({claimed})" if claimed else text
