"""Figures into files: PNG and PDF for papers, SVG that a page can recolour.

The SVG's colours become CSS variables with the light colour as fallback, so that one
drawing serves the light and the dark page.
"""

from __future__ import annotations

import io
import re
import warnings
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from curvescope._core import files
from curvescope._core.checks import message
from curvescope.plots.style import PALETTE, house_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMATS = ("png", "pdf", "svg")
_VARIABLES = {color: name for name, color in PALETTE.items()}
_COLOR = re.compile(r"#[0-9a-f]{6}\b")


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, PDF or SVG, by the path's ending, atomically.

    Args:
        figure: What a function of this folder returned.
        path: The file; its ending is one of ``.png``, ``.pdf`` and ``.svg``.

    Returns:
        The path.

    Raises:
        ValueError: If the ending is none of these.

    Example:
        >>> save_figure(plot_eigenvalues(pairs), "eigenvalues.pdf")  # doctest: +SKIP
        PosixPath('eigenvalues.pdf')
    """
    path = Path(path)
    kind = path.suffix.lstrip(".").lower()
    if kind not in _FORMATS:
        text = message("path", "end in .png, .pdf or .svg", repr(path.name))
        raise ValueError(text)
    # Without dates the same result gives the same file.
    metadata = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[kind]
    buffer = io.BytesIO()
    with house_style():
        figure.savefig(buffer, format=kind, metadata=metadata)
    return files.write_bytes(path, buffer.getvalue())


def to_svg(figure: Figure, *, prefix: str, label: str = "") -> str:
    """Return a figure as an ``<svg>`` element for the inside of an HTML page.

    It has no background, no width and height of its own (the page sets them), colours
    as ``var(--figure-NAME, #light)``, and no id without ``prefix``, so that several can
    stand in one page.

    Args:
        figure: What a function of this folder returned.
        prefix: Letters, digits and ``-``; different for each figure of a page.
        label: What a screen reader says.

    Returns:
        The element's text.

    Raises:
        ValueError: If ``prefix`` holds other characters.

    Example:
        >>> svg = to_svg(plot_eigenvalues(pairs), prefix="top")  # doctest: +SKIP
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", prefix):
        text = message(
            "prefix", "be letters, digits and -, a letter first", repr(prefix)
        )
        raise ValueError(text)
    buffer = io.StringIO()
    with house_style(), warnings.catch_warnings():
        # The browser's fonts set the text; a glyph that DejaVu lacks is no matter.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        figure.savefig(buffer, format="svg", facecolor="none", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # This rule's selector is `*`: inside a page it would reach everything else.
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = _prefix_ids(svg, prefix)
    svg = re.sub(r'style="[^"]*"', _recolour, svg)
    return _open_tag(svg, label)


def _prefix_ids(svg: str, prefix: str) -> str:
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)


def _recolour(match: re.Match[str]) -> str:
    """Turn a style's colours into variables, and its font into the page's."""

    def variable(color: re.Match[str]) -> str:
        name = _VARIABLES.get(color.group())
        return f"var(--figure-{name}, {color.group()})" if name else color.group()

    style = _COLOR.sub(variable, match.group())
    return re.sub(r"font: ([^;']*?)'[^;\"]*", r"font: \1sans-serif", style)


def _open_tag(svg: str, label: str) -> str:
    head, rest = svg.split(">", 1)
    view = re.search(r'viewBox="[^"]+"', head)
    if view is None:
        raise AssertionError
    attributes = (
        f'{view.group()} xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'role="img" aria-label="{escape(label)}"'
    )
    return f"<svg {attributes}>{rest.strip()}"
