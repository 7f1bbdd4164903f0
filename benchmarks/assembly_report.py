"""An assembly run's JSON as Markdown tables."""

from typing import Any

from benchmarks import report

MARKERS = "exact-matrices"
MATRICES = {"hessian": "Hessian", "hessian+ggn": "Hessian and GGN"}
# A float64 matrix that is further off than this is another matrix.
WRONG = 1e-9


def full(run: dict[str, Any]) -> str:
    """Return every table of a run, with what it ran on."""
    parts = [report.caption(run, dtype="float64")]
    for problem, facts in run["problems"].items():
        text = f"{facts['num_params']:,} parameters, {facts['num_samples']} samples."
        parts.append(f"### {facts['description']}\n\n{text}")
        parts.extend(
            _table(rows, matrix)
            for matrix in MATRICES
            if (rows := _rows(run, problem, matrix))
        )
    parts.append(_explanation())
    if run["commands"]:
        parts.append(f"### Whole commands\n\n{_commands(run)}")
    parts.extend(_remarks(run))
    return "\n\n".join(parts)


def short(run: dict[str, Any]) -> str:
    """Return one table: every problem, time over curvescope's."""
    shown = [
        (problem, matrix)
        for problem in run["problems"]
        for matrix in MATRICES
        if _rows(run, problem, matrix)
    ]
    cells = {(r["name"], r["problem"], r["matrix"]): r for r in run["rows"]}
    lines = [
        report.line("", *(_head(run, problem, matrix) for problem, matrix in shown)),
        report.line("---", *("---:" for _ in shown)),
    ]
    lines += [
        report.line(name, *(_short_cell(cells.get((name, *place))) for place in shown))
        for name in dict.fromkeys(row["name"] for row in run["rows"])
    ]
    head = (
        "Time to the whole matrices of a tanh MLP in float64 over curvescope's time, which "
        "is in milliseconds. JAX's compile time is not in it."
    )
    return "\n\n".join([head, "\n".join(lines), report.caption(run, dtype="float64")])


def _head(run: dict[str, Any], problem: str, matrix: str) -> str:
    facts = run["problems"][problem]
    return f"{MATRICES[matrix]}, P = {facts['num_params']}, n = {facts['num_samples']}"


def _short_cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    text = _milliseconds(row) if row["implementation"] == "curvescope" else _ratio(row)
    wrong = row["relative_error"] > WRONG
    return f"{text} (error {row['relative_error']:.1g})" if wrong else text


def _table(rows: list[dict[str, Any]], matrix: str) -> str:
    heads = ("ms", "over curvescope", "largest error", "peak MiB", "first call s")
    lines = [
        report.line(MATRICES[matrix], *heads, "block"),
        report.line("---", *("---:" for _ in heads), "---:"),
    ]
    right = [row["seconds"] for row in rows if row["relative_error"] <= WRONG]
    for row in rows:
        milliseconds = _milliseconds(row)
        if row["relative_error"] <= WRONG and min(row["all_seconds"]) <= min(right):
            milliseconds = f"**{milliseconds}**"
        few = "" if row["rounds"] >= report.ROUNDS else f" (n={row['rounds']})"
        error = f"{row['relative_error']:.0e}"
        first = row["build_seconds"] + row["first_seconds"]
        lines.append(
            report.line(
                f"{row['name']} {row['version']}",
                milliseconds + few,
                _ratio(row),
                error if row["relative_error"] <= WRONG else f"**{error}**",
                report.mib(row["peak_bytes"]),
                f"{first:.2f}",
                "-" if row["block"] is None else str(row["block"]),
            )
        )
    return "\n".join(lines)


def _explanation() -> str:
    return (
        "Ms: the median of the rounds, in bold the fastest, and those whose fastest round "
        "is not slower than its median. Over curvescope: the median of the rounds' own "
        "ratios. Largest error: of an entry of any of the matrices, over the largest "
        "entry, against a float64 double backward in plain PyTorch, column by column, in "
        "a process of its own. Peak: growth of a fresh process's resident memory over the "
        "loaded problem at the first call, the matrices and what the library itself loads "
        "or compiles included. First call: compiling, tracing or warming up, and one "
        "assembly; later calls are what the rounds time. Block: columns at a time, the "
        "fastest of a few, found beforehand in another process. Peers make the GGN from "
        "Jacobians of one sample each, the loss's Hessians between them, in one matrix "
        "product. `torch.func.hessian` is right on these nets; on nets with LayerNorm, "
        "BatchNorm or InstanceNorm it is wrong by several percent, without a warning."
    )


def _commands(run: dict[str, Any]) -> str:
    lines = [
        report.line("command", "seconds", "peak MiB of a process"),
        report.line("---", "---:", "---:"),
    ]
    lines += [
        report.line(
            row["description"], f"{row['seconds']:.1f}", report.mib(row["peak_bytes"])
        )
        for row in run["commands"]
    ]
    note = (
        "Each once, from the start of the interpreter to its end: 14 networks, the ranks "
        "of three matrices of each, with the predictions, figure, table and page."
    )
    return "\n".join(lines) + f"\n\n{note}"


def _remarks(run: dict[str, Any]) -> list[str]:
    listed = []
    for row in run["failed"]:
        what = row.get("description")
        if what is None:
            matrices = MATRICES[row["matrix"]]
            what = f"{row['implementation']} on {row['problem']} ({matrices})"
        listed.append(f"- {what}: {row['reason']}")
    listed += [f"- {row['implementation']}: {row['reason']}" for row in run["absent"]]
    return ["Not in the tables:\n\n" + "\n".join(listed)] if listed else []


def _rows(run: dict[str, Any], problem: str, matrix: str) -> list[dict[str, Any]]:
    return [
        row
        for row in run["rows"]
        if row["problem"] == problem and row["matrix"] == matrix
    ]


def _milliseconds(row: dict[str, Any]) -> str:
    value = 1e3 * row["seconds"]
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(row: dict[str, Any]) -> str:
    return "?" if row["ratio"] is None else f"{row['ratio']:.3g} x"
