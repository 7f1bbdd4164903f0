"""Elementwise activations with their first two derivatives, in the tensor's dtype."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

Function = Callable[[Tensor], Tensor]

# Modules whose output depends on the same entry of the input only, by exact type: a
# subclass may do anything. PReLU has a parameter and is none of them.
_ELEMENTWISE: tuple[type[nn.Module], ...] = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardswish,
    nn.LogSigmoid,
    nn.Mish,
    nn.SELU,
    nn.SiLU,
    nn.Softplus,
    nn.Softsign,
    nn.Tanhshrink,
)
# Torch has no second derivative of some of these; it is zero.
_PIECEWISE_LINEAR: tuple[type[nn.Module], ...] = (
    nn.Hardsigmoid,
    nn.Hardtanh,
    nn.ReLU6,
)


@final
@dataclass(frozen=True, kw_only=True)
class Activation:
    """One elementwise function sigma.

    Attributes:
        name: For reports: the module's name in lower case.
        value: ``sigma(z)``.
        slope: ``sigma'(z)``.
        bend: ``sigma''(z)``; ``None`` where it is zero almost everywhere.
        linear: Whether sigma is the identity.
        homogeneous: Whether ``sigma(a z) = a sigma(z)`` for ``a > 0``.
    """

    name: str
    value: Function
    slope: Function
    bend: Function | None
    linear: bool = False
    homogeneous: bool = False


def activation_of(module: nn.Module) -> Activation | None:
    """Return the activation that a module computes; ``None`` if it is not known to be one."""
    kind = type(module)
    if kind is nn.Identity:
        return IDENTITY
    if kind is nn.ReLU:
        return _RELU
    if kind is nn.LeakyReLU:
        return _leaky_relu(float(getattr(module, "negative_slope")))  # noqa: B009
    if kind is nn.Tanh:
        return _TANH
    if kind is nn.Sigmoid:
        return _SIGMOID
    if kind in _ELEMENTWISE or kind in _PIECEWISE_LINEAR:
        return _by_autodiff(module)
    return None


def _leaky_relu(slope: float) -> Activation:
    def derivative(z: Tensor) -> Tensor:
        # full_like, since `where` with Python numbers gives float32 constants.
        return torch.where(z > 0, torch.ones_like(z), torch.full_like(z, slope))

    return Activation(
        name="leaky_relu",
        value=lambda z: z * derivative(z),
        slope=derivative,
        bend=None,
        homogeneous=True,
    )


def _sigmoid_bend(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 - s) * (1 - 2 * s)


def _tanh_bend(z: Tensor) -> Tensor:
    t = torch.tanh(z)
    return -2 * t * (1 - t * t)


IDENTITY = Activation(
    name="linear",
    value=lambda z: z,
    slope=torch.ones_like,
    bend=None,
    linear=True,
    homogeneous=True,
)
_RELU = Activation(
    name="relu",
    value=lambda z: z.clamp_min(0),
    slope=lambda z: (z > 0).to(z.dtype),
    bend=None,
    homogeneous=True,
)
_TANH = Activation(
    name="tanh",
    value=torch.tanh,
    slope=lambda z: 1 - torch.tanh(z) ** 2,
    bend=_tanh_bend,
)
_SIGMOID = Activation(
    name="sigmoid",
    value=torch.sigmoid,
    slope=lambda z: torch.sigmoid(z) * (1 - torch.sigmoid(z)),
    bend=_sigmoid_bend,
)


def _by_autodiff(module: nn.Module) -> Activation:
    def first(z: Tensor, *, again: bool) -> tuple[Tensor, Tensor]:
        leaf = z.detach().requires_grad_()
        total = _out_of_place(module, leaf).sum()
        derivative: Tensor = torch.autograd.grad(total, leaf, create_graph=again)[0]
        return derivative, leaf

    def slope(z: Tensor) -> Tensor:
        with torch.enable_grad():
            return first(z, again=False)[0]

    def bend(z: Tensor) -> Tensor:
        with torch.enable_grad():
            derivative, leaf = first(z, again=True)
            if not derivative.requires_grad:
                return torch.zeros_like(z)
            (second,) = torch.autograd.grad(
                derivative.sum(), leaf, allow_unused=True, materialize_grads=True
            )
        return second

    def value(z: Tensor) -> Tensor:
        with torch.no_grad():
            return _out_of_place(module, z)

    return Activation(
        name=type(module).__name__.lower(),
        value=value,
        slope=slope,
        bend=None if type(module) in _PIECEWISE_LINEAR else bend,
    )


def _out_of_place(module: Any, z: Tensor) -> Tensor:
    return module(z.clone()) if getattr(module, "inplace", False) else module(z)
