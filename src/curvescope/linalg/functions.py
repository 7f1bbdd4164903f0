"""Functions of a matrix: effective dimension and log-determinant."""

import math
import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from curvescope._core.checks import describe, message, one_of, positive_int, real
from curvescope._core.errors import AccuracyWarning
from curvescope._core.random import resolve_generator
from curvescope.linalg._dimension_quadrature import (
    below_zero,
    check_z,
    dimension_from_quadrature,
    dimension_terms,
)
from curvescope.linalg._session import symmetric_operator
from curvescope.linalg._wanted_error import quadrature_of_error, wanted_settings
from curvescope.linalg.dimension_bounds import dimension_bounds, with_bounds
from curvescope.linalg.eigsh import eigsh
from curvescope.linalg.rank import singular_values
from curvescope.linalg.slq import (
    Quadrature,
    coarser,
    slq,
    sphere_degrees,
    sphere_mean,
)
from curvescope.linalg.trace import trace
from curvescope.linop.base import LinearOperator
from curvescope.linop.convert import aslinearoperator
from curvescope.results import (
    Cost,
    EffectiveDimension,
    Eigenpairs,
    Estimate,
    Provenance,
    SpectralDensity,
    student_t_quantile,
)

_EXACT_BELOW = 512
_SATURATED = 0.9
_ZERO_EPS = 100.0
_TRACE_PRODUCTS = 96


def effective_dimension(
    A: Any,
    *,
    z: float | Tensor | list[float],
    method: str = "auto",
    negative: str = "clip",
    num_probes: int | None = None,
    num_steps: int | None = None,
    error: float | None = None,
    max_matvecs: int | None = None,
    top: int = 0,
    dimension: int | None = None,
    generator: torch.Generator | None = None,
) -> EffectiveDimension:
    r"""Compute the effective dimension, as a curve over ``z``.

    .. math:: N_\mathrm{eff}(z) = \sum_{i=1}^{n} \frac{\lambda_i}{\lambda_i + z}

    By SLQ, the error of the steps is certain where ``A`` is known to be positive
    semidefinite: Gauss quadrature gives too much, Gauss-Radau with a node at 0 too
    little, and the value is their middle. Otherwise it is estimated: from both rules
    where no Ritz value is negative, and from the change over the last steps.

    Args:
        A: Symmetric operator or matrix; for ``"factors"`` a rectangular factor ``F``
            with ``A = F'F``; or eigenvalues as a vector, or `Eigenpairs`. If fewer
            than ``dimension``, the result is a lower bound.
        z: One number or several, above 0, in the unit of an eigenvalue.
        method: ``"exact"`` (dense), ``"factors"``, ``"slq"``, ``"lower_bound"``
            (eigenvalues or pairs), or ``"auto"``: exact up to ``n = 512``, then SLQ.
        negative: What happens to negative eigenvalues: ``"clip"`` sets them to 0,
            ``"abs"`` takes absolute values, ``"keep"`` leaves the formula as it is.
        num_probes: Probes of SLQ, 10 by default.
        num_steps: Steps of SLQ, 64 by default.
        error: What is wanted of SLQ instead: half the width of the 95 % band, relative to
            the value, at every ``z``.
        max_matvecs: Products to spend on that at most, 10000 by default.
        top: Eigenpairs that are computed beside, for bounds to check the value by; see
            `dimension_bounds`.
        dimension: Number of all eigenvalues, where ``A`` is a vector of some.
        generator: Source of the probes; a fresh one with a fixed seed if ``None``.

    Returns:
        The curve, its standard errors, and the mass and count of the negative
        eigenvalues.

    Raises:
        ValueError: If ``z`` is not above 0, ``A`` or ``top`` does not fit the method, or
            ``negative="keep"`` meets an eigenvalue near ``-z``.

    Cost:
        ``n`` products (exact), as many as the factor has rows or columns (factors), or
        ``num_probes * num_steps`` (SLQ); about 4 ``top`` more for the bounds, and 96 for
        the trace where ``A`` is positive semidefinite.

    Example:
        >>> effective_dimension(torch.eye(4), z=1.0).value
        2.0

    References:
        MacKay (1992), doi:10.1162/neco.1992.4.3.415; Maddox, Benton and Wilson (2020),
        arXiv:2003.02139.
    """
    methods = ("auto", "exact", "factors", "slq", "lower_bound")
    one_of("method", method, methods)
    one_of("negative", negative, ("clip", "abs", "keep"))
    if top:
        _check_top(A, top, method, negative)
    if isinstance(A, Eigenpairs):
        dimension = dimension or A.of.num_params or len(A.eigenvalues)
        return _from_some(
            A.eigenvalues, A.of, A.cost, z, negative, dimension, which=A.which
        )
    if isinstance(A, Tensor) and A.ndim == 1:
        one_of("method", method, ("auto", "exact", "lower_bound"))
        total = len(A) if dimension is None else positive_int("dimension", dimension)
        of = Provenance(num_params=total)
        return _from_some(A.detach(), of, Cost(), z, negative, total)
    if method == "lower_bound":
        remedy = "Pass the result of `eigsh`, or a vector of eigenvalues."
        raise ValueError(message("A", "be eigenpairs", type(A).__name__, remedy))
    if method == "factors":
        return _from_factor(aslinearoperator(A), z, negative)
    operator = symmetric_operator(A)
    n = operator.shape[0]
    if error is not None:
        wanted = wanted_settings(
            error, max_matvecs, num_probes=num_probes, num_steps=num_steps
        )
    num_probes, num_steps = num_probes or 10, num_steps or 64
    if method == "exact" or (method == "auto" and n <= _EXACT_BELOW):
        quadrature = slq(operator, num_probes=n, num_steps=n)
    elif error is not None:
        quadrature = _of_error(operator, z, negative, *wanted, generator)
    else:
        quadrature = slq(
            operator, num_probes=num_probes, num_steps=num_steps, generator=generator
        )
    curve = dimension_from_quadrature(quadrature, z, negative)
    return _bounded(operator, curve, top, generator) if top else curve


