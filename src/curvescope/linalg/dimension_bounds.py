"""Bounds of the effective dimension from certified eigenpairs."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from curvescope._core.checks import message, one_of
from curvescope.linalg._dimension_quadrature import check_z
from curvescope.results import DimensionBounds, EffectiveDimension, Eigenpairs, Estimate

# What a product of this precision may differ from the exact one by, as in `eigsh`.
_ROUNDING = 32.0


def dimension_bounds(
    pairs: Eigenpairs,
    *,
    z: float | Tensor | list[float],
    negative: str = "clip",
    trace: Estimate | None = None,
    positive_semidefinite: bool = False,
    dtype: torch.dtype | None = None,
) -> DimensionBounds:
    r"""Bound the effective dimension from both sides by certified eigenpairs.

    With ``k`` pairs, eigenvalues descending, residual norms ``r``, and
    ``f(x) = x / (x + z)``, 0 for what ``negative="clip"`` clips:

    .. math:: \sum_{i \le k} f\Bigl(\lambda_i - \bigl(\textstyle\sum_{j \le i}
        r_j^2\bigr)^{1/2}\Bigr) \;\le\; N_\mathrm{eff} \;\le\;
        \sum_{i \le k} f(\lambda_i + \rho) + (n - k)\,
        f\bigl(\min(\lambda_k + \rho,\ S / (n - k))\bigr)

    The lower bound is Cauchy's interlacing, and holds for any orthonormal vectors: it
    asks for no convergence, nor that no eigenvalue was missed. The upper one does:
    ``rho`` is ``sqrt(2)`` times the norm of all residuals, and ``S`` what ``trace``
    leaves for the other eigenvalues, which none may be negative for.

    Args:
        pairs: The result of `eigsh`.
        z: One number or several, above 0, in the unit of an eigenvalue.
        negative: ``"clip"``, which bounds the sum over the positive eigenvalues, or
            ``"abs"``.
        trace: Of the whole matrix; its 95 % interval is used, and only where
            ``positive_semidefinite``.
        positive_semidefinite: Whether no eigenvalue is negative.
        dtype: Precision of the products; by default that of the eigenvectors, or
            float32 where they were not kept.

    Returns:
        Lower and upper bounds, one a place.

    Raises:
        ValueError: If ``z`` is not above 0 or ``negative`` is another word.

    Cost:
        No products.

    Example:
        >>> from curvescope.linalg import eigsh
        >>> pairs = eigsh(torch.diag(torch.tensor([3.0, 1.0, 0.5])).double(), k=2)
        >>> found = dimension_bounds(pairs, z=1.0)
        >>> round(float(found.lower), 3), round(float(found.upper), 3)
        (1.25, 1.75)

    References:
        Parlett (1998), The Symmetric Eigenvalue Problem, theorems 10.1.1 and 11.5.1.
    """
    one_of("negative", negative, ("clip", "abs"))
    places = check_z(z)
    dimension = pairs.of.num_params or len(pairs.eigenvalues)
    values = pairs.eigenvalues.double().cpu()
    sizes = values.abs() if negative == "abs" else values
    order = torch.argsort(sizes, descending=True, stable=True)
    slack = _slack(pairs, dtype)[order]
    # The i-th eigenvalue is no less than the least one on the first i vectors' span.
    surely = sizes[order] - slack.square().cumsum(0).sqrt()
    rho = math.sqrt(2.0) * float(slack.norm())
    lower = _summed(surely, places)
    known = _summed(sizes + rho, places)
    rest = dimension - len(values)
    cap = _largest_other(pairs, sizes, negative)
    upper_from = "number" if rest == 0 or math.isfinite(cap) else "nothing"
    most = cap + rho
    if trace is not None and positive_semidefinite and rest:
        high = trace.interval()[1]
        left = max(0.0, high - float(surely.clamp_min(0.0).sum()))
        if left / rest < most:
            most, upper_from = left / rest, "sum"
    others = torch.ones_like(places)
    if math.isfinite(most):
        others = max(most, 0.0) / (max(most, 0.0) + places)
    return DimensionBounds(
        of=pairs.of,
        cost=pairs.cost,
        settings={"which": pairs.which, "tolerance": pairs.tolerance},
        z=places,
        lower=lower,
        upper=known + rest * others,
        negative=negative,
        num_pairs=len(values),
        dimension=dimension,
        upper_from=upper_from,
    )


def with_bounds(
    curve: EffectiveDimension, bounds: DimensionBounds
) -> EffectiveDimension:
    """Put bounds beside an estimate, and say in words whether they agree.

    Args:
        curve: An effective dimension, of the same matrix.
        bounds: At the same ``z``.

    Returns:
        The curve with its ``bounds``, and their ``verdict``; a contradiction is also
        one of the notes.

    Raises:
        ValueError: If ``z``, or the treatment of negative eigenvalues, differ.

    Cost:
        No products.

    Example:
        >>> from curvescope.linalg import effective_dimension, eigsh
        >>> A = torch.diag(torch.tensor([3.0, 1.0, 0.5]).double())
        >>> curve = effective_dimension(A, z=1.0)
        >>> pairs = eigsh(A, k=2)
        >>> with_bounds(curve, dimension_bounds(pairs, z=1.0)).bounds.verdict[:7]
        'checked'
    """
    same = curve.z.shape == bounds.z.shape and torch.allclose(
        curve.z, bounds.z, rtol=1e-12, atol=0.0
    )
    if not same or curve.negative != bounds.negative:
        contract = f"be at the same z, with negative={curve.negative!r}"
        raise ValueError(message("bounds", contract, bounds.headline()))
    verdict, agree = _verdict(curve, bounds)
    notes = curve.notes if agree else (*curve.notes, verdict)
    return replace(curve, bounds=replace(bounds, verdict=verdict), notes=notes)


def _verdict(curve: EffectiveDimension, bounds: DimensionBounds) -> tuple[str, bool]:
    low, high = curve.band()
    # An exact curve has no band but its rounding.
    eps = 1e-9 * curve.values.abs()
    above, below = bounds.lower > high + eps, bounds.upper < low - eps
    pairs = f"{bounds.num_pairs} certified eigenpairs"
    wrong = []
    if bool(above.any()):
        at = int(above.long().argmax())
        wrong.append(
            f"at z = {float(curve.z[at]):.3g} the lower bound {float(bounds.lower[at]):.4g} "
            f"exceeds the interval, which ends at {float(high[at]):.4g}"
        )
    if bool(below.any()):
        at = int(below.long().argmax())
        wrong.append(
            f"at z = {float(curve.z[at]):.3g} the upper bound {float(bounds.upper[at]):.4g} "
            f"is below the interval, which begins at {float(low[at]):.4g}"
        )
    if wrong:
        text = (
            f"CONTRADICTION: {'; '.join(wrong)}. The bounds are from {pairs}: the band "
            "is too narrow there, which a 95 % interval may be; use more probes and steps"
        )
        return text, False
    share = bounds.lower / curve.values.clamp_min(1e-300)
    text = (
        f"checked: at all {len(curve.z)} z the interval is compatible with the bounds of "
        f"{pairs}; these pairs alone account for {100 * float(share.min()):.3g} % (z = "
        f"{float(curve.z[share.argmin()]):.3g}) to "
        f"{min(100.0, 100 * float(share.max())):.3g} % (z = "
        f"{float(curve.z[share.argmax()]):.3g}) of the estimate"
    )
    for sharper, side in (
        (bounds.lower > low + eps, "lower"),
        (bounds.upper < high - eps, "upper"),
    ):
        if bool(sharper.any()):
            first = float(curve.z[int(sharper.long().argmax())])
            text += (
                f"; from z = {first:.3g} on the {side} bound is sharper than the band"
            )
    vague = curve.says_little()
    return (f"{vague}. Beside it: {text}" if vague else text), True


def _slack(pairs: Eigenpairs, dtype: torch.dtype | None) -> Tensor:
    """Return the residual norms, and the rounding that they may not show."""
    if dtype is None:
        vectors = pairs.eigenvectors
        dtype = torch.float32 if vectors is None else vectors.dtype
    eps = torch.finfo(dtype).eps
    residuals = pairs.residual_norms.double().cpu()
    return residuals.clamp_min(_ROUNDING * eps * pairs.norm)


def _summed(values: Tensor, z: Tensor) -> Tensor:
    positive = values.clamp_min(0.0)[:, None]
    return (positive / (positive + z)).sum(dim=0)


def _largest_other(pairs: Eigenpairs, sizes: Tensor, negative: str) -> float:
    """Return what no other eigenvalue exceeds, infinite where that is not known."""
    if len(sizes) == 0 or not bool(pairs.converged.all()):
        return math.inf
    if pairs.which == "LM":
        return float(pairs.eigenvalues.abs().min())
    if negative == "abs" or pairs.which not in ("LA", "BE"):
        return math.inf
    high = len(sizes) if pairs.which == "LA" else (len(sizes) + 1) // 2
    return float(sizes.sort(descending=True).values[high - 1])
