"""Multilayer perceptrons: an `nn.Sequential` whose structure anybody can read."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

from curvescope._core.checks import message, one_of, positive_int

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,  # slope 0.01 below zero
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
    "linear": nn.Identity,
}


def mlp(
    *,
    in_features: int = 64,
    hidden: int | Sequence[int] = (32, 32),
    num_classes: int = 10,
    activation: str = "tanh",
    bias: bool = True,
) -> nn.Sequential:
    r"""Build a fully connected network; images are flattened.

    .. math:: f(x) = W_L\,\sigma(\cdots\sigma(W_1 x + b_1)\cdots) + b_L

    Args:
        in_features: Width of the input.
        hidden: Widths of the hidden layers; one number for one layer, empty for none.
        num_classes: Width of the output.
        activation: One of `ACTIVATIONS`.
        bias: Whether the layers have biases.

    Returns:
        The layers ``flatten, linear1, activation1, linear2, ...`` in order.

    Raises:
        ValueError: If a width is below 1 or the activation is unknown.

    Example:
        >>> net = mlp(in_features=4, hidden=(3,), num_classes=2)
        >>> sum(p.numel() for p in net.parameters())
        23
    """
    one_of("activation", activation, ACTIVATIONS)
    between = (hidden,) if isinstance(hidden, int) else tuple(hidden)
    if not all(isinstance(width, int) and width >= 1 for width in between):
        raise ValueError(message("hidden", "be integers of at least 1", repr(hidden)))
    positive_int("in_features", in_features)
    positive_int("num_classes", num_classes)
    widths = (in_features, *between, num_classes)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten(1))
    for index, (fan_in, fan_out) in enumerate(pairwise(widths), start=1):
        layers[f"linear{index}"] = nn.Linear(fan_in, fan_out, bias=bias)
        if index < len(widths) - 1:
            layers[f"activation{index}"] = ACTIVATIONS[activation]()
    return nn.Sequential(layers)