def _of_error(
    operator: LinearOperator,
    z: float | Tensor | list[float],
    negative: str,
    error: float,
    max_matvecs: int,
    generator: torch.Generator | None,
) -> Quadrature:
    """Return nodes that give the curve with the wanted error."""
    n = operator.shape[0]
    places = check_z(z)
    settings = {"positive_semidefinite": operator.positive_semidefinite}

    def judge(nodes: Tensor, weights: Tensor) -> tuple[float, float]:
        source = Quadrature(
            settings=settings, nodes=nodes, weights=weights, dimension=n
        )
        curve = dimension_from_quadrature(source, places, negative)
        size = curve.values.abs().clamp_min(1e-300)
        quantile = student_t_quantile(0.975, curve.degrees_of_freedom)
        steps = torch.zeros_like(size)
        if curve.quadrature_errors is not None:
            steps = curve.quadrature_errors / size
        probes = quantile * curve.standard_errors / size
        return float(probes.max()), float(steps.max())

    return quadrature_of_error(
        operator,
        error=error,
        max_matvecs=max_matvecs,
        judge=judge,
        name="effective dimension",
        independent=not operator.positive_semidefinite,
        generator=resolve_generator(generator),
    )


def effective_dimension_from_density(
    density: SpectralDensity | Quadrature,
    *,
    z: float | Tensor | list[float],
    negative: str = "clip",
) -> EffectiveDimension:
    """Compute the effective dimension from nodes that are there, without products.

    Args:
        density: The result of `spectral_density` or `slq`.
        z: As in `effective_dimension`.
        negative: As in `effective_dimension`.

    Returns:
        The curve with its standard errors.

    Raises:
        ValueError: As `effective_dimension`.

    Cost:
        No products.

    Example:
        >>> nodes = slq(torch.eye(4), num_probes=4, num_steps=1)
        >>> effective_dimension_from_density(nodes, z=1.0).value
        2.0
    """
    one_of("negative", negative, ("clip", "abs", "keep"))
    return dimension_from_quadrature(density, z, negative)


