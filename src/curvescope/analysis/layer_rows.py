"""One row of the layer table: from an exact block, or from random probes."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from curvescope._core.random import gaussian
from curvescope.curvature import GGN, FunctionalHessian, Hessian
from curvescope.exact import OwnBlock
from curvescope.linalg import eigsh
from curvescope.problem import Problem
from curvescope.results import Cost, LayerRow

# Products with an exact block are cheap.
_EXACT_TOL = 1e-6
_PASSES_OF_A_BLOCK = 32


class Measured(NamedTuple):
    """A row, what it cost, and what its reader must know."""

    row: LayerRow
    cost: Cost
    notes: tuple[str, ...]


def exact_row(
    block: OwnBlock, *, tol: float | None, generator: torch.Generator
) -> Measured:
    """Measure a block that is known exactly; no pass over the data.

    Args:
        block: The layer's.
        tol: Relative residual of the eigenvalues, by default 1e-6.
        generator: Source of the start vectors.
    """
    norms, traces = block.frobenius_norms(), block.traces()
    tol = _EXACT_TOL if tol is None else tol
    top = block.top("whole", tol=tol, generator=generator)
    value = float(top.eigenvalues[0])
    linearisation, curvature = abs(value), 0.0
    notes = _notes(block.name, converged=bool(top.converged.all()))
    if block.has_curvature:
        parts = [
            block.top("linearisation", tol=tol, generator=generator),
            block.top("curvature", tol=tol, generator=generator),
        ]
        linearisation, curvature = (abs(float(p.eigenvalues[0])) for p in parts)
    row = LayerRow(
        name=block.name,
        num_params=block.num_params,
        frobenius_norm=norms.whole,
        linearisation_norm=norms.linearisation,
        curvature_norm=norms.curvature,
        trace=traces.whole,
        linearisation_trace=traces.linearisation,
        curvature_trace=traces.curvature,
        top_eigenvalue=value,
        top_eigenvalue_error=float(top.residual_norms[0]),
        linearisation_spectral_norm=linearisation,
        curvature_spectral_norm=curvature,
        method=block.method,
    )
    return Measured(row, Cost(), notes)


def probed_row(
    name: str,
    part: Problem,
    *,
    num_probes: int,
    tol: float | None,
    generator: torch.Generator,
) -> Measured:
    r"""Measure a block by Gaussian probes, and its top eigenvalue by Lanczos.

    .. math:: \|B\|_F^2 = \mathbb E\,\|B z\|^2,\quad \operatorname{tr} B = \mathbb E\, z^\top B z

    Args:
        name: The layer's.
        part: The problem of its parameters alone.
        num_probes: Probes z, which all norms and traces share.
        tol: Relative residual of the eigenvalue, as for `eigsh`.
        generator: Source of the probes.
    """
    shape = (part.num_params, num_probes)
    Z = gaussian(shape, generator, dtype=part.dtype, device=part.device)
    linearisation = (GGN(part) @ Z).double()
    curvature = (FunctionalHessian(part) @ Z).double()
    products = (linearisation + curvature, linearisation, curvature)
    norms = [_norm(Y) for Y in products]
    traces = [_trace(Z.double(), Y) for Y in products]
    pairs = eigsh(
        Hessian(part),
        k=1,
        tol=tol,
        check_multiplicity=False,
        eigenvectors=False,
        generator=generator,
    )
    blocks = 2 * math.ceil(num_probes / _PASSES_OF_A_BLOCK)
    cost = Cost(num_matvecs=2 * num_probes, num_data_passes=blocks) + pairs.cost
    row = LayerRow(
        name=name,
        num_params=part.num_params,
        frobenius_norm=norms[0][0],
        linearisation_norm=norms[1][0],
        curvature_norm=norms[2][0],
        trace=traces[0][0],
        linearisation_trace=traces[1][0],
        curvature_trace=traces[2][0],
        top_eigenvalue=float(pairs.eigenvalues[0]),
        frobenius_norm_error=norms[0][1],
        linearisation_norm_error=norms[1][1],
        curvature_norm_error=norms[2][1],
        trace_error=traces[0][1],
        linearisation_trace_error=traces[1][1],
        curvature_trace_error=traces[2][1],
        top_eigenvalue_error=float(pairs.residual_norms[0]),
        method="probes",
    )
    return Measured(row, cost, _notes(name, converged=bool(pairs.converged.all())))


def _notes(name: str, *, converged: bool) -> tuple[str, ...]:
    return () if converged else (f"the top eigenvalue of {name} is not converged",)


def _norm(Y: Tensor) -> tuple[float, float]:
    """Return the Frobenius norm and its standard error, by the delta method."""
    squares = (Y * Y).sum(0)
    value = math.sqrt(float(squares.mean()))
    if value == 0.0:
        return 0.0, 0.0
    error = float(squares.std()) / math.sqrt(len(squares))
    return value, error / (2.0 * value)


def _trace(Z: Tensor, Y: Tensor) -> tuple[float, float]:
    quadratic = (Z * Y).sum(0)
    error = float(quadratic.std()) / math.sqrt(len(quadratic))
    return float(quadratic.mean()), error
