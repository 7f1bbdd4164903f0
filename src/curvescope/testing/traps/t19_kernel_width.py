"""Trap 19: a smoothing kernel of absolute width.

A density smoothed with a fixed variance of 1e-5 is one hump for a spectrum of width
1e-3, and a comb for one of width 1e3. The width must follow the data.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from curvescope.testing.traps.common import attempt, planted

# matrix -> grid (increasing) and density on it
Density = Callable[[Tensor], tuple[Tensor, Tensor]]


def check(density: Density) -> None:
    """Check two separate clusters, at three scales: mass 1, a gap between two humps.

    Raises:
        AssertionError: If a scale changes the picture.
    """
    low, high = torch.linspace(0.0, 1.0, 40), torch.linspace(4.0, 5.0, 40)
    A = planted(torch.cat([low, high]))
    for scale in (1.0, 1e-6, 1e6):
        grid, values = attempt(density, scale * A)
        x, f = grid.double() / scale, values.double() * scale
        mass = float(torch.trapezoid(f, x))
        assert abs(mass - 1.0) < 0.02, f"at scale {scale:g} the mass is {mass:.4g}"
        within = [
            float(torch.trapezoid(f.where((x > a) & (x < b), 0.0 * f), x))
            for a, b in ((-0.9, 1.9), (2.2, 2.8), (3.1, 5.9))
        ]
        left, gap, right = within
        assert min(left, right) > 0.4, f"at scale {scale:g} the clusters hold {within}"
        assert gap < 0.05, f"at scale {scale:g} the gap holds {gap:.3f} of the mass"


def foil(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Smooth with a variance of 1e-5 in absolute terms, which is wrong."""
    values = torch.linalg.eigvalsh(matrix)
    grid = torch.linspace(float(values.min()) - 0.1, float(values.max()) + 0.1, 1000)
    z = (grid[:, None].double() - values) / 1e-5**0.5
    kernel = torch.exp(-0.5 * z * z) / (2 * torch.pi * 1e-5) ** 0.5
    return grid.double(), kernel.mean(1)
