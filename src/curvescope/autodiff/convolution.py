"""Convolutions whose second derivative is as cheap as their first (on a CPU).

Autograd differentiates a convolution's backward pass with convolutions whose kernel is
as large as the image, 2 to 5 times slower than the backward kernel itself. Here that
derivative is written with `convolution_backward` again: for g_x = w^T * g and
g_w = corr(x, g), the pullback of (v_x, v_w) is

    to g: w * v_x + v_w * x      (two forward convolutions)
    to x: v_w^T * g              (the input half of one convolution_backward)
    to w: corr(v_x, g)           (its weight half)

A Jacobian's product needs the first of them only. Autograd computes the others as well,
if x and w have gradients of their own: half of the work of a Gauss-Newton product.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class ConvSettings(NamedTuple):
    """Everything of a 2-d convolution but input and weight."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def _forward(x: Tensor, w: Tensor, s: ConvSettings) -> Tensor:
    return torch.conv2d(x, w, None, s.stride, s.padding, s.dilation, s.groups)


def _backward(
    g: Tensor, x: Tensor, w: Tensor, s: ConvSettings, mask: Sequence[bool]
) -> tuple[Tensor, Tensor]:
    no_padding = [0] * len(s.padding)
    gx, gw, _ = torch.ops.aten.convolution_backward(
        g, x, w, None, s.stride, s.padding, s.dilation, False, no_padding, s.groups,
        [*mask, False],
    )  # fmt: skip
    return gx, gw


class Convolution(torch.autograd.Function):
    """A 2-d convolution without bias, twice differentiable at the price above.

    Args of `apply`: input, weight, settings, and ``whole``: whether the gradients may be
    differentiated by input and weight, or only by the output's gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w: Tensor,
        settings: ConvSettings,
        whole: bool,  # noqa: FBT001 - autograd functions take no keywords
    ) -> Tensor:
        """Return ``w * x``."""
        ctx.save_for_backward(x, w)
        ctx.settings, ctx.whole = settings, whole
        return _forward(x, w, settings)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of input and weight, differentiable once more."""
        x, w = ctx.saved_tensors
        need_x, need_w = ctx.needs_input_grad[:2]
        if not ctx.whole:
            x, w = x.detach(), w.detach()
        gx, gw = _ConvolutionBackward.apply(
            grads[0], x, w, ctx.settings, need_x, need_w
        )
        return gx, gw, None, None


class _ConvolutionBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        w: Tensor,
        settings: ConvSettings,
        need_x: bool,  # noqa: FBT001 - autograd functions take no keywords
        need_w: bool,  # noqa: FBT001
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.save_for_backward(g, x, w)
        ctx.settings = settings
        ctx.set_materialize_grads(False)
        gx, gw = _backward(g, x, w, settings, (need_x, need_w))
        return (gx if need_x else None), (gw if need_w else None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        v_x, v_w = grads
        g, x, w = ctx.saved_tensors
        need_g, need_x, need_w = ctx.needs_input_grad[:3]
        to_g = to_x = to_w = None
        if need_g and v_w is not None:
            to_g = _forward(x, v_w, ctx.settings)
        if need_g and v_x is not None:
            other = _forward(v_x, w, ctx.settings)
            to_g = other if to_g is None else to_g.add_(other)
        mask = (need_x and v_w is not None, need_w and v_x is not None)
        if any(mask):
            to_x, to_w = _backward(
                g,
                x if v_x is None else v_x,
                w if v_w is None else v_w,
                ctx.settings,
                mask,
            )
        return (
            to_g,
            to_x if mask[0] else None,
            to_w if mask[1] else None,
            None,
            None,
            None,
        )
