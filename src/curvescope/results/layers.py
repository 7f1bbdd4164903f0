"""Curvature layer by layer: the layers' own blocks, and the blocks between layers."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from curvescope.results.base import Result
from curvescope.results.text import format_table


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """Curvature of one layer's own diagonal block; norms are Frobenius norms.

    The ``_error`` fields are standard errors, 0 where the value is exact;
    ``top_eigenvalue`` is the one of largest magnitude, its error the true residual.

    Attributes:
        name: The layer's, or the group's.
        num_params: Its parameters.
        frobenius_norm: Of the block.
        linearisation_norm: Of its linearisation part.
        curvature_norm: Of its curvature part.
        trace: Of the block.
        top_eigenvalue: Of the block.
        linearisation_trace: Of the linearisation part; ``None`` in old files.
        curvature_trace: Of the curvature part, likewise.
        linearisation_spectral_norm: Of the linearisation part; ``None`` where it was
            not computed.
        curvature_spectral_norm: Of the curvature part, likewise.
        method: How: ``"kronecker"`` and ``"patches"`` (the chain rule), ``"formed"``,
            all three exact, or ``"probes"``.
        frobenius_norm_error: Of the norm of the block.
        linearisation_norm_error: Of the norm of the linearisation part.
        curvature_norm_error: Of the norm of the curvature part.
        trace_error: Of the trace of the block.
        top_eigenvalue_error: The residual norm.
        linearisation_trace_error: Of the trace of the linearisation part.
        curvature_trace_error: Of the trace of the curvature part.
    """

    name: str
    num_params: int
    frobenius_norm: float
    linearisation_norm: float
    curvature_norm: float
    trace: float
    top_eigenvalue: float
    frobenius_norm_error: float = 0.0
    linearisation_norm_error: float = 0.0
    curvature_norm_error: float = 0.0
    trace_error: float = 0.0
    top_eigenvalue_error: float = 0.0
    linearisation_trace: float | None = None
    curvature_trace: float | None = None
    linearisation_trace_error: float = 0.0
    curvature_trace_error: float = 0.0
    linearisation_spectral_norm: float | None = None
    curvature_spectral_norm: float | None = None
    method: str = "probes"

    @property
    def ratio(self) -> float:
        """Norm of the linearisation part over that of the curvature part.

        Infinite where the curvature part is zero, NaN where both are.
        """
        if self.curvature_norm == 0.0:
            return math.inf if self.linearisation_norm else math.nan
        return self.linearisation_norm / self.curvature_norm

    @property
    def exact(self) -> bool:
        """Whether norms and traces are exact up to rounding."""
        return self.method != "probes"


@dataclass(frozen=True, kw_only=True)
class LayerTable(Result):
    """One row a layer (a module's own parameters), or a named group of parameters.

    Attributes:
        layers: The rows.
        method: How the numbers were computed, in words.
    """

    NESTED: ClassVar[Mapping[str, type]] = {"layers": LayerRow}
    layers: tuple[LayerRow, ...]
    method: str

    def headline(self) -> str:
        """Return the result in one line."""
        return f"curvature of {len(self.layers)} layers' own blocks ({self.method})"

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a layer."""
        return [{**dataclasses.asdict(row), "ratio": row.ratio} for row in self.layers]

    def __str__(self) -> str:
        rows = [
            {
                "layer": row.name,
                "parameters": row.num_params,
                "||H||": _with_error(row.frobenius_norm, row.frobenius_norm_error),
                "||GGN||": _with_error(
                    row.linearisation_norm, row.linearisation_norm_error
                ),
                "||F||": _with_error(row.curvature_norm, row.curvature_norm_error),
                "GGN/F": "-" if row.curvature_norm == 0.0 else f"{row.ratio:.3g}",
                "trace H": _with_error(row.trace, row.trace_error),
                "top eigenvalue": f"{row.top_eigenvalue:.5g}",
                "method": row.method,
            }
            for row in self.layers
        ]
        return format_table(self.headline(), rows, self.notes, str(self.cost))


@dataclass(frozen=True, kw_only=True)
class BlockNorms(Result):
    """Frobenius norms of all blocks, one a pair of layers, of H and of its two parts.

    Attributes:
        layers: The layers' names.
        num_params: Their parameters.
        norms: By matrix name (``"hessian"``, ``"ggn"``, ``"functional"``), shape
            ``(layers, layers)``, symmetric, float64.
        errors: Standard errors of the norms, likewise; 0 where exact.
        method: How the numbers were computed, in words.
    """

    layers: tuple[str, ...]
    num_params: tuple[int, ...]
    norms: Mapping[str, Tensor]
    errors: Mapping[str, Tensor] = field(default_factory=dict)
    method: str = ""

    def off_diagonal_share(self, matrix: str = "hessian") -> float:
        """Return which share of the squared norm lies between layers, not within.

        Example:
            >>> norms = {"hessian": torch.tensor([[1.0, 1.0], [1.0, 1.0]])}
            >>> two = BlockNorms(layers=("0", "1"), num_params=(1, 1), norms=norms)
            >>> two.off_diagonal_share()
            0.5
        """
        squares = self.norms[matrix].square()
        total = float(squares.sum())
        return 1.0 - float(squares.trace()) / total if total else 0.0

    def headline(self) -> str:
        """Return the result in one line."""
        return f"norms of the blocks between {len(self.layers)} layers ({self.method})"

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a matrix and pair of layers."""
        zeros = torch.zeros(len(self.layers), len(self.layers))
        return [
            {
                "matrix": matrix,
                "layer": row,
                "other_layer": column,
                "frobenius_norm": float(norms[i, j]),
                "frobenius_norm_error": float(self.errors.get(matrix, zeros)[i, j]),
            }
            for matrix, norms in self.norms.items()
            for i, row in enumerate(self.layers)
            for j, column in enumerate(self.layers)
            if j <= i
        ]

    def __str__(self) -> str:
        rows = [
            {"matrix": matrix, "layer": row}
            | {
                column: _with_error(
                    float(norms[i, j]),
                    float(self.errors[matrix][i, j]) if matrix in self.errors else 0.0,
                )
                if j <= i
                else ""
                for j, column in enumerate(self.layers)
            }
            for matrix, norms in self.norms.items()
            for i, row in enumerate(self.layers)
        ]
        return format_table(self.headline(), rows, self.notes, str(self.cost))


def _with_error(value: float, error: float) -> str:
    """Write a number, and its standard error where it has one."""
    return f"{value:.5g}" if error == 0.0 else f"{value:.4g} +- {error:.1g}"