def _check_top(A: Any, top: int, method: str, negative: str) -> None:
    positive_int("top", top)
    vector = isinstance(A, Tensor) and A.ndim == 1
    if vector or isinstance(A, Eigenpairs) or method in ("factors", "lower_bound"):
        remedy = "Use it with an operator, and the methods exact, slq or auto."
        raise ValueError(
            message("top", "be 0 where eigenvalues are given", top, remedy)
        )
    if negative == "keep":
        remedy = 'Use `negative="clip"` or `"abs"`.'
        raise ValueError(message("top", "be 0 for negative='keep'", top, remedy))


def _bounded(
    operator: LinearOperator,
    curve: EffectiveDimension,
    top: int,
    generator: torch.Generator | None,
) -> EffectiveDimension:
    """Compute the top pairs, and what they bound."""
    n = operator.shape[0]
    which = "LM" if curve.negative == "abs" else "LA"
    pairs = eigsh(
        operator, k=min(top, n), which=which, eigenvectors=False, generator=generator
    )
    cost, total = curve.cost + pairs.cost, None
    if operator.positive_semidefinite:
        total = trace(operator, num_matvecs=_TRACE_PRODUCTS, generator=generator)
        cost = cost + total.cost
    bounds = dimension_bounds(
        pairs,
        z=curve.z,
        negative=curve.negative,
        trace=total,
        positive_semidefinite=operator.positive_semidefinite,
        dtype=operator.dtype,
    )
    settings = {**curve.settings, "top": top}
    return with_bounds(replace(curve, cost=cost, settings=settings), bounds)


def _from_some(
    eigenvalues: Tensor,
    of: Provenance,
    cost: Cost,
    z: float | Tensor | list[float],
    negative: str,
    dimension: int,
    *,
    which: str = "",
) -> EffectiveDimension:
    """Sum over given eigenvalues: all of them, or the top ones of more."""
    values = eigenvalues.double().cpu()
    if not bool(torch.isfinite(values).all()) or len(values) > dimension:
        contract = f"be finite eigenvalues, at most `dimension` = {dimension}"
        raise ValueError(message("A", contract, describe(eigenvalues)))
    curve = check_z(z)
    sums = dimension_terms(values, curve, negative).sum(dim=0)
    whole = len(values) == dimension
    notes: tuple[str, ...] = ()
    if not whole:
        notes = (f"a lower bound from {len(values)} of {dimension} eigenvalues",)
        if float(sums.max()) > _SATURATED * len(values):
            text = (
                f"the sum over {len(values)} eigenvalues is saturated: "
                f"{float(sums.max()):.4g} is near their number, not near the effective "
                'dimension. Use more eigenvalues, or `method="slq"`.'
            )
            notes = (*notes, text)
            warnings.warn(text, AccuracyWarning, stacklevel=3)
    below = below_zero(values)
    rest = (dimension - len(values)) * _largestdimension_terms(
        values, which, curve, negative
    )
    return EffectiveDimension(
        of=of,
        cost=cost,
        settings={"num_eigenvalues": len(values), "negative": negative},
        notes=notes,
        z=curve,
        values=sums,
        standard_errors=torch.zeros_like(sums),
        method="exact" if whole else "lower_bound",
        negative=negative,
        negative_mass=-float(values[below].sum()),
        negative_count=float(below.sum()),
        dimension=dimension,
        upper_bounds=None if whole or negative == "keep" else sums + rest,
    )


def _largestdimension_terms(
    values: Tensor, which: str, z: Tensor, negative: str
) -> Tensor:
    """Return at most what one more eigenvalue adds, if these are the extreme ones.

    ``which`` says which end is known, as for `eigsh`; with ``""`` none is.
    """
    if len(values) == 0 or which in ("", "SA"):
        return torch.ones_like(z)
    descending = values.sort(descending=True).values
    high = (len(values) + 1) // 2
    if which == "LM":
        largest = values.abs().min()
    elif which == "LA":
        largest = descending[-1]
    else:
        largest = descending[high - 1]
    if negative == "abs" and which == "BE" and len(values) > high:
        largest = torch.maximum(largest.abs(), descending[high].abs())
    elif negative == "abs" and which != "LM":
        return torch.ones_like(z)  # how far they go below zero is not known
    largest = largest.clamp_min(0.0)
    return largest / (largest + z)


