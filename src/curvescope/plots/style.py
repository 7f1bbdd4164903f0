"""The look of all figures: one palette, one set of sizes, one way to start a figure.

The colours are Okabe and Ito's, which stay apart for every kind of colour blindness;
whatever colour tells is told by a marker or a line style too.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from curvescope._core.errors import MissingExtraError
from curvescope.results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Every colour of a figure is one of these, so that a page can exchange them (dark mode).
PALETTE = {
    "ink": "#1f2328",
    "muted": "#656d76",
    "line": "#afb8c1",
    "grid": "#e4e8ec",
    "surface": "#ffffff",
    "blue": "#0072b2",
    "vermilion": "#d55e00",
    "green": "#009e73",
    "purple": "#a0458a",
    # The published colours of the three ranks; too light on white by themselves, so each
    # has a dark edge (contrast above 4.5), which is what text and thin lines use.
    "hessian": "#bc5090",
    "hessian-edge": "#8a2f66",
    "functional": "#ff6361",
    "functional-edge": "#b3261e",
    "ggn": "#ffa600",
    "ggn-edge": "#8a5a00",
}

WIDE = (6.8, 3.9)
BAND_ALPHA = 0.22

_SETTINGS: dict[str, Any] = {
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10.0,
    "axes.titlecolor": PALETTE["ink"],
    "axes.labelsize": 10.0,
    "axes.labelcolor": PALETTE["ink"],
    "axes.edgecolor": PALETTE["line"],
    "axes.facecolor": "none",
    "axes.linewidth": 0.9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALETTE["grid"],
    "grid.linewidth": 0.8,
    "text.color": PALETTE["ink"],
    "xtick.color": PALETTE["line"],
    "ytick.color": PALETTE["line"],
    "xtick.labelcolor": PALETTE["muted"],
    "ytick.labelcolor": PALETTE["muted"],
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "legend.handlelength": 1.6,
    "figure.facecolor": PALETTE["surface"],
    "figure.edgecolor": "none",
    "figure.dpi": 100.0,
    "savefig.facecolor": "auto",
    "savefig.dpi": 200.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "curvescope",
    "pdf.fonttype": 42,
}


def require_matplotlib() -> Any:
    """Import matplotlib, or name the extra that brings it."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        text = (
            "`curvescope.plots` must find matplotlib; got no such package. "
            'Install it with: pip install "curvescope[plots]".'
        )
        raise MissingExtraError(text) from error
    return mpl


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in the house's style, whatever the user's own settings are."""
    mpl = require_matplotlib()
    defaults = {
        key: value
        for key, value in mpl.rcParamsDefault.items()
        if not key.startswith(("backend", "interactive", "toolbar", "webagg", "date."))
    }
    with mpl.rc_context({**defaults, **_SETTINGS}):
        yield


def new_figure(size: tuple[float, float]) -> Figure:
    """Start a figure on the Agg canvas, outside of pyplot."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06)
    figure = Figure(figsize=size, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def is_narrow(size: tuple[float, float]) -> bool:
    """Tell whether a figure is for a phone or one column of a paper."""
    return size[0] < 5.0


def array(values: Tensor) -> np.ndarray:
    """Return a tensor as a float64 array on the CPU."""
    return values.detach().double().cpu().numpy()


def set_title(axes: Axes, title: str | None, default: str) -> None:
    """Set ``title``; ``None`` means the default, an empty one means none."""
    text = default if title is None else title
    if text:
        # Names of models may hold a dollar sign: they are never mathematics here.
        axes.set_title(text, parse_math=False)


def set_figure_title(figure: Figure, text: str) -> None:
    """Put a title over a figure of several panels, in as many lines as it needs."""
    width = int(11.0 * figure.get_figwidth())
    figure.suptitle(
        textwrap.fill(text, width=width),
        parse_math=False,
        x=0.012,
        ha="left",
        fontsize=11.0,
        fontweight="bold",
    )


def with_unit(quantity: str, result: Result, inches: float) -> str:
    """Label a quantity with its unit, on lines that fit a side of ``inches``."""
    text = f"{quantity} ({result.of.unit})"
    return textwrap.fill(text, width=max(20, int(11.5 * (inches - 0.7))))


def matrix_name(result: Result) -> str:
    """Name what the result is of, for a title."""
    return f"the {result.of.matrix}"


def shorten(text: str, length: int) -> str:
    """Cut the middle out of a long name."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    tail = length - 1 - head
    return f"{text[:head]}\u2026{text[-tail:]}"
