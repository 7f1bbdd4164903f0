"""Pixel statistics by name, and what is done with them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curvescope._core.checks import message, one_of


@dataclass(frozen=True, kw_only=True)
class PixelStatistics:
    """Mean and standard deviation of each channel, for pixels between 0 and 1.

    Attributes:
        name: What ``normalize=`` takes.
        mean: One number a channel; one number alone serves any number of channels.
        std: Likewise.
        source: Where the numbers come from.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str


_ENTRIES = (
    PixelStatistics(name="none", mean=(0.0,), std=(1.0,), source="pixels as they are"),
    PixelStatistics(
        name="half", mean=(0.5,), std=(0.5,), source="maps 0..1 onto -1..1"
    ),
    PixelStatistics(
        name="mnist", mean=(0.1307,), std=(0.3081,), source="the 60,000 training images"
    ),
    PixelStatistics(
        name="fashion-mnist",
        mean=(0.2860,),
        std=(0.3530,),
        source="the 60,000 training images",
    ),
    PixelStatistics(
        name="cifar10",
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        source="the 50,000 training images",
    ),
    PixelStatistics(
        name="cifar10-detectors",
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
        source="what the published resnet18_cifar10 of detectors is evaluated with; "
        "the deviations are means of the images' own",
    ),
    PixelStatistics(
        name="cifar100",
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        source="the 50,000 training images",
    ),
    PixelStatistics(
        name="svhn",
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        source="the 73,257 training images",
    ),
    PixelStatistics(
        name="imagenet",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        source="ImageNet; also used to train the option-A CIFAR ResNets",
    ),
)
STATISTICS = {entry.name: entry for entry in _ENTRIES}


def statistics(name: str) -> PixelStatistics:
    """Return the pixel statistics of a name.

    Args:
        name: One of `STATISTICS`.

    Returns:
        Mean, standard deviation and their source.

    Raises:
        ValueError: If there are none of that name.

    Example:
        >>> statistics("mnist").mean
        (0.1307,)
    """
    one_of("normalize", name, STATISTICS)
    return STATISTICS[name]


class Normalize:
    r"""Subtract the channels' mean and divide by their standard deviation.

    .. math:: x'_c = (x_c - \mu_c) / \sigma_c

    Args:
        mean: One number a channel, or one for all.
        std: Likewise, above 0.

    Raises:
        ValueError: If the lengths differ or a deviation is not above 0.

    Example:
        >>> Normalize((0.5,), (0.25,))(torch.ones(1, 1, 1)).item()
        2.0
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if len(mean) != len(std) or not mean:
            contract = f"have as many numbers as `mean`, {len(mean)}"
            raise ValueError(message("std", contract, len(std)))
        if not all(deviation > 0 for deviation in std):
            raise ValueError(message("std", "be above 0", tuple(std)))
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalize images ``(..., channels, height, width)``."""
        channels = images.shape[-3]
        if len(self.mean) not in (1, channels):
            contract = f"be pixel statistics of {channels} channel(s), as the images"
            got = f"statistics of {len(self.mean)}"
            raise ValueError(message("normalize", contract, got))
        shape = (len(self.mean), 1, 1)
        mean = torch.tensor(self.mean, dtype=images.dtype, device=images.device)
        std = torch.tensor(self.std, dtype=images.dtype, device=images.device)
        return (images - mean.view(shape)) / std.view(shape)

    def __repr__(self) -> str:
        return f"Normalize(mean={self.mean}, std={self.std})"
