"""Many multilayer perceptrons at once, by batched products and no vmap.

For networks of a few neurons the transform costs more than what it transforms.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

# Each acts on every entry by itself, so that further dimensions do not matter.
_ELEMENTWISE = (
    nn.Tanh,
    nn.ReLU,
    nn.LeakyReLU,
    nn.GELU,
    nn.SiLU,
    nn.ELU,
    nn.Softplus,
    nn.Sigmoid,
    nn.Identity,
)


def is_plain_mlp(model: nn.Module) -> bool:
    """Tell whether a model is linear layers and activations, one after the other."""
    if type(model) is not nn.Sequential:
        return False
    for index, layer in enumerate(model):
        hooks = (
            layer._forward_hooks,
            layer._forward_pre_hooks,
            layer._backward_hooks,
            layer._backward_pre_hooks,
        )
        flattens = isinstance(layer, nn.Flatten) and index == 0
        if isinstance(layer, nn.Flatten):
            flattens &= layer.start_dim == 1 and layer.end_dim == -1
        known = type(layer) is nn.Linear or type(layer) in _ELEMENTWISE
        if any(hooks) or not (known or flattens):
            return False
    return len(set(map(id, model))) == len(model)


def stacked_outputs(
    model: nn.Module, state: Mapping[str, Tensor], inputs: Any, *, size: int, each: bool
) -> Tensor:
    """Return the outputs ``(R, B, K)`` of the networks whose weights are stacked.

    Args:
        model: One of the networks; only its layers' kinds are used.
        state: Its parameters by name, with a first dimension of ``size``.
        inputs: ``(B, ...)``, or ``(R, B, ...)`` with ``each``.
        size: Number of networks.
        each: Whether each network has its own inputs.
    """
    x = inputs if each else inputs.expand(size, *inputs.shape)
    for name, layer in model.named_children():
        if isinstance(layer, nn.Flatten):
            x = x.flatten(2)
        elif isinstance(layer, nn.Linear):
            x = _linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))
        else:
            x = layer(x)
    return x


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.ndim != 3:
        y = torch.einsum("rhd,r...d->r...h", weight, x)
        shape = (len(weight), *[1] * (y.ndim - 2), weight.shape[1])
        return y if bias is None else y + bias.view(shape)
    if bias is None:
        return torch.bmm(x, weight.mT)
    return torch.baddbmm(bias[:, None], x, weight.mT)
