r"""Layer normalisation whose second derivative is written out.

With ``h = (x - mean) r``, ``r`` the inverse deviation, ``m`` the mean over the
normalised entries and ``P z = z - m(z) - h m(h z)``, the gradients are

    to x: r P(w g)      to w: sum g h      to b: sum g

and the pullback of ``(v_x, v_w, v_b)`` through them is

    to g: w r P(v_x) + v_w h + v_b
    to w: sum g r P(v_x)
    to x: r P(v_w g - r (v_x m(h a) + a m(h v_x))) - r^2 h m(v_x P a),  a = w g

A Jacobian's product needs the first line only; autograd computes all three.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def layer_norm(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    second_order: bool,
) -> Tensor:
    """Normalise over the last dimensions, differentiably twice.

    Args:
        x: Input.
        shape: Its last dimensions, those that are normalised.
        weight: Factor, or ``None``.
        bias: Summand, or ``None``.
        eps: Added to the variance.
        second_order: Whether the gradients may be differentiated by x and weight, or
            only by the output's gradient.
    """
    size = len(shape)
    normal = _LayerNorm.apply(x, weight, tuple(shape), eps, second_order)
    return normal if bias is None else normal + bias.reshape(x.shape[-size:])


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        shape: tuple[int, ...],
        eps: float,
        whole: bool,  # noqa: FBT001 - autograd functions take no keywords
    ) -> Tensor:
        output, mean, rate = torch.native_layer_norm(x, shape, weight, None, eps)
        ctx.save_for_backward(x, weight, mean, rate)
        ctx.shape, ctx.whole = shape, whole
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rate = ctx.saved_tensors
        needs = ctx.needs_input_grad[:2]
        if not ctx.whole:
            x, weight = x.detach(), None if weight is None else weight.detach()
        to_x, to_weight = _LayerNormBackward.apply(
            grads[0], x, weight, mean, rate, ctx.shape, needs
        )
        return to_x, to_weight, None, None, None


class _LayerNormBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        weight: Tensor | None,
        mean: Tensor,
        rate: Tensor,
        shape: tuple[int, ...],
        needs: tuple[bool, bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.save_for_backward(g, x, weight, mean, rate)
        ctx.shape = shape
        ctx.set_materialize_grads(False)
        to_x, to_weight, _ = torch.ops.aten.native_layer_norm_backward(
            g.contiguous(), x, shape, mean, rate, weight, None, [*needs, False]
        )
        return (to_x if needs[0] else None), (to_weight if needs[1] else None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        v_x, v_w = grads
        g, x, weight, mean, rate = ctx.saved_tensors
        need_g, need_x, need_w = ctx.needs_input_grad[:3]
        last = tuple(range(-len(ctx.shape), 0))
        h = (x - mean) * rate

        def projected(z: Tensor) -> Tensor:
            """``r P z``, by the kernel of the first backward pass."""
            found, _, _ = torch.ops.aten.native_layer_norm_backward(
                z.contiguous(), x, ctx.shape, mean, rate, None, None,
                [True, False, False],
            )  # fmt: skip
            return found

        along = None if v_x is None else projected(v_x)
        to_g = to_x = to_w = None
        if need_g:
            if along is not None:
                to_g = along if weight is None else along * weight
            if v_w is not None:
                to_g = v_w * h if to_g is None else torch.addcmul(to_g, h, v_w)
        if need_w and along is not None:
            to_w = (g * along).sum(tuple(range(x.ndim - len(ctx.shape))))
        if need_x:
            a = g if weight is None else g * weight
            inner = None if v_w is None else v_w * g
            if v_x is not None:
                bent = v_x * (h * a).mean(last, keepdim=True)
                bent += a * (h * v_x).mean(last, keepdim=True)
                bent *= -rate
                inner = bent if inner is None else inner + bent
            if inner is not None:
                to_x = projected(inner)
            if along is not None and to_x is not None:
                to_x -= h * (rate * (along * a).mean(last, keepdim=True))
        return to_g, to_x, to_w, None, None, None, None
