"""Random weights by name: the schemes of the rank experiments, for every `nn.Linear`."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from curvescope._core.checks import describe, message, one_of, real
from curvescope._core.random import gaussian, resolve_generator

_CPU = torch.device("cpu")


def _normal(shape: tuple[int, int], std: float, generator: torch.Generator) -> Tensor:
    return std * gaussian(shape, generator, dtype=torch.float64, device=_CPU)


def _glorot(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    return _normal(shape, math.sqrt(2 / sum(shape)), generator)


def _he(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    return _normal(shape, math.sqrt(2 / shape[1]), generator)


def _uniform(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    draw = torch.rand(
        shape, generator=generator, device=generator.device, dtype=torch.float64
    )
    return draw.to(_CPU) / shape[1]


def _orthogonal(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    rows, columns = shape
    draw = _normal((max(shape), min(shape)), 1.0, generator)
    Q, _ = torch.linalg.qr(draw)
    return Q if rows >= columns else Q.mT


_DRAW: dict[str, Callable[[tuple[int, int], torch.Generator], Tensor]] = {
    "glorot": _glorot,
    "uniform": _uniform,
    "orthogonal": _orthogonal,
    "he": _he,
}
SCHEMES = tuple(_DRAW)


def initialise_(
    model: nn.Module,
    scheme: str,
    *,
    bias_std: float = 0.0,
    generator: torch.Generator | None = None,
) -> nn.Module:
    r"""Draw the weights of every linear layer anew, in place.

    ``glorot``: :math:`\mathcal N(0, 2/(m_{in}+m_{out}))`; ``he``:
    :math:`\mathcal N(0, 2/m_{in})`; ``uniform``: :math:`U[0, 1)/m_{in}`, all positive,
    so that products of layers are close to rank one; ``orthogonal``: the Q factor of a
    Gaussian matrix, or its transpose. All layers are drawn alike, the last one too,
    whatever the activations are.

    Args:
        model: Its `nn.Linear` layers are changed, in the order of ``modules()``.
        scheme: One of `SCHEMES`.
        bias_std: Standard deviation of the normal biases; 0 makes them zero, which is
            no generic point of a network with biases.
        generator: Source of the randomness; a fresh one with a fixed seed if ``None``.

    Returns:
        The model that was given. The draws are made in float64 and cast to its dtype.

    Raises:
        TypeError: If ``model`` has no linear layer.
        ValueError: If the scheme is unknown or ``bias_std`` is negative.

    Example:
        >>> net = initialise_(nn.Sequential(nn.Linear(3, 2)), "orthogonal")
        >>> W = net[0].weight.detach()
        >>> torch.allclose(W @ W.T, torch.eye(2), atol=1e-6)
        True

    References:
        Glorot, Bengio (2010); He et al. (2015); uniform and orthogonal as in the code
        of Singh, Bachmann, Hofmann (2021).
    """
    one_of("scheme", scheme, SCHEMES)
    real("bias_std", bias_std, minimum=0.0)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        text = message("model", "hold an nn.Linear layer", describe(type(model)))
        raise TypeError(text)
    source = resolve_generator(generator)
    with torch.no_grad():
        for layer in linear:
            rows, columns = layer.weight.shape
            layer.weight.copy_(_DRAW[scheme]((rows, columns), source))
            if layer.bias is not None:
                layer.bias.copy_(_normal((rows, 1), bias_std, source)[:, 0])
    return model
