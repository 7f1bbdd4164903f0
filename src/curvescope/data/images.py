"""A data set of images and labels, with what is known of its origin."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import Dataset

from curvescope._core.checks import message, positive_int
from curvescope.data.preprocess import Normalize, PixelStatistics


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Images ``(channels, height, width)``, float32, and integer labels.

    Pixels are kept as bytes and scaled when asked for.

    Attributes:
        name: The set's name.
        split: ``train`` or ``test``.
        num_classes: Number of classes.
        official: Whether the files are byte for byte the published ones.
        notes: What a reader of the results should know of the files.
        statistics: The pixel statistics that are applied.
    """

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        *,
        levels: int,
        name: str,
        split: str,
        num_classes: int,
        official: bool,
        notes: tuple[str, ...],
        statistics: PixelStatistics,
    ) -> None:
        self._pixels = pixels
        self._labels = labels
        self._levels = levels
        self.name = name
        self.split = split
        self.num_classes = num_classes
        self.official = official
        self.notes = notes
        self.statistics = statistics
        self._normalize: Callable[[Tensor], Tensor] | None = None
        if statistics.name != "none":
            self._normalize = Normalize(statistics.mean, statistics.std)
            self._scale(pixels[:1])  # a wrong number of channels is said at once

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean that is subtracted from each channel."""
        return self.statistics.mean

    @property
    def std(self) -> tuple[float, ...]:
        """The deviation that each channel is divided by."""
        return self.statistics.std

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._scale(self._pixels[index]), int(self._labels[index])

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return all images ``(n, channels, height, width)`` and labels at once."""
        return self._scale(self._pixels), self._labels.clone()

    @property
    def labels(self) -> Tensor:
        """All labels, a copy."""
        return self._labels.clone()

    def relabelled(self, labels: Tensor, *, note: str) -> "ImageDataset":
        """Return the same images with other labels; ``note`` joins the notes.

        Raises:
            ValueError: If there are not as many labels as images.
        """
        if labels.shape != self._labels.shape:
            contract = f"be {len(self)} labels, one an image"
            raise ValueError(message("labels", contract, tuple(labels.shape)))
        return ImageDataset(
            self._pixels,
            labels.to(self._labels),
            levels=self._levels,
            name=self.name,
            split=self.split,
            num_classes=self.num_classes,
            official=False,
            notes=(*self.notes, note),
            statistics=self.statistics,
        )

    def first(self, num_samples: int | None) -> "ImageDataset":
        """Return the first ``num_samples`` of the set; all of it for ``None``."""
        if num_samples is None:
            return self
        count = first_count(num_samples, len(self), self.name)
        # Clones, so that a small part does not hold the whole in memory.
        return ImageDataset(
            self._pixels[:count].clone(),
            self._labels[:count].clone(),
            levels=self._levels,
            name=self.name,
            split=self.split,
            num_classes=self.num_classes,
            official=self.official,
            notes=self.notes,
            statistics=self.statistics,
        )

    def _scale(self, pixels: Tensor) -> Tensor:
        images = pixels.to(torch.float32).div_(self._levels)
        return images if self._normalize is None else self._normalize(images)

    def __repr__(self) -> str:
        kind = "official" if self.official else "not the official files"
        return (
            f"ImageDataset({self.name}, {self.split}, {len(self)} images, {kind}, "
            f"normalize={self.statistics.name})"
        )


def first_count(num_samples: int, size: int, name: str) -> int:
    """Check that the first ``num_samples`` exist, and return their number."""
    count = positive_int("num_samples", num_samples)
    if count > size:
        contract = f"be at most {size}, the size of {name}"
        raise ValueError(message("num_samples", contract, count))
    return count
