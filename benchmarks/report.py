"""A run's JSON as Markdown tables, put between markers in the documentation."""

from pathlib import Path
from typing import Any

MARKERS = "benchmarks"
MATRICES = {"hessian": "Hessian", "ggn": "GGN"}
# A float32 product that is further off than this is not the matrix's product.
WRONG = 1e-3
# As many rounds as a table promises where it says nothing.
ROUNDS = 5
# More than this of a core in others' hands, and a table says so.
QUIET = 0.1
# Rounds of which one may be left out.
_MANY = 5


def full(run: dict[str, Any]) -> str:
    """Return every table of a run, with what it ran on."""
    parts = [caption(run)]
    for problem, facts in run["problems"].items():
        parts.append(f"### {facts['description']}\n\n{_facts(run, problem, facts)}")
        parts.extend(
            _table(run, problem, matrix)
            for matrix in MATRICES
            if _rows(run, problem, matrix)
        )
    parts.extend(_remarks(run))
    return "\n\n".join(parts)


def short(run: dict[str, Any]) -> str:
    """Return one table: one column, every problem, time over one gradient."""
    shown = [(p, m) for p in run["problems"] for m in MATRICES if _rows(run, p, m)]
    shown = [(p, m) for p, m in shown if run["problems"][p]["num_batches"] == 1]
    names = _names(run, shown)
    lines = [
        line("", *(f"{MATRICES[m]}, {p}" for p, m in shown)),
        line("---", *("---:" for _ in shown)),
    ]
    for name in names:
        cells = []
        for problem, matrix in shown:
            rows = _rows(run, problem, matrix)
            row = rows.get((name, 1))
            cells.append("-" if row is None else _ratio(row, rows, 1))
        lines.append(line(name, *cells))
    head = (
        "Time of one product over the time of one gradient. Bold: the fastest, and those "
        "that the rounds do not tell apart from it. A product that is off by more than "
        "0.1 % has its error beside it."
    )
    return "\n\n".join([head, "\n".join(lines), caption(run)])


def caption(run: dict[str, Any], *, dtype: str = "float32") -> str:
    """Say what it was measured on and how disturbed."""
    environment = run["environment"]
    measured = [*run["problems"].values(), *run.get("commands", [])]
    conditions = [facts["conditions"] for facts in measured]
    others = [found["cores_busy_with_others"] for found in conditions]
    threads = environment["threads"]
    text = (
        f"Measured {run['date']} on {environment['cpu']}, {environment['cores']} cores, "
        f"{threads} thread{'s' if threads > 1 else ''}, torch {environment['torch']}, "
        f"{dtype}: medians of {ROUNDS} interleaved rounds unless noted."
    )
    if environment["clock"] == "cpu":
        text += " Times are processor time."
    if None in others or max(others, default=0.0) > QUIET:
        average = max(found["load_average_start"][0] for found in conditions)
        much = (
            "" if None in others else f", which kept up to {max(others):.1f} cores busy"
        )
        text += (
            f" **The machine was shared** with other work{much} (load average up to "
            f"{average:.1f}): trust the ratios, each of neighbours in time, more than "
            "the milliseconds."
        )
    return text


