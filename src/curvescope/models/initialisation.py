"""Random weights by name, for every linear and convolutional layer."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from curvescope._core.checks import describe, message, one_of, real
from curvescope._core.random import gaussian, resolve_generator

_CPU = torch.device("cpu")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_KINDS = (nn.Linear, *_CONVOLUTIONS)

Scheme = str | tuple[str, float]


class Fans(NamedTuple):
    """How many inputs one unit has, and how many units one input reaches."""

    fan_in: int
    fan_out: int


def weight_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the linear and convolutional layers by name, in the order of ``modules()``.

    Those that upsample (``nn.ConvTranspose2d``) and tables (``nn.Embedding``) are none.

    Args:
        model: Any module.

    Returns:
        Each layer once, also if it is used twice; the model itself is named ``""``.

    Example:
        >>> list(weight_layers(nn.Sequential(nn.Linear(3, 2), nn.ReLU())))
        ['0']
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _KINDS)
    }


def fans(layer: nn.Module) -> Fans:
    """Return a layer's fan-in and fan-out; positions that a stride skips count too.

    Args:
        layer: Linear, or a convolution: each unit then sees one patch.

    Returns:
        Both numbers.

    Raises:
        TypeError: If the layer is neither.

    Example:
        >>> fans(nn.Conv2d(8, 16, 3, groups=2))
        Fans(fan_in=36, fan_out=72)
    """
    if not isinstance(layer, _KINDS):
        contract = "be a linear or convolutional layer"
        raise TypeError(message("layer", contract, describe(type(layer))))
    weight = layer.weight
    rows, columns = weight.shape[:2]
    patch = weight[0, 0].numel()
    groups = layer.groups if isinstance(layer, _CONVOLUTIONS) else 1
    return Fans(columns * patch, rows // groups * patch)


# From the matrix's shape (units, inputs of one unit), its fans and the stream.
_Draw = Callable[[tuple[int, int], Fans, torch.Generator], Tensor]


def _normal(shape: tuple[int, int], std: float, generator: torch.Generator) -> Tensor:
    return std * gaussian(shape, generator, dtype=torch.float64, device=_CPU)


def _unit_interval(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    draw = torch.rand(
        shape, generator=generator, device=generator.device, dtype=torch.float64
    )
    return draw.to(_CPU)


def _between(
    shape: tuple[int, int], limit: float, generator: torch.Generator
) -> Tensor:
    return limit * (2.0 * _unit_interval(shape, generator) - 1.0)


def _orthogonal(shape: tuple[int, int], _: Fans, generator: torch.Generator) -> Tensor:
    rows, columns = shape
    draw = _normal((max(shape), min(shape)), 1.0, generator)
    Q, _R = torch.linalg.qr(draw)
    return Q if rows >= columns else Q.mT


def _glorot(shape: tuple[int, int], f: Fans, generator: torch.Generator) -> Tensor:
    return _normal(shape, math.sqrt(2 / sum(f)), generator)


_DRAW: dict[str, _Draw] = {
    "glorot": _glorot,
    "uniform": lambda shape, f, g: _unit_interval(shape, g) / f.fan_in,
    "orthogonal": _orthogonal,
    "he": lambda shape, f, g: _normal(shape, math.sqrt(2 / f.fan_in), g),
    "glorot_normal": _glorot,
    "glorot_uniform": lambda shape, f, g: _between(shape, math.sqrt(6 / sum(f)), g),
    "lecun": lambda shape, f, g: _normal(shape, math.sqrt(1 / f.fan_in), g),
    "fan_in_uniform": lambda shape, f, g: _between(shape, f.fan_in**-0.5, g),
}
SCHEMES = tuple(_DRAW)


def check_scheme(scheme: Scheme) -> Scheme:
    """Return a scheme: one of `SCHEMES`, or ``("normal", std)``.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> check_scheme(("normal", 0.1))
        ('normal', 0.1)
    """
    if not isinstance(scheme, (tuple, list)):
        name: str = one_of("scheme", scheme, SCHEMES)
        return name
    if len(scheme) != 2 or scheme[0] != "normal":
        contract = 'be a name, or ("normal", std)'
        raise ValueError(message("scheme", contract, describe(scheme)))
    return "normal", real("scheme", scheme[1], minimum=0.0)


def initialise_(
    model: nn.Module,
    scheme: Scheme,
    *,
    bias_std: float = 0.0,
    generator: torch.Generator | None = None,
) -> nn.Module:
    r"""Draw the weights of every linear and convolutional layer anew, in place.

    =================== ====================================================
    ``glorot``          :math:`\mathcal N(0, 2/(m_{in}+m_{out}))`; also ``glorot_normal``
    ``glorot_uniform``  :math:`U(-r, r)`, :math:`r^2 = 6/(m_{in}+m_{out})`
    ``he``              :math:`\mathcal N(0, 2/m_{in})`
    ``lecun``           :math:`\mathcal N(0, 1/m_{in})`
    ``fan_in_uniform``  :math:`U(-r, r)`, :math:`r^2 = 1/m_{in}`: torch's own weights
    ``orthogonal``      the Q factor of a Gaussian matrix, or its transpose
    ``uniform``         :math:`U[0, 1)/m_{in}`, all positive, so that products of layers
                        are close to rank one
    ``("normal", s)``   :math:`\mathcal N(0, s^2)`
    =================== ====================================================

    All layers are drawn alike, the last one too, whatever the activations are. A
    convolution's matrix has one row a unit, and a patch of all its channels in each.

    Args:
        model: Its layers (`weight_layers`) are changed, in the order of ``modules()``.
        scheme: One of `SCHEMES`, or ``("normal", std)``.
        bias_std: Standard deviation of the normal biases; 0 makes them zero, which is
            no generic point of a network with biases.
        generator: Source of the randomness; a fresh one with a fixed seed if ``None``.

    Returns:
        The model that was given. The draws are made in float64 and cast to its dtype.

    Raises:
        TypeError: If ``model`` has no linear or convolutional layer.
        ValueError: If the scheme is unknown or a standard deviation is negative.

    Example:
        >>> net = initialise_(nn.Sequential(nn.Linear(3, 2)), "orthogonal")
        >>> W = net[0].weight.detach()
        >>> torch.allclose(W @ W.T, torch.eye(2), atol=1e-6)
        True

    References:
        LeCun et al. (1998); Glorot, Bengio (2010); He et al. (2015); uniform and
        orthogonal as in the code of Singh, Bachmann, Hofmann (2021).
    """
    scheme = check_scheme(scheme)
    real("bias_std", bias_std, minimum=0.0)
    layers = weight_layers(model)
    if not layers:
        contract = "hold an nn.Linear layer or a convolution"
        raise TypeError(message("model", contract, describe(type(model))))
    source = resolve_generator(generator)
    with torch.no_grad():
        for layer in layers.values():
            draw_(layer, scheme, bias_std=bias_std, generator=source)
    return model


@torch.no_grad()
def draw_(
    layer: nn.Module, scheme: Scheme, *, bias_std: float, generator: torch.Generator
) -> None:
    """Draw one layer's weights and biases anew, in place; as `initialise_`."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    shape = (weight.shape[0], weight[0].numel())
    if isinstance(scheme, str):
        matrix = _DRAW[scheme](shape, fans(layer), generator)
    else:
        matrix = _normal(shape, scheme[1], generator)
    weight.copy_(matrix.reshape(weight.shape))
    if isinstance(bias, Tensor):
        bias.copy_(_normal((len(bias), 1), bias_std, generator)[:, 0])
