"""Rows of results as CSV, TSV and table cells; numbers in files read back exactly."""

import csv
import io
from dataclasses import dataclass
from typing import Any

from curvescope.report.formatting import PLUS_MINUS, cell, number, with_error
from curvescope.results import RankEstimate, Result, SpectrumComparison

Row = dict[str, Any]


def rows_of(result: Result) -> list[Row]:
    """Return a result's rows; a rank's are its singular values, a row an index."""
    if isinstance(result, RankEstimate):
        return [
            {"singular_value": float(value), "kept": place < result.rank}
            for place, value in enumerate(result.singular_values)
        ]
    if isinstance(result, SpectrumComparison):
        spectra = result.eigenvalues
        longest = max((len(values) for values in spectra.values()), default=0)
        return [
            {"index": i + 1}
            | {
                label: float(values[i]) if i < len(values) else None
                for label, values in spectra.items()
            }
            for i in range(longest)
        ]
    return result.rows()


def columns_of(rows: list[Row]) -> list[str]:
    """Return the columns of all rows: a sweep may know more of later points."""
    return list(dict.fromkeys(column for row in rows for column in row))


def to_csv(rows: list[Row], *, delimiter: str = ",") -> str:
    r"""Write rows as CSV; every float as ``repr``, so that it reads back bit for bit.

    Args:
        rows: Dictionaries with the same keys.
        delimiter: A tabulator gives TSV.

    Returns:
        The text, with a head line; empty for no rows.

    Example:
        >>> to_csv([{"eigenvalue": 0.1, "converged": True}])
        'eigenvalue,converged\n0.1,True\n'
    """
    if not rows:
        return ""
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator="\n")
    columns = columns_of(rows)
    writer.writerow(columns)
    for row in rows:
        values = [row.get(column) for column in columns]
        writer.writerow([repr(v) if isinstance(v, float) else v for v in values])
    return buffer.getvalue()


@dataclass(frozen=True)
class Table:
    """A table of the page: heads, cells to read, and the exact numbers to copy."""

    name: str
    caption: str
    heads: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    marked: tuple[bool, ...]
    tsv: str


def make_table(name: str, caption: str, rows: list[Row]) -> Table | None:
    """Make a page's table; a column ``x_error`` is read beside its ``x``."""
    if not rows:
        return None
    columns = [c for c in columns_of(rows) if not _is_error(c, rows[0])]
    cells = tuple(tuple(_cell(row, column) for column in columns) for row in rows)
    heads = tuple(
        column.replace("_", " ")
        + (f" {PLUS_MINUS} error" if _has_error(column, rows) else "")
        for column in columns
    )
    return Table(
        name=name,
        caption=caption,
        heads=heads,
        cells=cells,
        numeric=tuple(_is_numeric(rows, column) for column in columns),
        marked=tuple(row.get("converged") is False for row in rows),
        tsv=to_csv(rows, delimiter="\t"),
    )


def _is_numeric(rows: list[Row], column: str) -> bool:
    """Tell whether the first value of a column that is there at all is a number."""
    values = (row.get(column) for row in rows)
    first = next((value for value in values if value is not None), None)
    return type(first) in (int, float)


def _is_error(column: str, row: Row) -> bool:
    return column.endswith("_error") and column.removesuffix("_error") in row


def _has_error(column: str, rows: list[Row]) -> bool:
    return f"{column}_error" in rows[0]


def _cell(row: Row, column: str) -> str:
    value = row.get(column)
    if f"{column}_error" in row and value is not None:
        return with_error(value, row[f"{column}_error"])
    if column == "relative_residual" and value is not None:
        return number(value, digits=2)
    return cell(value)
