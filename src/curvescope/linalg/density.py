"""The spectral density: quadrature nodes, smoothed at a width that the data set."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curvescope._core.checkpoint import Checkpoint
from curvescope._core.checks import describe, message, one_of, positive_int, real
from curvescope._core.random import resolve_generator
from curvescope.linalg._session import symmetric_operator
from curvescope.linalg._wanted_error import quadrature_of_error, wanted_settings
from curvescope.linalg._wasserstein import DensityErrors, density_errors
from curvescope.linalg.slq import (
    Quadrature,
    coarser,
    node_spacing,
    slq,
    sphere_degrees,
    sphere_mean,
)
from curvescope.linop.base import LinearOperator
from curvescope.results import Provenance, SpectralDensity

_GRID_POINTS = 512
_MARGIN = 4.0
_COMB_FREE = (
    0.6  # Gaussians this wide, in units of their spacing, leave 0.2 % of ripple
)
_LOUD = 0.1
_STILL_CHANGED = "the last steps still changed the density"


def spectral_density(
    A: Any,
    *,
    num_probes: int | None = None,
    num_steps: int | None = None,
    error: float | None = None,
    max_matvecs: int | None = None,
    grid: Tensor | None = None,
    width: float | None = None,
    axis: str = "linear",
    basis: str | Path = "device",
    checkpoint: Checkpoint | None = None,
    generator: torch.Generator | None = None,
) -> SpectralDensity:
    r"""Estimate the density of eigenvalues by stochastic Lanczos quadrature.

    .. math:: \phi_\sigma(x) = \frac{1}{n} \sum_{i=1}^{n}
        \frac{1}{\sqrt{2\pi}\sigma} e^{-(u(x) - u(\lambda_i))^2 / 2\sigma^2}

    with ``u(x) = x`` or ``asinh(x / linear_threshold)``. The standard error is that of
    this smoothed density, from the probes; what too few steps leave is stated apart.

    Probes and steps are given, or follow from the ``error`` that is wanted: of the nodes,
    which is an area between two CDFs over the range of the spectrum,

    .. math:: \frac{1}{\lambda_{\max} - \lambda_{\min}}
        \int |\hat F(x) - F(x)| \, dx \le \mathrm{error}

    with a probability of about 95 %. Two probes go on while more steps save probes; then
    come as many probes as the rest of the error needs.

    Args:
        A: Symmetric operator, or anything `aslinearoperator` takes.
        num_probes: Random vectors, multiplied as one block; at least 2, or ``n``; 8 by
            default.
        num_steps: Lanczos steps of each; 64 by default.
        error: What is wanted instead of numbers of probes and steps.
        max_matvecs: Products to spend on it at most, 10000 by default.
        grid: Eigenvalues at which to give the density, ascending; 512 by default.
        width: Standard deviation of the kernel in the axis' coordinate; by default
            the range of the nodes in that coordinate over ``num_steps``.
        axis: ``"linear"``, or ``"signed-log"`` to see many orders of magnitude.
        basis: Where the bases lie, as for `slq`.
        checkpoint: Where to save after block products, and to resume from.
        generator: Source of the probes; a fresh one with a fixed seed if ``None``.

    Returns:
        The density with raw nodes and weights, so that `density_from_nodes` can smooth
        again without products, and `merge` can add probes.

    Raises:
        ValueError: If ``A`` is not symmetric or an argument is out of range.

    Cost:
        ``num_probes * num_steps`` products in ``num_steps`` blocks; with ``error`` of a
        hundredth or so of a network's range, tens.

    Example:
        >>> density = spectral_density(torch.diag(torch.arange(100.0)))
        >>> round(float(torch.trapezoid(density.density, density.grid)), 2)
        1.0

    References:
        Lin, Saad and Yang (2016), doi:10.1137/130934283; Ghorbani et al. (2019),
        arXiv:1901.10159.
    """
    one_of("axis", axis, ("linear", "signed-log"))
    if error is not None:
        quadrature = _of_error(
            symmetric_operator(A),
            *wanted_settings(
                error, max_matvecs, num_probes=num_probes, num_steps=num_steps
            ),
            basis=basis,
            checkpoint=checkpoint,
            generator=resolve_generator(generator),
        )
    else:
        quadrature = slq(
            A,
            num_probes=positive_int(
                "num_probes", 8 if num_probes is None else num_probes, minimum=2
            ),
            num_steps=64 if num_steps is None else num_steps,
            basis=basis,
            checkpoint=checkpoint,
            generator=generator,
        )
    return density_from_nodes(quadrature, grid=grid, width=width, axis=axis)


def _of_error(
    operator: LinearOperator,
    error: float,
    max_matvecs: int,
    *,
    basis: str | Path,
    checkpoint: Checkpoint | None,
    generator: torch.Generator,
) -> Quadrature:
    n = operator.shape[0]

    def judge(nodes: Tensor, weights: Tensor) -> tuple[float, float]:
        errors = density_errors(nodes, weights, n)
        return errors.probes, errors.steps

    return quadrature_of_error(
        operator,
        error=error,
        max_matvecs=max_matvecs,
        judge=judge,
        name="spectral density",
        basis=basis,
        checkpoint=checkpoint,
        generator=generator,
    )


def density_from_nodes(
    source: Quadrature | SpectralDensity,
    *,
    grid: Tensor | None = None,
    width: float | None = None,
    axis: str | None = None,
    linear_threshold: float | None = None,
) -> SpectralDensity:
    """Smooth nodes and weights again, without products.

    Args:
        source: A quadrature of `slq`, or a density whose nodes are used again.
        grid: As in `spectral_density`.
        width: As in `spectral_density`.
        axis: As in `spectral_density`; by default that of ``source``, or linear.
        linear_threshold: Where a signed-log axis turns linear; by default the weighted
            median of the nodes' absolute values, zeros left out.

    Returns:
        The density.

    Raises:
        ValueError: If an argument is out of range.

    Cost:
        No products.

    Example:
        >>> nodes = slq(torch.eye(9), num_probes=2, num_steps=2)
        >>> density_from_nodes(nodes, width=0.1).width
        0.1
    """
    nodes, weights = source.nodes, source.weights
    exact = _is_exact(source)
    if axis is None:
        axis = source.axis if isinstance(source, SpectralDensity) else "linear"
    one_of("axis", axis, ("linear", "signed-log"))
    if linear_threshold is None:
        linear_threshold = _linear_threshold(nodes, weights)
        if not exact:  # below the nodes' spacing there is nothing to see on a log axis
            linear_threshold = max(linear_threshold, node_spacing(nodes, weights, 0.5))
    threshold = real("linear_threshold", linear_threshold, minimum=0.0, strict=True)
    u = _coordinate(nodes, axis, threshold)
    low, high = _range(u, weights)
    if width is None:
        width = _default_width(low, high, nodes.shape[1])
        if axis == "signed-log" and not exact:
            # Equal steps of this axis are unequal ones of the spectrum: where the
            # nodes lie further apart than the kernel is wide, they show as a comb.
            width = max(width, _COMB_FREE * node_spacing(u, weights, 0.9))
    width = real("width", width, minimum=0.0, strict=True)
    if grid is None:
        margin = _MARGIN * width
        steps = torch.linspace(
            low - margin, high + margin, _GRID_POINTS, dtype=torch.float64
        )
        grid = steps if axis == "linear" else threshold * torch.sinh(steps)
    grid = _check_grid(grid)
    x = _coordinate(grid, axis, threshold)
    density, error = _smooth(u, weights, x, width, source.dimension, exact=exact)
    change, errors = 0.0, DensityErrors(0.0, 0.0, 0.0)
    if not exact:
        errors = density_errors(nodes, weights, source.dimension)
    if not exact and nodes.shape[1] > 1:
        fewer = nodes.shape[1] - max(1, nodes.shape[1] // 8)
        v, weights_before = coarser(nodes, weights, fewer)
        v = _coordinate(v, axis, threshold)
        before, _ = _smooth(v, weights_before, x, width, source.dimension, exact=exact)
        change = float((density - before).abs().max())
    notes = source.notes
    if change > _LOUD * float(density.max()):
        text = (
            f"{_STILL_CHANGED} by {change:.2g}, of a maximum of "
            f"{float(density.max()):.2g}: use more steps or a wider kernel"
        )
        notes = (*notes, text)
    return SpectralDensity(
        of=source.of,
        cost=source.cost,
        settings=source.settings,
        notes=notes,
        nodes=nodes,
        weights=weights,
        grid=grid,
        density=density,
        standard_error=error,
        axis=axis,
        linear_threshold=threshold,
        width=width,
        dimension=source.dimension,
        quadrature_error=change,
        probe_distance=errors.probes,
        step_distance=errors.steps,
        degrees_of_freedom=math.inf if exact else sphere_degrees(nodes.shape[0]),
    )


def merge(first: SpectralDensity, second: SpectralDensity) -> SpectralDensity:
    """Join the probes of two densities of the same matrix, drawn from different seeds.

    The grid, width and axis are those of ``first``. Where the numbers of steps differ,
    the probes of more steps are cut to as many as the others have, which a note says:
    the errors of the steps are judged for all probes together.

    Args:
        first: A density.
        second: Another one of the same matrix.

    Returns:
        The density from all probes; costs add up.

    Raises:
        ValueError: If the matrices differ, or a seed was used in both.

    Cost:
        No products.

    Example:
        >>> a, b = (
        ...     spectral_density(
        ...         torch.eye(99), generator=torch.Generator().manual_seed(s)
        ...     )
        ...     for s in (0, 1)
        ... )
        >>> merge(a, b).nodes.shape[0]
        16
    """
    same = first.dimension == second.dimension and _same_matrix(first.of, second.of)
    if not same:
        got = f"{second.of.matrix} of dimension {second.dimension}"
        contract = f"be of the same {first.of.matrix}, dimension {first.dimension}"
        raise ValueError(message("second", contract, got))
    if _is_exact(first) or _is_exact(second):
        return first if _is_exact(first) else second
    common = set(_seeds(first)) & set(_seeds(second))
    if common:
        remedy = "The same seed gives the same probes, which add nothing."
        text = message("second", "come from another seed", f"seed {common}", remedy)
        raise ValueError(text)
    cut, notes = _of_as_many_steps(first, second)
    nodes, weights = (torch.cat(rows) for rows in zip(*cut, strict=True))
    settings = {
        "num_probes": nodes.shape[0],
        "num_steps": nodes.shape[1],
        "seed": [*_seeds(first), *_seeds(second)],
    }
    joint = Quadrature(
        of=first.of,
        cost=first.cost + second.cost,
        settings=settings,
        notes=notes,
        nodes=nodes,
        weights=weights,
        dimension=first.dimension,
    )
    merged = density_from_nodes(
        joint,
        grid=first.grid,
        width=first.width,
        axis=first.axis,
        linear_threshold=first.linear_threshold,
    )
    return dataclasses.replace(merged, cost=first.cost + second.cost)


def _of_as_many_steps(
    *densities: SpectralDensity,
) -> tuple[list[tuple[Tensor, Tensor]], tuple[str, ...]]:
    """Return nodes and weights cut to the fewest steps of all, and what is to be said.

    To fill the rows of fewer steps up with unused places would say that their Krylov
    spaces ended, and that their nodes are exact.
    """
    counts = [d.nodes.shape[1] for d in densities]
    fewest, most = min(counts), max(counts)
    cut = [
        (d.nodes, d.weights) if steps == fewest else coarser(d.nodes, d.weights, fewest)
        for d, steps in zip(densities, counts, strict=True)
    ]
    # How much the last steps changed is seen anew, for all probes together.
    every = (note for d in densities for note in d.notes)
    notes = dict.fromkeys(n for n in every if not n.startswith(_STILL_CHANGED))
    if fewest == most:
        return cut, tuple(notes)
    return cut, (*notes, f"probes of {most} steps were cut to the others' {fewest}")


def _same_matrix(a: Provenance, b: Provenance) -> bool:
    return (a.matrix, a.fingerprint, a.unit) == (b.matrix, b.fingerprint, b.unit)


def _seeds(result: SpectralDensity) -> list[int]:
    seed = result.settings.get("seed", [])
    return list(seed) if isinstance(seed, (list, tuple)) else [seed]


def _is_exact(source: Quadrature | SpectralDensity) -> bool:
    if isinstance(source, Quadrature):
        return source.exact
    return math.isinf(source.degrees_of_freedom or 0.0)


def _coordinate(x: Tensor, axis: str, threshold: float) -> Tensor:
    return x if axis == "linear" else torch.asinh(x / threshold)


def _range(u: Tensor, weights: Tensor) -> tuple[float, float]:
    used = u[weights > 0.0]
    return float(used.min()), float(used.max())


def _default_width(low: float, high: float, steps: int) -> float:
    """Return what the steps resolve; for a single eigenvalue a part of itself."""
    size = max(abs(low), abs(high))
    if high - low > 1e-6 * size:
        return (high - low) / max(steps, 10)
    # Only the zero matrix has no scale at all.
    return 0.01 * size or 1.0


def _linear_threshold(nodes: Tensor, weights: Tensor) -> float:
    sizes = nodes[weights > 0.0].abs()
    shares = weights[weights > 0.0]
    largest = float(sizes.max())
    if largest == 0.0:
        return 1.0
    nonzero = sizes > 1e-10 * largest
    ranked = torch.argsort(sizes[nonzero])
    mass = shares[nonzero][ranked].cumsum(0)
    middle = int(torch.searchsorted(mass, mass[-1] / 2))
    return max(float(sizes[nonzero][ranked[middle]]), 1e-8 * largest)


def _check_grid(grid: Tensor) -> Tensor:
    grid = torch.as_tensor(grid, dtype=torch.float64).cpu()
    rising = grid.ndim == 1 and len(grid) > 0 and bool((grid.diff() > 0).all())
    if not rising or not bool(torch.isfinite(grid).all()):
        raise ValueError(message("grid", "be finite and ascending", describe(grid)))
    return grid


def _smooth(
    u: Tensor, weights: Tensor, x: Tensor, width: float, n: int, *, exact: bool
) -> tuple[Tensor, Tensor]:
    """Return the smoothed density and its standard error at ``x``."""
    densities, errors = [], []
    for piece in x.split(256):
        z = (piece - u[:, :, None]) / width
        kernel = torch.exp(-0.5 * z.square()) / (width * math.sqrt(2.0 * math.pi))
        mean = sphere_mean(kernel, weights, n, exact=exact)
        densities.append(mean.trace / n)
        errors.append(mean.standard_error / n)
    return torch.cat(densities), torch.cat(errors)
