"""A run of tables of layers as Markdown."""

from typing import Any

from benchmarks import report, top_report


def full(run: dict[str, Any]) -> str:
    """Return the table of a run, with what it ran on."""
    parts = [report.caption(run)]
    for problem, facts in run["problems"].items():
        rows = [row for row in run["rows"] if row["problem"] == problem]
        head = f"{facts['num_params']:,} parameters, {facts['num_samples']} samples."
        parts += [f"### {facts['description']}\n\n{head}", _table(rows)]
    parts += [_explanation(), *top_report.remarks(run)]
    return "\n\n".join(parts)


def _table(rows: list[dict[str, Any]]) -> str:
    heads = (
        "seconds",
        "layers",
        "over curvescope",
        "gradients",
        "products",
        "peak MiB",
        "largest error",
    )
    lines = [report.line("", *heads), report.line("---", *("---:" for _ in heads))]
    for row in rows:
        error = row["verdict"]["largest_error"]
        lines.append(
            report.line(
                f"{row['name']} {row['version']}",
                f"{row['seconds']:.3g}" + top_report.few(row),
                _layers(row),
                _ratio(row),
                f"{row['gradients']:.0f}",
                f"{row['products']:g}",
                report.mib(row["peak_bytes"]),
                "-" if error is None else f"{error:.1e}",
            )
        )
    return "\n".join(lines)


def _is_cut(row: dict[str, Any]) -> bool:
    return row.get("done", 0) < row.get("of", 0)


def _layers(row: dict[str, Any]) -> str:
    if _is_cut(row):
        return f"**{row['done']} of {row['of']}**"
    return str(len(row["verdict"]["values"])) if "of" in row else _found(row)


def _found(row: dict[str, Any]) -> str:
    names = list(row["verdict"]["values"])
    return "whole" if names == ["(all)"] else str(len(names))


def _ratio(row: dict[str, Any]) -> str:
    """Return the time over curvescope's; of a loop that was cut, what all would take."""
    text = top_report.ratio(row)
    if not _is_cut(row) or row["ratio"] is None:
        return text
    return f"about {row['ratio'] * row['of'] / row['done']:.2g} x"


def _explanation() -> str:
    return (
        "curvescope's tables have each layer's norm, trace and top eigenvalue, with their "
        "errors (`layer_curvature` of the block's two parts as well, and to a tolerance of "
        "1e-6 where it is exact); the loops have the top eigenvalue only, to their "
        "defaults' tolerance. Products are with whole matrix and blocks alike. A "
        "loop that would take minutes begins no further layer after a while: its layers "
        "are spread over the network, and what all would take is extrapolated. Largest "
        "error: of the top eigenvalues of the first, the middle and the last layer, of "
        "those that were computed, against float64 ones of plain PyTorch's double backward."
    )
