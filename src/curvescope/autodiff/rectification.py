"""Rectifiers whose second derivative makes no zeros.

The gradient ``g [y > 0]`` does not depend on y but for a null set. Autograd fills a tensor
with zeros for that, and adds it to what else reaches the layer: in a convolutional network
7 % of a Hessian's product.
"""

from typing import Any

import torch
from torch import Tensor


class Rectification(torch.autograd.Function):
    """``max(x, 0)``.

    Args of `apply`: input, and whether it is overwritten.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        inplace: bool,  # noqa: FBT001 - autograd functions take no keywords
    ) -> Tensor:
        """Return ``max(x, 0)``."""
        if inplace:
            ctx.mark_dirty(x)
        y = x.relu_() if inplace else x.relu()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return the gradient, differentiable by the output's gradient alone."""
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grads[0], y.detach(), 0), None
