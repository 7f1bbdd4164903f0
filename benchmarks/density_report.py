"""A run of spectral densities as Markdown tables."""

from statistics import median
from typing import Any

from benchmarks import report, top_report
from benchmarks.registry import OURS

USUAL = {"num_probes": 8, "num_steps": 50}
# Wasserstein distances over the largest eigenvalue that are to be reached.
ERRORS = (5e-3, 2e-3)


def full(run: dict[str, Any]) -> str:
    """Return every table of a run, with what it ran on."""
    parts = [report.caption(run, dtype="float64")]
    for problem, facts in run["problems"].items():
        rows = [row for row in run["rows"] if row["problem"] == problem]
        head = (
            f"{facts['num_params']:,} parameters, {facts['num_samples']} samples; "
            f"eigenvalues from {facts['smallest']:.3g} to {facts['largest']:.3g}."
        )
        parts += [
            f"### {facts['description']}\n\n{head}",
            _best(rows),
            _curve(rows),
        ]
    parts += [_explanation(), *top_report.remarks(run)]
    return "\n\n".join(parts)


def short(run: dict[str, Any]) -> str:
    """Return one table: the best times to each error, every problem."""
    shown = [(p, e) for p in run["problems"] for e in ERRORS]
    rows = {p: [r for r in run["rows"] if r["problem"] == p] for p in run["problems"]}
    heads = [
        f"{run['problems'][p]['num_params']:,} parameters, error {e:g}"
        for p, e in shown
    ]
    lines = [report.line("", *heads), report.line("---", *("---:" for _ in heads))]
    found = {place: best_times(rows[place[0]], place[1]) for place in shown}
    for key, name in _names(run["rows"]).items():
        cells = [_time_cell(found[place], key) for place in shown]
        lines.append(report.line(name, *cells))
    head = (
        "Milliseconds until the spectral density's error (its Wasserstein distance to the "
        "exact spectrum over the largest eigenvalue) is reached, and over curvescope's."
    )
    caption = report.caption(run, dtype="float64")
    return "\n\n".join([head, "\n".join(lines), caption])


def best_times(rows: list[dict[str, Any]], error: float) -> dict[str, dict[str, Any]]:
    """Return each implementation's fastest row whose median error is small enough."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if median_error(row) > error:
            continue
        key = row["implementation"]
        if key not in found or row["seconds"] < found[key]["seconds"]:
            found[key] = row
    return found


def median_error(row: dict[str, Any]) -> float:
    """Return the median over the seeds."""
    return median(verdict["error"] for verdict in row["all_verdicts"])


def _best(rows: list[dict[str, Any]]) -> str:
    heads = [f"error {error:g}: ms" for error in ERRORS]
    heads = [head for error in heads for head in (error, "by")]
    usual = "8 probes x 50 steps: ms"
    lines = [
        report.line("", *heads, usual, "error", "products", "passes", "peak MiB"),
        report.line("---", *("---:" for _ in range(len(heads) + 5))),
    ]
    found = {error: best_times(rows, error) for error in ERRORS}
    for key, name in _names(rows).items():
        cells = []
        for error in ERRORS:
            row = found[error].get(key)
            cells += [_time_cell(found[error], key), _grid_point(row)]
        mine = [r for r in rows if r["implementation"] == key]
        here = [r for r in mine if r["settings"] == USUAL]
        cells += _usual_cells(here[0]) if here else ["-"] * 4
        first = mine[0]
        peak = report.mib(first["peak_bytes"])
        lines.append(report.line(f"{name} {first['version']}", *cells, peak))
    return "\n".join(lines)


def _time_cell(found: dict[str, dict[str, Any]], key: str) -> str:
    row = found.get(key)
    if row is None:
        return "not reached"
    text = _milliseconds(row)
    ours = found.get(OURS)
    if ours is None or key == OURS:
        return f"**{text}**" if row is min(found.values(), key=_time) else text
    text = f"{text} ({row['seconds'] / ours['seconds']:.3g} x)"
    return f"**{text}**" if row is min(found.values(), key=_time) else text


def _usual_cells(row: dict[str, Any]) -> list[str]:
    text = _milliseconds(row)
    if row["implementation"] != OURS and row["ratio"] is not None:
        text += f" ({row['ratio']:.3g} x)"
    counts = f"{row['products']:g}", f"{row['passes']:g}"
    return [text + top_report.few(row), f"{median_error(row):.1e}", *counts]


def _curve(rows: list[dict[str, Any]]) -> str:
    """Return the error of every setting, and each implementation's time for it."""
    names = _names(rows)
    lines = [
        report.line(
            "probes x steps", *(f"{name}: ms, error" for name in names.values())
        ),
        report.line("---:", *("---:" for _ in names)),
    ]
    cells = {(r["implementation"], _grid_point(r)): r for r in rows}
    for point in dict.fromkeys(_grid_point(row) for row in rows):
        line = [
            f"{_milliseconds(row)}, {median_error(row):.1e}"
            if (row := cells.get((key, point)))
            else "-"
            for key in names
        ]
        lines.append(report.line(point, *line))
    return "\n".join(lines)


def _explanation() -> str:
    return (
        "Error: the Wasserstein-1 distance of the quadrature to the exact spectrum (dense, "
        "float64) over the largest eigenvalue, the median of as many seeds as rounds and "
        "one. The first columns are each implementation's fastest setting of the second "
        "table that reaches the error, and in parentheses the time over curvescope's. "
        "Times: making the operator and the whole algorithm, the median of the rounds; "
        "curvlinops is spared the products on the spectrum's ends. PyHessian's release "
        "calls `torch.eig`, which is gone; it has `torch.linalg.eig` instead, as in its "
        "repository. Passes: a block of columns reads the data once."
    )


def _names(rows: list[dict[str, Any]]) -> dict[str, str]:
    return {row["implementation"]: row["name"] for row in rows}


def _grid_point(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    return f"{row['settings']['num_probes']} x {row['settings']['num_steps']}"


def _milliseconds(row: dict[str, Any]) -> str:
    value = 1e3 * row["seconds"]
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _time(row: dict[str, Any]) -> float:
    return row["seconds"]
