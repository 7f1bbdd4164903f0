"""Images made small: the inputs of the rank experiments."""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from curvescope._core.checks import describe, message, one_of, positive_int

Method = Literal["nearest", "area", "bilinear", "antialias"]
Channels = Literal["first", "mean", "all"]

_RESIZE: dict[str, Callable[[Tensor, int], Tensor]] = {
    "nearest": lambda images, side: F.interpolate(images, side, mode="nearest"),
    "area": lambda images, side: F.interpolate(images, side, mode="area"),
    "bilinear": lambda images, side: F.interpolate(images, side, mode="bilinear"),
    "antialias": lambda images, side: F.interpolate(
        images, side, mode="bilinear", antialias=True
    ),
}
_PICK: dict[str, Callable[[Tensor], Tensor]] = {
    "first": lambda images: images[:, :1],
    "mean": lambda images: images.mean(dim=1, keepdim=True),
    "all": lambda images: images,
}
METHODS = tuple(_RESIZE)
CHANNELS = tuple(_PICK)


def side_of(dim: int) -> int:
    """Return the side of a square image of ``dim`` pixels.

    Raises:
        ValueError: If ``dim`` is no square number.

    Example:
        >>> side_of(64)
        8
    """
    side = math.isqrt(positive_int("dim", dim))
    if side * side != dim:
        remedy = f"Take {side**2} or {(side + 1) ** 2}."
        raise ValueError(message("dim", "be a square number", dim, remedy))
    return side


def downscale(
    images: Float[Tensor, "n c h w"],
    dim: int,
    *,
    method: Method = "nearest",
    channels: Channels = "first",
) -> Float[Tensor, "n d"]:
    r"""Scale images down to ``dim`` pixels and flatten them, in float64.

    The defaults are those of the published rank experiments: nearest pixel, first
    channel, no centring. What is between 0 and 1 stays there. Border pixels that are
    dead in all images leave the rank of the inputs below ``dim``; ``area`` and
    ``antialias`` average over what ``nearest`` and ``bilinear`` leave out.

    Args:
        images: Of any number of channels.
        dim: Pixels of a small image: a square number, at most the image's.
        method: ``nearest``, ``area`` (mean over the pixels that fall into one),
            ``bilinear``, or ``antialias`` (bilinear with a filter as wide as the step).
        channels: The ``first`` one, their ``mean``, or ``all``, one after another.

    Returns:
        ``(n, dim)``; ``(n, channels * dim)`` for all channels.

    Raises:
        ValueError: If ``dim`` is no square number or larger than the images, or a name
            is unknown.

    Cost:
        One pass over the images.

    Example:
        >>> downscale(torch.arange(16.0).reshape(1, 1, 4, 4), 4)
        tensor([[ 0.,  2.,  8., 10.]], dtype=torch.float64)
    """
    one_of("method", method, METHODS)
    one_of("channels", channels, CHANNELS)
    side = side_of(dim)
    if images.ndim != 4:
        contract = "be of shape (samples, channels, height, width)"
        raise ValueError(message("images", contract, describe(images)))
    smallest = min(images.shape[-2:])
    if side > smallest:
        height, width = images.shape[-2:]
        contract = f"be at most {smallest**2} for images of {height} x {width} pixels"
        raise ValueError(message("dim", contract, dim))
    picked = _PICK[channels](images.to(torch.float64))
    return _RESIZE[method](picked, side).flatten(1)
