"""Backward passes for several columns: all at once, or one after the other."""

from collections.abc import Sequence

import torch
from torch import Tensor

from curvescope.autodiff.lazy import import_before_backward


def pullback(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    *,
    vectorised: bool,
) -> list[Tensor]:
    """Return ``sum_i (d outputs_i / d inputs)' cotangents_i`` for each of k columns.

    Args:
        outputs: Tensors of one kept graph; those without a graph count as constant.
        inputs: Leaves; one that the outputs do not depend on gets zeros.
        cotangents: Shape ``(k, *output.shape)`` each.
        vectorised: One backward pass under vmap, or k passes.

    Returns:
        Tensors of shape ``(k, *input.shape)``.
    """
    num = cotangents[0].shape[0]
    pairs = [
        (o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad
    ]
    if not pairs:
        return [i.new_zeros(num, *i.shape) for i in inputs]
    import_before_backward()
    live, seeds = [o for o, _ in pairs], [c for _, c in pairs]
    if vectorised and num > 1:
        grads = torch.autograd.grad(
            live,
            inputs,
            seeds,
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=True,
        )
        return [
            i.new_zeros(num, *i.shape) if g is None else g
            for i, g in zip(inputs, grads, strict=True)
        ]
    columns = [
        torch.autograd.grad(
            live, inputs, [s[j] for s in seeds], retain_graph=True, allow_unused=True
        )
        for j in range(num)
    ]
    results = []
    for position, leaf in enumerate(inputs):
        parts = [c[position] for c in columns]
        filled = [torch.zeros_like(leaf) if p is None else p for p in parts]
        results.append(filled[0][None] if num == 1 else torch.stack(filled))
    return results
