"""One self-contained HTML page from results: no network, no file beside it."""

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from curvescope._core import files
from curvescope._core.checks import message
from curvescope._core.memory import format_bytes
from curvescope.plots import can_plot, figure_size, plot, to_svg
from curvescope.plots.style import WIDE, require_matplotlib
from curvescope.report.formatting import count, duration, flatten, number
from curvescope.report.kinds import kind_of, shows_table
from curvescope.report.summary import cards
from curvescope.report.tables import Table, make_table, rows_of, to_csv
from curvescope.results import (
    CorrelationTable,
    Cost,
    Eigenpairs,
    Estimate,
    MeasureComparison,
    Provenance,
    Result,
    SpectralDensity,
)

_NARROW = 3.9


@dataclass(frozen=True)
class Section:
    """One section of the page; ``wide`` and ``narrow`` are drawings for two widths."""

    anchor: str
    title: str
    reading: str
    sureness: str
    headline: str
    notes: tuple[str, ...]
    settings: list[tuple[str, str]]
    cost: str
    table: Table | None
    wide: str = ""
    narrow: str = ""
    data_name: str = ""
    data_uri: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Subject:
    """One matrix that the page is about."""

    description: str
    facts: list[tuple[str, str]]
    parameters: list[tuple[str, str, str]]


def write_report(
    results: Mapping[str, Result],
    path: str | Path,
    *,
    title: str,
    command: str | None = None,
    environment: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    checks: Mapping[str, Any] | None = None,
) -> Path:
    """Write the page that says what was computed, how sure it is and what it cost.

    The page holds its figures, styles and data inside; it opens from disk, follows the
    reader's dark mode, and its policy forbids every connection and foreign script.

    Args:
        results: Results by name; the names become anchors and file names.
        path: The file to write, or a folder, which then gets a ``report.html``.
        title: The page's title.
        command: The command line that repeats the run.
        environment: Versions and hardware, such as `collect_environment` returns.
        config: The run's configuration.
        checks: What shows that model, weights and data belong together, such as loss
            and accuracy on the data used.

    Returns:
        The path of the page.

    Raises:
        ValueError: If there is no result, or a name is not fit for a file.
        MissingExtraError: If matplotlib is not installed.

    Cost:
        No products; two drawings a figure, about 0.3 s each.

    Example:
        >>> write_report({"top": pairs}, "report.html", title="MLP")  # doctest: +SKIP
        PosixPath('report.html')
    """
    check_names(results)
    require_matplotlib()
    path = Path(path)
    if path.is_dir() or path.suffix.lower() not in (".html", ".htm"):
        path = path / "report.html"
    html = render(
        results,
        title=title,
        command=command,
        environment=environment,
        config=config,
        checks=checks,
    )
    return files.write_text(path, html)


def check_names(results: Mapping[str, Result]) -> None:
    """Refuse an empty report, and names that are no good as file names."""
    if not results:
        raise ValueError(message("results", "hold at least one result", "none"))
    for name in results:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) or name == "table":
            contract = "be named by letters, digits, `_`, `-` and `.`, and not `table`"
            raise ValueError(message("results", contract, repr(name)))


