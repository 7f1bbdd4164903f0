"""What the page says about each kind of result: a title, and how to read the figure.

A family of results is one file here; its new kind is one entry in the file's KINDS.
"""

from curvescope.report import (
    dimensions,
    init_kinds,
    initialisation,
    landscapes,
    layers,
    posteriors,
    ranks,
    spectra,
    trainings,
)
from curvescope.report.kind import Kind
from curvescope.results import Result

_MAX_TABLE = 500
_FAMILIES = (
    spectra,
    layers,
    ranks,
    landscapes,
    dimensions,
    posteriors,
    trainings,
    init_kinds,
    initialisation,
)
_KINDS = {cls: kind for family in _FAMILIES for cls, kind in family.KINDS.items()}
_OTHER = Kind(
    title=lambda r: r.headline(),
    reading=lambda _: "",
    sureness=lambda _: "",
)


def kind_of(result: Result) -> Kind:
    """Return how to present a result; any other kind shows its line and its rows."""
    return _KINDS.get(type(result), _OTHER)


def shows_table(result: Result, num_rows: int) -> bool:
    """Tell whether the page prints the rows, or leaves them to the file."""
    return kind_of(result).show_table and 0 < num_rows <= _MAX_TABLE
