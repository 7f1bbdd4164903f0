"""The effective dimension from quadratures, with the error of probes and of steps."""

import math

import torch
from torch import Tensor

from curvescope._core.checks import describe, message
from curvescope.linalg.slq import (
    Quadrature,
    each_coarser,
    from_below,
    sphere_degrees,
    sphere_mean,
)
from curvescope.results import EffectiveDimension, SpectralDensity

_ZERO_EPS = 100.0
# Ritz values so little below zero, of the largest, are taken for rounding of zeros.
_ROUNDING = 1e-6
# For how many places a decade the error of too few steps is looked at.
_PER_DECADE = 8


def check_z(z: float | Tensor | list[float]) -> Tensor:
    """Return the places, ascending."""
    contract = "be a real number or several"
    if isinstance(z, (str, bytes)) or (isinstance(z, Tensor) and z.is_complex()):
        raise TypeError(message("z", contract, describe(z)))
    try:
        values = torch.as_tensor(z, dtype=torch.float64).detach().reshape(-1).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(message("z", contract, describe(z))) from None
    good = len(values) > 0 and bool((torch.isfinite(values) & (values > 0)).all())
    if not good:
        raise ValueError(message("z", "be finite and above 0", describe(z)))
    return values.unique(sorted=True)


def dimension_terms(values: Tensor, z: Tensor, negative: str) -> Tensor:
    """Return ``lambda / (lambda + z)``, the last axis over ``z``."""
    if negative == "clip":
        values = values.clamp_min(0.0)
    elif negative == "abs":
        values = values.abs()
    else:
        nearest = (values[..., None] + z).abs() <= 1e-3 * z
        if bool(nearest.any()):
            remedy = 'Use `negative="clip"`.'
            text = message(
                "z", "stay away from -lambda", "an eigenvalue near -z", remedy
            )
            raise ValueError(text)
    return values[..., None] / (values[..., None] + z)


def dimension_from_quadrature(
    source: Quadrature | SpectralDensity,
    z: float | Tensor | list[float],
    negative: str,
) -> EffectiveDimension:
    """Sum over nodes and weights; see `effective_dimension`."""
    curve = check_z(z)
    nodes, weights, n = source.nodes, source.weights, source.dimension
    exact = isinstance(source, Quadrature) and source.exact
    if isinstance(source, SpectralDensity):
        exact = math.isinf(source.degrees_of_freedom or 0.0)
    used = torch.where(weights > 0.0, nodes, 0.0)
    mean = sphere_mean(dimension_terms(used, curve, negative), weights, n, exact=exact)
    probes = nodes.shape[0]
    notes = list(source.notes)
    values, quadrature = mean.trace, torch.zeros_like(curve)
    bracketed = bool(source.settings.get("positive_semidefinite", False))
    if not exact:
        if not bracketed and nodes.shape[1] > 1:
            quadrature = _change(nodes, weights, curve, negative, n)
        if bracketed or _none_below_zero(nodes, weights):
            least = torch.minimum(_least(nodes, weights, curve, n), mean.trace)
            values = (mean.trace + least) / 2.0
            # Where it is not certain, the changes of few steps may still be larger.
            quadrature = torch.maximum(quadrature, (mean.trace - least) / 2.0)
        notes += _doubts(
            curve, quadrature, mean.standard_error, nodes, bracketed=bracketed
        )
    below = below_zero(used, weights)
    return EffectiveDimension(
        of=source.of,
        cost=source.cost,
        settings={**source.settings, "negative": negative},
        notes=tuple(notes),
        z=curve,
        values=values,
        standard_errors=mean.standard_error,
        degrees_of_freedom=math.inf if exact else sphere_degrees(probes),
        quadrature_errors=quadrature,
        bracketed=bracketed and not exact,
        method="exact" if exact else "slq",
        negative=negative,
        negative_mass=n * float((weights * used.abs() * below).sum()) / probes,
        negative_count=n * float((weights * below).sum()) / probes,
        dimension=n,
    )


