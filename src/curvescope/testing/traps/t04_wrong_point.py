"""Trap 4: the right formula at the wrong point, or of the wrong function.

A released tool for language models differentiates at the probe vector instead of at
the weights, and the mean of the logits instead of the loss: its operator is not even
linear.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from curvescope.testing.traps.common import (
    Batches,
    MakeProduct,
    attempt,
    gradient,
    pure,
    require_close,
    small_data,
    small_net,
    split,
)


def check(make_product: MakeProduct) -> None:
    """Check linearity, symmetry and ``H v`` against differences of the gradient at theta.

    Raises:
        AssertionError: If one fails.
    """
    model, loss, (X, y) = small_net(), nn.CrossEntropyLoss(), small_data()
    product = attempt(make_product, model, loss, split(X, y, (7, 3)))
    _, theta = pure(model)
    generator = torch.Generator().manual_seed(3)
    draw = torch.randn(2, len(theta), generator=generator, dtype=torch.float64)
    u, v = draw
    Hu, Hv = attempt(product, u), attempt(product, v)
    require_close(attempt(product, u - 2.0 * v), Hu - 2.0 * Hv, 1e-10, "linearity")
    require_close(u @ Hv, v @ Hu, 1e-10, "symmetry")
    step = 1e-4
    above, below = (
        gradient(model, loss, X, y, theta + sign * step * v).detach()
        for sign in (1.0, -1.0)
    )
    require_close(Hv, (above - below) / (2 * step), 1e-6, "differences at the weights")


def foil(
    model: nn.Module, loss: nn.Module, batches: Batches
) -> Callable[[Tensor], Tensor]:
    """Multiply by the Hessian at the probe vector, which is wrong."""
    data = list(batches)

    def product(v: Tensor) -> Tensor:
        leaf = v.clone().requires_grad_()
        total, num = torch.zeros_like(v), 0
        for X, y in data:
            g = gradient(model, loss, X, y, leaf)
            total += len(y) * torch.autograd.grad(g @ v, leaf)[0]
            num += len(y)
        return total / num

    return product
