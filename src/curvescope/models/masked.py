"""Networks in which a fixed random part of the weights is switched off.

The masks are buffers: they are saved, moved and checked with the network. A masked
weight has no influence, so its row of the Hessian is zero; `kept_parameters` is the
selection that leaves such rows out.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curvescope._core.checks import describe, message, real
from curvescope._core.random import resolve_generator
from curvescope.models.mlp import mlp


class MaskedLinear(nn.Module):
    r"""A linear layer :math:`(W \odot M) x + b \odot m` with fixed masks of 0 and 1."""

    weight: Tensor
    bias: Tensor | None
    weight_mask: Tensor
    bias_mask: Tensor

    def __init__(
        self, layer: nn.Linear, keep: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        _adopt(self, layer, keep, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        return F.linear(x, *_masked(self))


class MaskedConv2d(nn.Module):
    """A convolution whose kernel and bias have fixed masks of 0 and 1."""

    weight: Tensor
    bias: Tensor | None
    weight_mask: Tensor
    bias_mask: Tensor

    def __init__(
        self, layer: nn.Conv2d, keep: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        if layer.padding_mode != "zeros":
            got = f"a convolution padded with {layer.padding_mode!r}"
            raise ValueError(message("model", "pad with zeros", got))
        _adopt(self, layer, keep, generator)
        self.stride, self.padding = layer.stride, layer.padding
        self.dilation, self.groups = layer.dilation, layer.groups

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in_channels, h, w)`` to ``(batch, out_channels, h', w')``."""
        weight, bias = _masked(self)
        return F.conv2d(
            x, weight, bias, self.stride, self.padding, self.dilation, self.groups
        )


def _adopt(
    masked: "MaskedLinear | MaskedConv2d",
    layer: nn.Linear | nn.Conv2d,
    keep: float,
    generator: torch.Generator,
) -> None:
    for name in ("weight", "bias"):
        parameter: nn.Parameter | None = getattr(layer, name)
        masked.register_parameter(name, parameter)
        mask = None
        if parameter is not None:
            draw = torch.rand(
                parameter.shape, generator=generator, device=generator.device
            )
            mask = (draw < keep).to(parameter)
        masked.register_buffer(f"{name}_mask", mask)
    masked.train(layer.training)


def _masked(layer: "MaskedLinear | MaskedConv2d") -> tuple[Tensor, Tensor | None]:
    bias = None
    if layer.bias is not None:
        bias = layer.bias * layer.bias_mask
    return layer.weight * layer.weight_mask, bias


def mask_(
    model: nn.Module, *, keep: float = 0.6, generator: torch.Generator | None = None
) -> nn.Module:
    """Switch off a random part of every linear and convolutional layer, in place.

    Every entry of weight and bias is kept with probability ``keep``, independently.

    Args:
        model: Its `nn.Linear` and `nn.Conv2d` are replaced by masked ones that hold the
            same parameters. Other kinds of layers, also subclasses, stay as they are.
        keep: Probability of being kept, above 0 and at most 1.
        generator: Source of the randomness; a fresh one with a fixed seed if ``None``.

    Returns:
        The model that was given; a bare layer is returned masked.

    Raises:
        TypeError: If ``model`` has no layer that can be masked.
        ValueError: If ``keep`` is out of range.

    Example:
        >>> net = mask_(nn.Sequential(nn.Linear(4, 3)), keep=0.5)
        >>> sorted(net.state_dict())
        ['0.bias', '0.bias_mask', '0.weight', '0.weight_mask']

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139; whose masks are no buffers, and
        are lost on saving and moving.
    """
    if real("keep", keep, minimum=0.0, strict=True) > 1.0:
        raise ValueError(message("keep", "be at most 1", keep))
    source = resolve_generator(generator)
    if type(model) in (nn.Linear, nn.Conv2d):
        return _mask_layer(model, keep, source)
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) in (nn.Linear, nn.Conv2d)
    ]
    if not places:
        text = message("model", "hold nn.Linear or nn.Conv2d", describe(type(model)))
        raise TypeError(text)
    done: dict[int, nn.Module] = {}  # a layer that is used twice keeps one mask
    for parent, name, child in places:
        if id(child) not in done:
            done[id(child)] = _mask_layer(child, keep, source)
        parent.add_module(name, done[id(child)])
    return model


def _mask_layer(layer: nn.Module, keep: float, source: torch.Generator) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        return MaskedConv2d(layer, keep, source)
    assert isinstance(layer, nn.Linear)
    return MaskedLinear(layer, keep, source)


def kept_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Return which entries of the parameters are not masked, for ``params=``.

    Args:
        model: A network with masked layers; what has no mask is kept as a whole.

    Returns:
        A boolean tensor for every parameter of which something is kept.

    Example:
        >>> net = mask_(nn.Sequential(nn.Linear(4, 3)), keep=0.5)
        >>> kept = kept_parameters(net)
        >>> 0 < sum(int(mask.sum()) for mask in kept.values()) < 15
        True
    """
    buffers = dict(model.named_buffers())
    kept: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        mask = buffers.get(f"{name}_mask")
        whole = torch.ones_like(parameter, dtype=torch.bool)
        entries = whole if mask is None else mask.bool()
        if bool(entries.any()):
            kept[name] = entries
    return kept


def masked_mlp(
    *,
    in_features: int = 64,
    hidden: int | Sequence[int] = (32, 32),
    num_classes: int = 10,
    activation: str = "relu",
    bias: bool = False,
    keep: float = 0.6,
    mask_seed: int = 0,
) -> nn.Module:
    """Build a fully connected network in which a random part of the weights is off.

    Args:
        in_features: Width of the input.
        hidden: Widths of the hidden layers.
        num_classes: Width of the output.
        activation: One of `curvescope.models.mlp.ACTIVATIONS`.
        bias: Whether the layers have biases, which are masked too.
        keep: Probability of an entry being kept.
        mask_seed: Seed of the masks, apart from that of the weights.

    Returns:
        The network.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> net = masked_mlp(hidden=(8,), keep=0.5)
        >>> sum(p.numel() for p in net.parameters())
        592
    """
    network = mlp(
        in_features=in_features,
        hidden=hidden,
        num_classes=num_classes,
        activation=activation,
        bias=bias,
    )
    return mask_(network, keep=keep, generator=torch.Generator().manual_seed(mask_seed))