def render(
    results: Mapping[str, Result],
    *,
    title: str,
    command: str | None,
    environment: Mapping[str, Any] | None,
    config: Mapping[str, Any] | None,
    checks: Mapping[str, Any] | None,
) -> str:
    """Return the page's text."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("curvescope.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = templates.get_template("script.js").render()
    digest = hashlib.sha256(script.encode()).digest()
    return templates.get_template("report.html.j2").render(
        title=title,
        cards=cards(results),
        warnings=_warnings(results),
        subjects=_subjects(result.of for result in results.values()),
        sections=_sections(results),
        costs=_costs(results),
        seed=_seed(results),
        checks=flatten(checks or {}),
        config=flatten(config or {}),
        environment=flatten(environment or {}),
        command=command,
        script=script,
        script_hash=base64.b64encode(digest).decode(),
    )


def _warnings(results: Mapping[str, Result]) -> list[tuple[str, str]]:
    """Collect what a reader must see before any number: notes, and missing certainty."""
    found = []
    for name, result in results.items():
        texts = list(result.notes)
        if isinstance(result, Eigenpairs) and not texts:
            missing = int((~result.converged).sum())
            if missing:
                texts.append(f"{missing} of {len(result.converged)} did not converge")
        texts += kind_of(result).warnings(result)
        found += [(name, text) for text in dict.fromkeys(texts)]
    return found


def _seed(results: Mapping[str, Result]) -> str:
    """Return the seed that all random results share, for the head of the page."""
    seeds = {str(r.settings["seed"]) for r in results.values() if "seed" in r.settings}
    return seeds.pop() if len(seeds) == 1 else ""


def _subjects(sources: Iterable[Provenance]) -> list[Subject]:
    distinct = {(of.matrix, of.fingerprint, of.description): of for of in sources}
    return [_subject(of) for of in distinct.values()]


def _subject(of: Provenance) -> Subject:
    facts = [
        ("Matrix", of.matrix),
        ("Model, loss, data", of.description),
        ("Parameters", count(of.num_params)),
    ]
    if of.num_samples is not None:
        facts.append(("Samples", count(of.num_samples)))
    if of.reduction:
        facts.append(("Reduction", of.reduction))
    facts.append(("Unit of an eigenvalue", of.unit))
    if of.denominator is not None:
        facts.append(("Summed loss divided by", number(of.denominator, digits=10)))
    if of.fingerprint:
        facts.append(("Fingerprint", of.fingerprint))
    parameters = [
        (s.name, " \u00d7 ".join(map(str, s.shape)) or "scalar", count(s.num_params))
        for s in of.slices
    ]
    return Subject(description=of.description, facts=facts, parameters=parameters)


def _sections(results: Mapping[str, Result]) -> list[Section]:
    sections: list[Section] = []
    estimates = {n: r for n, r in results.items() if isinstance(r, Estimate)}
    for name, result in results.items():
        if not isinstance(result, Estimate):
            sections.append(_section(name, result, results))
        elif name == next(iter(estimates)):
            sections.append(_estimate_section(estimates))
    return sections


def _section(name: str, result: Result, results: Mapping[str, Result]) -> Section:
    kind, rows = kind_of(result), rows_of(result)
    table = None
    if shows_table(result, len(rows)):
        table = make_table(name, f"Unit of an eigenvalue: {result.of.unit}", rows)
    wide, narrow = _drawings(name, result, results)
    data = base64.b64encode(to_csv(rows).encode()).decode()
    return Section(
        anchor=name,
        title=kind.title(result),
        reading=kind.reading(result) if wide else "",
        sureness=kind.sureness(result),
        headline=_sentence(kind.headline(result)),
        notes=result.notes,
        settings=flatten(result.settings),
        cost=cost_line(result.cost),
        table=table,
        wide=wide,
        narrow=narrow,
        data_name=f"{name}.csv" if rows else "",
        data_uri=f"data:text/csv;charset=utf-8;base64,{data}" if rows else "",
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _estimate_section(estimates: Mapping[str, Estimate]) -> Section:
    """Put all single numbers into one table: each is one row."""
    rows = [row for result in estimates.values() for row in result.rows()]
    settings = [
        (f"{name}.{key}", text)
        for name, result in estimates.items()
        for key, text in flatten(result.settings)
    ]
    notes = [note for result in estimates.values() for note in result.notes]
    first = next(iter(estimates))
    data = base64.b64encode(to_csv(rows).encode()).decode()
    unit = estimates[first].of.unit
    return Section(
        anchor=first,
        title="Traces, norms and other single numbers",
        reading="",
        sureness="Intervals are 95 % intervals by Student's t over the random probes; a "
        "standard error of 0 marks an exact value.",
        headline="",
        notes=tuple(dict.fromkeys(notes)),
        settings=settings,
        cost="; ".join(f"{n}: {cost_line(r.cost)}" for n, r in estimates.items()),
        table=make_table(first, f"Unit of an eigenvalue: {unit}", rows),
        data_name="estimates.csv",
        data_uri=f"data:text/csv;charset=utf-8;base64,{data}",
        aliases=tuple(estimates)[1:],
    )


def companion(result: Result, results: Mapping[str, Result]) -> dict[str, Any]:
    """Return what a figure shows besides its result: certified pairs, correlations."""
    if isinstance(result, MeasureComparison):
        for other in results.values():
            if isinstance(other, CorrelationTable):
                return {"correlations": other}
    if isinstance(result, SpectralDensity):
        for other in results.values():
            same = (other.of.matrix, other.of.fingerprint) == (
                result.of.matrix,
                result.of.fingerprint,
            )
            if isinstance(other, Eigenpairs) and same:
                return {"eigenpairs": other}
    return {}


def _drawings(
    name: str, result: Result, results: Mapping[str, Result]
) -> tuple[str, str]:
    if not can_plot(result):
        return "", ""
    prefix = "f-" + "".join(c if c.isalnum() else "-" for c in name)
    drawings = []
    for variant, width in (("wide", WIDE[0]), ("narrow", _NARROW)):
        size = figure_size(result, width)
        figure = plot(result, size=size, title="", **companion(result, results))
        label = kind_of(result).title(result)
        drawings.append(to_svg(figure, prefix=f"{prefix}-{variant}", label=label))
    return drawings[0], drawings[1]


def cost_line(cost: Cost) -> str:
    """Write a cost for a reader."""
    memory = (
        f", peak memory {format_bytes(cost.peak_memory)}" if cost.peak_memory else ""
    )
    return (
        f"{count(cost.num_matvecs)} matrix products in {count(cost.num_data_passes)} "
        f"passes over the data, {duration(cost.seconds)}{memory}"
    )


def _costs(results: Mapping[str, Result]) -> Table | None:
    rows = [_cost_row(name, result.cost) for name, result in results.items()]
    if len(rows) > 1:
        total = Cost()
        for result in results.values():
            total = total + result.cost
        rows.append(_cost_row("together", total))
    return make_table("cost", "Products count columns; a block shares a pass.", rows)


def _cost_row(name: str, cost: Cost) -> dict[str, Any]:
    memory = "\u2013" if cost.peak_memory is None else format_bytes(cost.peak_memory)
    return {
        "result": name,
        "num_matvecs": cost.num_matvecs,
        "num_data_passes": cost.num_data_passes,
        "seconds": cost.seconds,
        "peak_memory": memory,
    }
