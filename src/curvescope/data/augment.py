"""Random crops and flips of a batch of images, from a generator of one's own."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from curvescope._core.checks import describe, message, positive_int
from curvescope.data.images import ImageDataset


class CropAndFlip:
    """Pad, crop at a random place, and mirror every other image at random.

    Args:
        padding: Pixels added on each side before the crop.
        flip: Whether images are mirrored, with probability one half.
        fill: What the padding is, one number a channel or one for all. Images that are
            normalised need ``(0 - mean) / std`` for black; see `CropAndFlip.of`.

    Raises:
        ValueError: If ``padding`` is negative.

    Example:
        >>> images = torch.rand(4, 3, 32, 32)
        >>> changed = CropAndFlip(padding=4)(images, torch.Generator().manual_seed(0))
        >>> changed.shape
        torch.Size([4, 3, 32, 32])

    References:
        He et al. (2016), arXiv:1512.03385, section 4.2; the published settings for
        CIFAR.
    """

    def __init__(
        self,
        *,
        padding: int = 4,
        flip: bool = True,
        fill: float | Sequence[float] = 0.0,
    ) -> None:
        self.padding = positive_int("padding", padding, minimum=0)
        self.flip = bool(flip)
        values = (fill,) if isinstance(fill, (int, float)) else tuple(fill)
        self.fill = tuple(float(value) for value in values)

    @classmethod
    def of(
        cls, data: ImageDataset, *, padding: int = 4, flip: bool = True
    ) -> "CropAndFlip":
        """Return the augmentation whose padding is black under a set's statistics.

        Args:
            data: The set, with its pixel statistics.
            padding: Pixels added on each side.
            flip: Whether images are mirrored.

        Returns:
            The augmentation.
        """
        fill = [-mean / std for mean, std in zip(data.mean, data.std, strict=True)]
        return cls(padding=padding, flip=flip, fill=fill)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Change images ``(batch, channels, height, width)``.

        Raises:
            ValueError: If they have another shape, or other channels than ``fill``.
        """
        if images.ndim != 4 or len(self.fill) not in (1, images.shape[1]):
            contract = (
                f"be images with {len(self.fill)} channel(s) in the second dimension"
            )
            raise ValueError(message("images", contract, describe(images)))
        count, _, height, width = images.shape
        place, room = generator.device, 2 * self.padding + 1
        corner = torch.randint(room, (2, count, 1), generator=generator, device=place)
        mirrored = torch.rand(count, 1, generator=generator, device=place) < 0.5
        corner, mirrored = corner.to(images.device), mirrored.to(images.device)
        fill = torch.tensor(self.fill, dtype=images.dtype, device=images.device)
        fill = fill.view(1, -1, 1, 1)
        padded = F.pad(images, [self.padding] * 4)
        if any(self.fill):
            inside = F.pad(torch.ones_like(images[:1, :1]), [self.padding] * 4) > 0
            padded = torch.where(inside, padded, fill)
        rows = corner[0] + torch.arange(height, device=images.device)
        columns = torch.arange(width, device=images.device).expand(count, -1)
        if self.flip:
            columns = torch.where(mirrored, width - 1 - columns, columns)
        columns = corner[1] + columns
        every = torch.arange(count, device=images.device)[:, None, None]
        # Advanced indices apart put the channels last.
        taken = padded[every, :, rows[:, :, None], columns[:, None, :]]
        return taken.movedim(-1, 1).contiguous()

    def __repr__(self) -> str:
        return (
            f"CropAndFlip(padding={self.padding}, flip={self.flip}, fill={self.fill})"
        )
