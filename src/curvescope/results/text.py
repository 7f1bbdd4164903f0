"""Tables for a terminal and for a notebook."""

from typing import Any


def format_number(value: Any) -> str:
    """Write one table cell."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def format_table(
    headline: str, rows: list[dict[str, Any]], notes: tuple[str, ...], cost: str
) -> str:
    """Lay out a result for a terminal."""
    lines = [headline]
    if rows:
        columns = list(rows[0])
        cells = [[format_number(row[c]) for c in columns] for row in rows]
        widths = [
            max(map(len, (c, *col)))
            for c, col in zip(columns, zip(*cells, strict=True), strict=True)
        ]
        lines.append(
            "  ".join(c.rjust(w) for c, w in zip(columns, widths, strict=True))
        )
        lines += [
            "  ".join(c.rjust(w) for c, w in zip(r, widths, strict=True)) for r in cells
        ]
    lines += [f"note: {note}" for note in notes]
    lines.append(f"cost: {cost}")
    return "\n".join(lines)


def html_table(headline: str, rows: list[dict[str, Any]]) -> str:
    """Lay out a result for a notebook."""

    def escape(text: object) -> str:
        return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    parts = [f"<p>{escape(headline)}</p>"]
    if rows:
        head = "".join(f"<th>{escape(c)}</th>" for c in rows[0])
        body = "".join(
            "<tr>"
            + "".join(f"<td>{escape(format_number(v))}</td>" for v in row.values())
            + "</tr>"
            for row in rows
        )
        parts.append(
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )
    return "".join(parts)


def thinned(
    rows: list[dict[str, Any]], most: int = 24
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return evenly spaced rows that fit a terminal, and a note where some are missing.

    Example:
        >>> thinned([{"n": n} for n in range(5)], most=3)
        ([{'n': 0}, {'n': 2}, {'n': 4}], ('3 of 5 rows; all are in the saved tables',))
    """
    if len(rows) <= most:
        return rows, ()
    places = [round(i * (len(rows) - 1) / (most - 1)) for i in range(most)]
    note = f"{most} of {len(rows)} rows; all are in the saved tables"
    return [rows[place] for place in places], (note,)
