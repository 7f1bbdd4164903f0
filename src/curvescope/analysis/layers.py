"""Curvature of each layer's own diagonal block, split into its two parts."""

import math
import time
from typing import Any

import torch
from torch import Tensor

from curvescope._core.checks import positive_int
from curvescope._core.memory import peak_memory
from curvescope._core.progress import track
from curvescope._core.random import gaussian, resolve_generator
from curvescope.curvature import GGN, FunctionalHessian, Hessian
from curvescope.linalg import eigsh
from curvescope.problem import Problem
from curvescope.results import Cost, Eigenpairs, LayerRow, LayerTable


def layer_curvature(
    problem: Problem,
    *,
    num_probes: int = 12,
    tol: float | None = None,
    generator: torch.Generator | None = None,
) -> LayerTable:
    r"""Measure every layer's own block of the Hessian and its two parts.

    .. math:: H_{ll} = G_{ll} + F_{ll},\quad
        \|B\|_F^2 = \mathbb E\,\|B z\|^2,\quad \operatorname{tr} B = \mathbb E\, z^\top B z

    A layer is a module's own parameters, weight and bias together. Blocks with at most
    ``num_probes`` parameters are formed, and their numbers are exact; for the others
    one Gaussian block of probes serves all norms and the trace.

    Args:
        problem: Model, loss and data.
        num_probes: Probes z of each layer, at least 2.
        tol: Relative residual of the top eigenvalues, as for `eigsh`.
        generator: Source of the probes; a fresh one with a fixed seed if ``None``.

    Returns:
        One row a layer: Frobenius norms of the block, of its linearisation part and of
        its curvature part, the trace, the eigenvalue of largest magnitude, each with
        its standard error (the eigenvalue: its true residual).

    Raises:
        ValueError: If ``num_probes`` is below 2.

    Cost:
        For each layer ``num_probes`` products with the GGN's and the functional
        Hessian's block, and those of one `eigsh` with ``k=1``.

    Example:
        >>> import torch
        >>> data = (torch.eye(4), torch.tensor([0, 1, 0, 1]))
        >>> problem = Problem(torch.nn.Linear(4, 2), "cross_entropy", data)
        >>> layer_curvature(problem).layers[0].curvature_norm  # linear in its weights
        0.0

    References:
        Skorski, Temperoni, Theobald (2021), PMLR 157, for the split.
    """
    num_probes = positive_int("num_probes", num_probes, minimum=2)
    generator = resolve_generator(generator)
    began = time.perf_counter()
    rows, cost, notes = [], Cost(), []
    groups = problem.layers()
    with track("layers", total=len(groups)) as task:
        for name, parameters in groups.items():
            part = problem.select(_exactly(parameters))
            row, spent, pairs = _layer(name, part, num_probes, tol, generator)
            if not bool(pairs.converged.all()):
                notes.append(f"the top eigenvalue of {name} is not converged")
            rows.append(row)
            cost = cost + spent
            task.advance()
    return LayerTable(
        of=problem.provenance("Hessian"),
        cost=Cost(
            num_matvecs=cost.num_matvecs,
            num_data_passes=cost.num_data_passes,
            seconds=time.perf_counter() - began,
            peak_memory=peak_memory(problem.device),
        ),
        settings={
            "num_probes": num_probes,
            "tol": tol,
            "seed": generator.initial_seed(),
        },
        notes=tuple(notes),
        layers=tuple(rows),
        method=f"own blocks, {num_probes} Gaussian probes; products are with blocks",
    )


def _exactly(names: tuple[str, ...]) -> Any:
    chosen = frozenset(names)
    return lambda name, _: name in chosen


def _layer(
    name: str,
    part: Problem,
    num_probes: int,
    tol: float | None,
    generator: torch.Generator,
) -> tuple[LayerRow, Cost, Eigenpairs]:
    size = part.num_params
    exact = size <= num_probes
    if exact:
        Z = torch.eye(size, dtype=part.dtype, device=part.device)
    else:
        shape = (size, num_probes)
        Z = gaussian(shape, generator, dtype=part.dtype, device=part.device)
    linearisation = (GGN(part) @ Z).double()
    curvature = (FunctionalHessian(part) @ Z).double()
    whole = linearisation + curvature
    norms = [_norm(Y, exact=exact) for Y in (whole, linearisation, curvature)]
    quadratic = (Z.double() * whole).sum(0)
    trace = float(quadratic.sum() if exact else quadratic.mean())
    trace_error = 0.0 if exact else float(quadratic.std() / math.sqrt(num_probes))
    pairs = eigsh(
        Hessian(part), k=1, tol=tol, check_multiplicity=False, generator=generator
    )
    columns = Z.shape[1]
    blocks = 2 * math.ceil(columns / 32)
    spent = Cost(num_matvecs=2 * columns, num_data_passes=blocks) + pairs.cost
    row = LayerRow(
        name=name,
        num_params=size,
        frobenius_norm=norms[0][0],
        linearisation_norm=norms[1][0],
        curvature_norm=norms[2][0],
        trace=trace,
        top_eigenvalue=float(pairs.eigenvalues[0]),
        frobenius_norm_error=norms[0][1],
        linearisation_norm_error=norms[1][1],
        curvature_norm_error=norms[2][1],
        trace_error=trace_error,
        top_eigenvalue_error=float(pairs.residual_norms[0]),
    )
    return row, spent, pairs


def _norm(Y: Tensor, *, exact: bool) -> tuple[float, float]:
    """Return the Frobenius norm and its standard error, by the delta method."""
    squares = (Y * Y).sum(0)
    if exact:
        return math.sqrt(float(squares.sum())), 0.0
    value = math.sqrt(float(squares.mean()))
    if value == 0.0:
        return 0.0, 0.0
    error = float(squares.std()) / math.sqrt(len(squares))
    return value, error / (2.0 * value)
