"""The run folder: results, figures, tables and the page, each file written whole."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from curvescope._core import files
from curvescope._core.checks import message
from curvescope.plots import can_plot, plot, save_figure
from curvescope.plots.style import require_matplotlib
from curvescope.report.environment import collect_environment
from curvescope.report.page import check_names, companion, write_report
from curvescope.report.tables import rows_of, to_csv
from curvescope.results import (
    BlockNorms,
    EffectiveDimension,
    Eigenpairs,
    Estimate,
    LayerTable,
    RankEstimate,
    RankReport,
    RankSweep,
    Result,
    SpectralDensity,
    VectorEstimate,
    load,
)

_NAMES: dict[type[Result], str] = {
    Eigenpairs: "eigenpairs",
    SpectralDensity: "spectral_density",
    EffectiveDimension: "effective_dimension",
    LayerTable: "layers",
    BlockNorms: "block_norms",
    RankEstimate: "rank",
}
# Whose rows are `table.csv`.
_CHIEF = (RankSweep, RankReport, Eigenpairs, EffectiveDimension)
_MANIFEST = "report.json"


def report(
    results: Mapping[str, Result] | Iterable[Result],
    *,
    path: str | Path,
    title: str | None = None,
    command: str | None = None,
    environment: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    checks: Mapping[str, Any] | None = None,
) -> Path:
    """Write a run folder: results, figures, tables and one HTML page.

    The folder holds ``results/`` (JSON and safetensors), ``figures/*.png|pdf``,
    ``table.csv`` (the first rank sweep, rank report, eigenpairs or effective dimension,
    or else the first result that has rows), one ``NAME.csv`` for each other result, ``environment.json``, ``config.json`` where a
    configuration is given, ``report.json`` and ``report.html``.

    Args:
        results: Results, or results by name; without names they are named by kind.
        path: The folder; it is made, and files of the same name are replaced.
        title: The page's title; by default what the first result is of.
        command: The command line that repeats the run.
        environment: Versions and hardware; collected here where ``None``.
        config: The run's configuration.
        checks: What shows that model, weights and data belong together.

    Returns:
        The path of ``report.html``.

    Raises:
        ValueError: If there is no result, or a name is not fit for a file.
        MissingExtraError: If matplotlib is not installed.

    Cost:
        No products; about 1 s a figure.

    Example:
        >>> report([top, density], path="runs/mine")  # doctest: +SKIP
        PosixPath('runs/mine/report.html')
    """
    named = dict(results) if isinstance(results, Mapping) else name_results(results)
    check_names(named)
    require_matplotlib()
    folder = Path(path)
    for name, result in named.items():
        result.save(folder / "results", name)
    if environment is None:
        environment = collect_environment()
    files.write_json(folder / "environment.json", environment)
    if config is not None:
        files.write_json(folder / "config.json", config)
    first = next(iter(named.values()))
    manifest = {
        "title": title or f"{first.of.matrix}: {first.of.description}",
        "command": command,
        "checks": dict(checks or {}),
        "results": list(named),
    }
    files.write_json(folder / _MANIFEST, manifest)
    return report_from_folder(folder)


def report_from_folder(path: str | Path) -> Path:
    """Draw figures, tables and page again from saved results, without computing.

    Args:
        path: A run folder with ``results/``; ``report.json``, ``config.json`` and
            ``environment.json`` are read where they exist.

    Returns:
        The path of ``report.html``.

    Raises:
        FileNotFoundError: If the folder holds no saved result.
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> report_from_folder("runs/mine")  # doctest: +SKIP
        PosixPath('runs/mine/report.html')
    """
    require_matplotlib()
    folder = Path(path)
    results = load_results(folder)
    manifest = _read(folder / _MANIFEST)
    _write_tables(folder, results)
    _write_figures(folder, results)
    first = next(iter(results.values()))
    return write_report(
        results,
        folder / "report.html",
        title=manifest.get("title") or f"{first.of.matrix}: {first.of.description}",
        command=manifest.get("command"),
        environment=_read(folder / "environment.json"),
        config=_read(folder / "config.json"),
        checks=manifest.get("checks"),
    )


def load_results(path: str | Path) -> dict[str, Result]:
    """Load the results of a run folder, in the order in which they were reported.

    Args:
        path: A run folder.

    Returns:
        Results by name.

    Raises:
        FileNotFoundError: If the folder holds no saved result.

    Example:
        >>> load_results("runs/mine")["eigenpairs"]  # doctest: +SKIP
    """
    folder = Path(path)
    found = sorted(file.stem for file in (folder / "results").glob("*.json"))
    names = _read(folder / _MANIFEST).get("results") or found
    if not names:
        remedy = "Give the folder that a run wrote."
        text = message("path", "be a run folder with saved results", folder, remedy)
        raise FileNotFoundError(text)
    return {name: load(folder / "results", name) for name in names}


def name_results(results: Iterable[Result]) -> dict[str, Result]:
    """Name results by their kind; a second one of a kind gets a number."""
    named: dict[str, Result] = {}
    for result in results:
        if not isinstance(result, Result):
            contract = "hold results only"
            raise TypeError(message("results", contract, type(result).__name__))
        base = _base_name(result)
        name, number = base, 1
        while name in named:
            number += 1
            name = f"{base}_{number}"
        named[name] = result
    return named


def _base_name(result: Result) -> str:
    if isinstance(result, (Estimate, VectorEstimate)):
        words = re.sub(r"[^a-z0-9]+", "_", result.quantity.lower()).strip("_")
        return words or "estimate"
    kind = type(result).__name__
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind).lower()
    return _NAMES.get(type(result), snake)


def _read(path: Path) -> dict[str, Any]:
    return files.read_json(path) if path.exists() else {}


def _write_tables(folder: Path, results: Mapping[str, Result]) -> None:
    rows = {name: rows_of(result) for name, result in results.items()}
    rows = {name: found for name, found in rows.items() if found}
    chief = [name for name in rows if isinstance(results[name], _CHIEF)]
    main = chief[0] if chief else next(iter(rows), None)
    for name, found in rows.items():
        file = "table.csv" if name == main else f"{name}.csv"
        files.write_text(folder / file, to_csv(found))


def _write_figures(folder: Path, results: Mapping[str, Result]) -> None:
    for name, result in results.items():
        if can_plot(result):
            figure = plot(result, **companion(result, results))
            for kind in ("png", "pdf"):
                save_figure(figure, folder / "figures" / f"{name}.{kind}")