def _facts(run: dict[str, Any], problem: str, facts: dict[str, Any]) -> str:
    rows = [r for r in run["rows"] if r["problem"] == problem and r["columns"] == 1]
    gradients = sorted(r["seconds_gradient"] for r in rows)
    batches = facts["num_batches"]
    text = (
        f"{facts['num_params']:,} parameters, {facts['num_samples']} samples in "
        f"{batches} batch{'es' if batches > 1 else ''}"
    )
    if gradients:
        middle = gradients[len(gradients) // 2]
        text += f"; one gradient takes {1e3 * middle:.3g} ms"
    if facts["gradient_peak_bytes"] is not None:
        text += f" and {mib(facts['gradient_peak_bytes'])} MiB"
    return text + "."


def _table(run: dict[str, Any], problem: str, matrix: str) -> str:
    rows = _rows(run, problem, matrix)
    widths = sorted({k for _, k in rows})
    head = [f"{k} column{'s' if k > 1 else ''}" for k in widths]
    lines = [
        line(MATRICES[matrix], *head, "relative error", "peak MiB", "build s"),
        line("---", *("---:" for _ in head), "---:", "---:", "---:"),
    ]
    for name in dict.fromkeys(name for name, _ in rows):
        mine = [rows[name, k] for k in widths if (name, k) in rows]
        cells = [
            _ratio(rows[name, k], rows, k, with_error=False) + _few(rows[name, k])
            if (name, k) in rows
            else "-"
            for k in widths
        ]
        first = mine[0]
        version = f"{name} {first['version']}"
        peak = " / ".join(mib(r["peak_bytes"]) for r in mine)
        build = first["build_seconds"] + first["first_product_seconds"]
        worst = max(r["relative_error"] for r in mine)
        lines.append(line(version, *cells, _error(worst), peak, f"{build:.2f}"))
    return "\n".join(lines)


def _remarks(run: dict[str, Any]) -> list[str]:
    parts = [
        (
            "Columns: time of a product with so many columns, per column, over the time of "
            "one gradient in the same process and the same round; in bold the fastest of "
            "those within 0.1 % of the exact product, and those whose fastest round is "
            "not slower than its median. Relative error: of the first and the "
            "last column against a float64 double backward in plain PyTorch, the worst of "
            "the widths; bold where it is above 0.1 %. Peak: growth of the process's "
            "resident memory over the loaded problem, kept graphs included, one number a "
            "width; about 40 MiB of each are what torch itself loads at its first double "
            "backward. Build: making the operator and the first product with one column."
        )
    ]
    listed = [
        f"- {row['implementation']} on {row['problem']} ({MATRICES[row['matrix']]}): "
        f"{row['reason']}"
        for row in run["failed"]
    ]
    listed += [f"- {row['implementation']}: {row['reason']}" for row in run["absent"]]
    listed += [
        f"- {row['columns']} columns on {row['problem']} ({MATRICES[row['matrix']]}): "
        "not measured, the run's time was up"
        for row in run["skipped"]
    ]
    if listed:
        parts.append("Not in the tables:\n\n" + "\n".join(listed))
    return parts


def _rows(
    run: dict[str, Any], problem: str, matrix: str
) -> dict[tuple[str, int], dict[str, Any]]:
    return {
        (row["name"], row["columns"]): row
        for row in run["rows"]
        if row["problem"] == problem and row["matrix"] == matrix
    }


def _names(run: dict[str, Any], shown: list[tuple[str, str]]) -> list[str]:
    rows = [row for row in run["rows"] if (row["problem"], row["matrix"]) in shown]
    return list(dict.fromkeys(row["name"] for row in rows))


def _ratio(
    row: dict[str, Any],
    rows: dict[tuple[str, int], dict[str, Any]],
    columns: int,
    *,
    with_error: bool = True,
) -> str:
    right = [
        r["ratio"]
        for (_, k), r in rows.items()
        if k == columns and r["relative_error"] <= WRONG
    ]
    text = f"{row['ratio']:.2f}"
    if row["relative_error"] > WRONG:
        return f"{text} (error {row['relative_error']:.1g})" if with_error else text
    return f"**{text}**" if _low(row) <= min(right) else text


def _low(row: dict[str, Any]) -> float:
    """Return the smallest ratio, of many rounds the smallest but one.

    A single round whose gradient was disturbed is no reason to call two equal.
    """
    pairs = zip(
        row.get("product_seconds", ()), row.get("gradient_seconds", ()), strict=True
    )
    ratios = sorted(product / row["columns"] / gradient for product, gradient in pairs)
    return ratios[1] if len(ratios) >= _MANY else row["ratio_min"]


def _few(row: dict[str, Any]) -> str:
    return "" if row["rounds"] >= ROUNDS else f" (n={row['rounds']})"


def _error(value: float) -> str:
    text = f"{value:.1e}"
    return text if value <= WRONG else f"**{text}**"


def mib(num: int | None) -> str:
    return "?" if num is None else f"{num / 2**20:.0f}"


def line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def markers(name: str) -> tuple[str, str]:
    """Return what stands before and after the tables ``name``."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def insert(path: Path, text: str, name: str = MARKERS) -> None:
    """Replace what stands between the markers ``name`` of ``path``.

    Raises:
        ValueError: If the markers are not there once each, in order.
    """
    begin, end = markers(name)
    content = path.read_text()
    if content.count(begin) != 1 or content.count(end) != 1:
        message = f"`{path.name}` must have one `{begin}` and one `{end}`."
        raise ValueError(message)
    before, rest = content.split(begin)
    _, after = rest.split(end)
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")
