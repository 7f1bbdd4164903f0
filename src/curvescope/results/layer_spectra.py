"""Spectra of all layers' own diagonal blocks, from one sweep."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from curvescope.results.base import Result
from curvescope.results.kinds import SpectralDensity
from curvescope.results.text import format_table


@dataclass(frozen=True, kw_only=True)
class LayerSpectrum:
    """One layer's own diagonal block.

    The ``_error`` fields are standard errors, 0 where the value is exact.

    Attributes:
        name: The layer's, or the group's.
        num_params: Its parameters.
        eigenvalues: Those of largest magnitude, the largest magnitude first.
        residual_norms: True residuals ``||A x - lambda x||`` of unit vectors.
        converged: Whether all residuals are within the tolerance.
        trace: Of the block.
        trace_error: Of the trace.
        frobenius_norm: Of the block.
        frobenius_norm_error: Of the norm.
        method: ``"formed"`` (exact), ``"factor"`` (kept rows of the Jacobian; the trace
            is exact) or ``"products"`` (with the block, by double backward).
        num_matvecs: Products with the block, one a column.
        product_work: Work of one of them, in products with the whole matrix.
        reason: Why it has no factor; empty where it has.
    """

    name: str
    num_params: int
    eigenvalues: tuple[float, ...]
    residual_norms: tuple[float, ...]
    converged: bool
    trace: float
    frobenius_norm: float
    trace_error: float = 0.0
    frobenius_norm_error: float = 0.0
    method: str = "products"
    num_matvecs: int = 0
    product_work: float = 0.0
    reason: str = ""

    @property
    def top_eigenvalue(self) -> float:
        """The eigenvalue of largest magnitude."""
        return self.eigenvalues[0]

    @property
    def relative_residual(self) -> float:
        """The largest residual over its eigenvalue's magnitude; 0 for exact zeros."""
        pairs = zip(self.eigenvalues, self.residual_norms, strict=True)
        return max(r / abs(v) if v else (0.0 if r == 0.0 else r) for v, r in pairs)


@dataclass(frozen=True, kw_only=True)
class LayerSpectra(Result):
    """Top eigenvalues, traces and norms of all layers' own blocks, and densities.

    Attributes:
        layers: One row a layer, in the order of the parameters.
        densities: Each block's spectral density by the layer's name, where asked for.
        plan: How the layers were done and why, one line each.
        whole_products: The work of everything, in products with the whole matrix.
        tolerance: The relative residual that was asked for.
    """

    NESTED: ClassVar[Mapping[str, type]] = {"layers": LayerSpectrum}
    layers: tuple[LayerSpectrum, ...]
    densities: Mapping[str, SpectralDensity] = field(default_factory=dict)
    plan: tuple[str, ...] = ()
    whole_products: float = 0.0
    tolerance: float = 0.0

    def __getitem__(self, name: str) -> LayerSpectrum:
        """Return a layer's row.

        Raises:
            KeyError: If there is no such layer.
        """
        for row in self.layers:
            if row.name == name:
                return row
        raise KeyError(name)

    @property
    def converged(self) -> bool:
        """Whether the pairs of every layer are."""
        return all(row.converged for row in self.layers)

    def headline(self) -> str:
        """Return the result in one line."""
        return (
            f"spectra of {len(self.layers)} layers' own blocks of the {self.of.matrix}, "
            f"for the work of {self.whole_products:.3g} products with the whole matrix"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a layer; further eigenvalues are columns of their own."""
        most = max((len(row.eigenvalues) for row in self.layers), default=1)
        return [_row(row, most) for row in self.layers]

    def __str__(self) -> str:
        rows = [
            {
                "layer": row.name,
                "parameters": row.num_params,
                "top eigenvalues": ", ".join(f"{v:.5g}" for v in row.eigenvalues),
                "residual": f"{row.relative_residual:.1g}",
                "trace": _with_error(row.trace, row.trace_error),
                "||.||_F": _with_error(row.frobenius_norm, row.frobenius_norm_error),
                "method": row.method,
            }
            for row in self.layers
        ]
        plan = tuple(f"plan: {line}" for line in self.plan)
        return format_table(self.headline(), rows, plan + self.notes, str(self.cost))


def _row(row: LayerSpectrum, most: int) -> dict[str, Any]:
    further = {
        f"eigenvalue_{i + 1}": row.eigenvalues[i] if i < len(row.eigenvalues) else None
        for i in range(1, most)
    }
    return {
        "name": row.name,
        "num_params": row.num_params,
        "top_eigenvalue": row.top_eigenvalue,
        **further,
        "relative_residual": row.relative_residual,
        "converged": row.converged,
        "trace": row.trace,
        "trace_error": row.trace_error,
        "frobenius_norm": row.frobenius_norm,
        "frobenius_norm_error": row.frobenius_norm_error,
        "method": row.method,
        "num_matvecs": row.num_matvecs,
        "product_work": row.product_work,
        "reason": row.reason,
    }


def _with_error(value: float, error: float) -> str:
    """Write a number, and its standard error where it has one."""
    return f"{value:.5g}" if error == 0.0 else f"{value:.4g} +- {error:.1g}"