def _none_below_zero(nodes: Tensor, weights: Tensor) -> bool:
    """Tell whether the matrix is, as far as the Ritz values show, semidefinite.

    Changes over the last steps see only what these steps resolve: at smaller ``z`` every
    rule is as wrong. Gauss-Radau, with its node at zero, sees how much there may be.
    """
    used = nodes[weights > 0.0]
    return float(used.min()) >= -_ROUNDING * float(used.abs().max())


def _least(nodes: Tensor, weights: Tensor, z: Tensor, n: int) -> Tensor:
    """Return what a positive semidefinite matrix's sums are at least, by Gauss-Radau."""
    real_nodes = nodes[weights > 0.0]
    size = float(real_nodes.abs().max())
    # Rounding alone makes a Ritz value negative; the spectrum ends about as far below.
    floor = min(0.0, 2.0 * float(real_nodes.min())) - 1e-14 * size
    if nodes.shape[1] >= n:  # the whole spectrum of each probe's measure
        floor_nodes, shares = nodes, weights
    else:
        floor_nodes, shares = from_below(nodes, weights, floor)
    x = torch.where(shares > 0.0, floor_nodes, 0.0)[..., None]
    sums = n * (shares[..., None] * x / (x + z)).sum(dim=1).mean(dim=0)
    # So far down nothing is known but that no term is negative.
    return torch.where(z > -4.0 * floor, sums, 0.0).clamp_min(0.0)


def _change(nodes: Tensor, weights: Tensor, z: Tensor, negative: str, n: int) -> Tensor:
    """Estimate the error of the steps: the largest change since any of fewer steps.

    One change alone may vanish where the curves of two rules cross, and a rule whose
    innermost node changes sides of zero jumps from one step to the next: so several
    rules are compared, the last one's neighbour among them. What smaller ``z`` ask for
    is never resolved better: the error is the largest at any ``z`` above.
    """
    largest = max(float(nodes.nan_to_num(0.0).abs().max()), float(z.max()))
    decades = math.log10(largest / float(z.min()))
    number = 1 + math.ceil(_PER_DECADE * decades)
    start, end = math.log10(float(z.min())), math.log10(largest)
    grid = torch.logspace(start, end, number, dtype=torch.float64)
    places = torch.cat([grid, z]).unique(sorted=True)
    steps = nodes.shape[1]
    fewer = {*(max(1, part * steps // 8) for part in (4, 5, 6, 7)), steps - 1}

    def sums(x: Tensor, w: Tensor) -> Tensor:
        x = torch.where(w > 0.0, x, 0.0)
        return sphere_mean(
            dimension_terms(x, places, negative), w, n, exact=False
        ).trace

    last = sums(nodes, weights)
    changes = [
        (sums(*rule) - last).abs()
        for rule in each_coarser(nodes, weights, sorted(fewer))
    ]
    change = torch.stack(changes).amax(dim=0)
    widest = change.flip(0).cummax(0).values.flip(0)
    return widest[torch.searchsorted(places, z)]


def _doubts(
    z: Tensor, quadrature: Tensor, error: Tensor, nodes: Tensor, *, bracketed: bool
) -> list[str]:
    """Say where the steps, not the probes, limit the answer."""
    doubtful = quadrature > error
    if not bool(doubtful.any()):
        return []
    text = (
        f"for z up to {float(z[doubtful].max()):.3g} the error of the "
        f"{nodes.shape[1]} steps, up to {float(quadrature.max()):.3g}, exceeds that of "
        "the probes"
    )
    advice = 'use more steps, or `method="exact"`'
    if bracketed:
        return [f"{text}; it is certain, by Gauss-Radau: use more steps to narrow it"]
    sizes = nodes.abs().nan_to_num(math.inf).amin(dim=1)
    smallest = float(sizes.median())
    below = z[z < smallest]
    if not len(below):
        return [f"{text}: {advice}"]
    unseen = (
        f"; z = {float(below.min()):.3g} lies below {smallest:.3g}, the smallest size "
        f"that these steps see, and there the band may be too narrow: {advice}"
    )
    return [text + unseen]


def below_zero(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Tell which values are below zero by more than rounding."""
    largest = float(values.abs().max()) if values.numel() else 0.0
    below = values < -_ZERO_EPS * torch.finfo(torch.float64).eps * largest
    return below if weights is None else below & (weights > 0.0)
