"""Trap 9: absolute tolerances, such as a division by ``norm + 1e-6``.

The loss's unit is the user's. With the loss scaled by 1e-8, a widely used code's top
eigenvalue, in units of that scale, fell from 0.615 to 0.506.
"""

import torch
from torch import Tensor, nn

from curvescope.testing.traps.common import (
    MakeHessian,
    TopEigenvalues,
    attempt,
    planted,
    reference_hessian,
    require_close,
    small_data,
    small_net,
    split,
)

SCALES = (1e-12, 1e12)


class ScaledCrossEntropy(nn.Module):
    """A cross-entropy in another unit."""

    def __init__(self, scale: float, reduction: str = "mean") -> None:
        super().__init__()
        self.scale = scale
        self.reduction = reduction

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the scaled loss."""
        plain = nn.functional.cross_entropy(outputs, targets, reduction=self.reduction)
        return self.scale * plain


def check(top_eigenvalues: TopEigenvalues) -> None:
    """Check that eigenvalues scale with the matrix, in float32 and float64.

    Raises:
        AssertionError: If they do not.
    """
    bulk = torch.linspace(0.0, 0.3, 57, dtype=torch.float64)
    A = planted(torch.cat([torch.tensor([0.615, -0.5, 0.4]), bulk]))
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-8)):
        one = attempt(top_eigenvalues, A.to(dtype), 3, "LM").double()
        for scale in SCALES:
            scaled = (A * scale).to(dtype)
            got = attempt(top_eigenvalues, scaled, 3, "LM").double() / scale
            what = f"a matrix scaled by {scale:g} in {dtype}"
            require_close(got.sort().values, one.sort().values, tolerance, what)


def check_hessian(make_hessian: MakeHessian) -> None:
    """Check that the Hessian scales with the loss, in float32 and float64.

    Raises:
        AssertionError: If it does not.
    """
    X, y = small_data()
    expected = reference_hessian(small_net(), nn.CrossEntropyLoss(), X, y)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        for scale in SCALES:
            batches = split(X.to(dtype), y, (7, 3))
            loss = ScaledCrossEntropy(scale)
            got = attempt(make_hessian, small_net().to(dtype), loss, batches)
            what = f"a loss scaled by {scale:g} in {dtype}"
            require_close(got.double() / scale, expected, tolerance, what)


def foil(matrix: Tensor, k: int, which: str) -> Tensor:
    """Deflated power iteration that divides by ``norm + 1e-6``, which is wrong."""
    del which
    found: list[Tensor] = []
    values = []
    generator = torch.Generator().manual_seed(0)
    for _ in range(k):
        v = torch.randn(len(matrix), generator=generator, dtype=torch.float64)
        v = v.to(matrix.dtype)
        for _ in range(300):
            for u in found:
                v = v - (u @ v) * u
            v = v / (v.norm() + 1e-6)
            w = matrix @ v
            value = float(v @ w)
            v = w / (w.norm() + 1e-6)
        found.append(v / v.norm().clamp_min(1e-30))
        values.append(value)
    return torch.tensor(values, dtype=torch.float64)