def _from_factor(
    F: LinearOperator, z: float | Tensor | list[float], negative: str
) -> EffectiveDimension:
    """Use the singular values of ``F``: the matrix ``F'F`` is never formed."""
    rows, columns = F.shape
    curve = check_z(z)
    small = F if columns <= rows else F.adjoint()
    dense = small.to_dense().double().cpu()
    if not bool(torch.isfinite(dense).all()):
        raise ValueError(message("A", "have finite products", "NaN or infinity"))
    squares = singular_values(dense).square()
    sums = dimension_terms(squares, curve, negative).sum(dim=0)
    blocks = math.ceil(small.shape[1] / small.block_size)
    return EffectiveDimension(
        of=F.info,
        cost=Cost(
            num_matvecs=small.shape[1], num_data_passes=blocks * F.passes_per_product
        ),
        settings={"negative": negative},
        z=curve,
        values=sums,
        standard_errors=torch.zeros_like(sums),
        method="factors",
        negative=negative,
        negative_mass=0.0,
        negative_count=0.0,
        dimension=columns,
    )


def logdet(
    A: Any,
    *,
    damping: float = 0.0,
    num_probes: int = 10,
    num_steps: int = 64,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""Estimate the log-determinant of the damped matrix by SLQ.

    .. math:: \log\det(A + \delta I) = \sum_{i=1}^{n} \log(\lambda_i + \delta)

    Args:
        A: Symmetric operator, or anything `aslinearoperator` takes.
        damping: Added to the diagonal; it must exceed ``-lambda_min``.
        num_probes: Probes; if at least ``n``, the value is exact.
        num_steps: Lanczos steps of each.
        generator: Source of the probes; a fresh one with a fixed seed if ``None``.

    Returns:
        The estimate; ``bias_bound`` is the change that the last steps made.

    Raises:
        ValueError: If the damped matrix is seen not to be positive definite.

    Cost:
        ``num_probes * num_steps`` products in ``num_steps`` blocks.

    Example:
        >>> round(logdet(torch.eye(3), damping=1.0, num_probes=3).value, 4)
        2.0794

    References:
        Ubaru, Chen and Saad (2017), doi:10.1137/16M1104974.
    """
    operator = symmetric_operator(A)
    damping = real("damping", damping, minimum=0.0)
    source = slq(
        operator, num_probes=num_probes, num_steps=num_steps, generator=generator
    )
    nodes, weights, n = source.nodes, source.weights, source.dimension
    eps = torch.finfo(torch.float32 if operator.dtype.itemsize < 4 else operator.dtype)
    real_nodes = nodes[weights > 0.0]
    smallest = float(real_nodes.min())
    rounding = _ZERO_EPS * eps.eps * float(real_nodes.abs().max())
    if smallest + damping <= rounding:
        contract = "make the matrix positive definite"
        remedy = f"Its smallest Ritz value is {smallest:.3g}: use a larger damping."
        raise ValueError(message("damping", contract, damping, remedy))

    def logarithms(values: Tensor, shares: Tensor) -> Tensor:
        return torch.log(torch.where(shares > 0.0, values + damping, 1.0))

    mean = sphere_mean(logarithms(nodes, weights), weights, n, exact=source.exact)
    bias = 0.0
    if not source.exact and nodes.shape[1] > 1:
        fewer = nodes.shape[1] - max(1, nodes.shape[1] // 8)
        before, shares = coarser(nodes, weights, fewer)
        other = sphere_mean(logarithms(before, shares), shares, n, exact=False)
        bias = abs(float(other.trace - mean.trace))
    return Estimate(
        of=operator.info,
        cost=source.cost,
        settings={**source.settings, "damping": damping},
        notes=source.notes,
        quantity="log-determinant",
        value=float(mean.trace),
        standard_error=float(mean.standard_error),
        degrees_of_freedom=math.inf if source.exact else sphere_degrees(nodes.shape[0]),
        method="exact" if source.exact else "slq",
        samples=None if source.exact else mean.samples[:, 0],
        bias_bound=bias,
    )
