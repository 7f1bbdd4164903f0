"""How far a spectrum by quadrature is from the true one, as the area between two CDFs."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from curvescope.linalg.slq import each_coarser, sphere_degrees
from curvescope.results import student_t_quantile

_LEVEL = 0.95
_DRAWS = 400
_MOST_PLACES = 2048
_FEWER = (2 / 3, 4 / 5)


@dataclass(frozen=True)
class DensityErrors:
    r"""The two parts of the Wasserstein-1 distance to the spectrum, over its range.

    .. math:: W_1(\hat\mu, \mu) = \int |\hat F(x) - F(x)| \, dx

    Attributes:
        probes: What the probes' chance leaves, with a probability of 95 %.
        steps: What too few Lanczos steps leave, see `density_errors`.
        span: The range: largest less smallest node.
    """

    probes: float
    steps: float
    span: float

    @property
    def total(self) -> float:
        """Both together; they are independent of each other."""
        return math.hypot(self.probes, self.steps)


def _sorted(nodes: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return used nodes, ascending, and their shares of the mean over probes."""
    used = weights > 0.0
    values, order = nodes[used].sort()
    return values, weights[used][order] / nodes.shape[0]


def wasserstein(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """Return the area between the CDFs of two discrete measures ``(values, shares)``."""
    values, order = torch.cat([first[0], second[0]]).sort()
    shares = torch.cat([first[1], -second[1]])[order]
    height = shares.cumsum(0)[:-1].abs()
    return float((height * values.diff()).sum())


def density_errors(nodes: Tensor, weights: Tensor, n: int) -> DensityErrors:
    r"""Estimate how far quadratures are from the spectrum, without products.

    For probes on the sphere :math:`\hat F - F` has the covariance of a Brownian bridge,
    :math:`2 F(x) (1 - F(y)) / ((n + 2) p)` for :math:`x \le y`: the probes' part is the
    95 % quantile of the area under such bridges, drawn here.

    The steps' part is the smaller of two numbers. The larger one of the distances to the
    quadratures of two thirds and of four fifths of the steps: one distance alone is small
    where two rules happen to agree. And the area that the inequalities of Chebyshev,
    Markov and Stieltjes leave between the nodes: there the CDF of what a probe sees is
    off by the larger of both weights at most.

    References:
        Golub and Meurant (2010), Matrices, Moments and Quadrature, section 6; Chen,
        Trogdon and Ubaru (2021), arXiv:2105.06595.
    """
    values, shares = _sorted(nodes, weights)
    span = float(values[-1] - values[0])
    if span == 0.0:
        return DensityErrors(0.0, 0.0, 0.0)
    probes = math.sqrt(2.0 / ((n + 2.0) * nodes.shape[0])) * _bridge(values, shares)
    # The CDF in the covariance is that of the same probes: calibrated as their errors.
    degrees = sphere_degrees(nodes.shape[0])
    probes *= student_t_quantile(0.975, degrees) / student_t_quantile(0.975, math.inf)
    steps = _unresolved(nodes, weights)
    if nodes.shape[1] >= 3:
        counts = sorted({math.ceil(part * nodes.shape[1]) for part in _FEWER})
        changes = [
            wasserstein((values, shares), _sorted(*before))
            for before in each_coarser(nodes, weights, counts)
        ]
        steps = min(steps, max(changes))
    return DensityErrors(probes / span, steps / span, span)


def _bridge(values: Tensor, shares: Tensor) -> float:
    """Return the 95 % quantile of the area under a Brownian bridge along the CDF."""
    stride = math.ceil(len(values) / _MOST_PLACES)
    F = shares.cumsum(0)[stride - 1 :: stride]
    places = values[stride - 1 :: stride]
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(_DRAWS, len(F), generator=generator, dtype=torch.float64)
    widths = torch.diff(F, prepend=F.new_zeros(1)).clamp_min(0.0)
    walk = (draws * widths.sqrt()).cumsum(1)
    bridge = walk - F / F[-1] * walk[:, -1:]
    areas = (bridge[:, :-1].abs() * places.diff()).sum(dim=1)
    return float(areas.quantile(_LEVEL))


def _unresolved(nodes: Tensor, weights: Tensor) -> float:
    """Return the area between nodes in which the CDF of a probe may lie, in the mean."""
    total = 0.0
    for row, shares in zip(nodes, weights, strict=True):
        used = shares > 0.0
        if not bool(used.all()):
            continue  # the Krylov space ended: these nodes are eigenvalues
        values, order = row.sort()
        w = shares[order]
        heights = torch.maximum(w[1:], w[:-1])
        total += float((heights * values.diff()).sum())
    return total / nodes.shape[0]
