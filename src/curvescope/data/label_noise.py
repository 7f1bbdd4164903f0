"""Labels made wrong at random: what double descent is made visible with."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from curvescope._core.checks import describe, message, positive_int, real
from curvescope._core.random import resolve_generator
from curvescope.data.images import ImageDataset


def noisy_labels(
    labels: Tensor,
    fraction: float,
    *,
    num_classes: int | None = None,
    keep_possible: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Replace the labels of a random part of the samples by random ones.

    Exactly ``round(fraction * n)`` samples are chosen.

    Args:
        labels: Integers from 0, shape ``(n,)``.
        fraction: Which part, from 0 to 1.
        num_classes: Number of classes; one more than the largest label if ``None``.
        keep_possible: Whether the new label is drawn from all classes, and so may be
            the old one; otherwise it is always a wrong one.
        generator: Source of the randomness; a fresh one with a fixed seed if ``None``.

    Returns:
        New labels.

    Raises:
        TypeError: If the labels are no integers.
        ValueError: If a number is out of range.

    Example:
        >>> clean = torch.zeros(10, dtype=torch.int64)
        >>> int((noisy_labels(clean, 0.3, num_classes=4) != clean).sum())
        3

    References:
        Nakkiran et al. (2019), arXiv:1912.02292, section 3.
    """
    if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.is_floating_point():
        got = describe(labels)
        raise TypeError(message("labels", "be a vector of integers", got))
    if real("fraction", fraction, minimum=0.0) > 1.0:
        raise ValueError(message("fraction", "be at most 1", fraction))
    least = int(labels.max()) + 1 if labels.numel() else 1
    classes = least if num_classes is None else positive_int("num_classes", num_classes)
    if classes < max(least, 2):
        remedy = "Another label needs two classes at least."
        contract = f"be at least {max(least, 2)}"
        raise ValueError(message("num_classes", contract, classes, remedy))
    source = resolve_generator(generator)
    count = round(float(fraction) * len(labels))
    place = source.device
    chosen = torch.randperm(len(labels), generator=source, device=place)[:count]
    first = 0 if keep_possible else 1
    shift = torch.randint(first, classes, (count,), generator=source, device=place)
    chosen, shift = chosen.to(labels.device), shift.to(labels)
    changed = labels.clone()
    changed[chosen] = (labels[chosen] + shift) % classes
    return changed


def with_label_noise(
    data: Any,
    fraction: float,
    *,
    num_classes: int | None = None,
    keep_possible: bool = False,
    generator: torch.Generator | None = None,
) -> Any:
    """Return a data set with the labels of a random part made wrong; see `noisy_labels`.

    Args:
        data: An `ImageDataset`, a ``TensorDataset`` or a pair of tensors.
        fraction: Which part, from 0 to 1.
        num_classes: Number of classes; an `ImageDataset` knows its own.
        keep_possible: Whether the new label may be the old one.
        generator: Source of the randomness; a fresh one with a fixed seed if ``None``.

    Returns:
        A set of the same kind; an `ImageDataset` says so in its ``notes``.

    Raises:
        TypeError: If the data are of another kind.
        ValueError: If a number is out of range.

    Example:
        >>> X, y = with_label_noise((torch.rand(8, 2), torch.arange(8) % 2), 0.25)
        >>> int((y != torch.arange(8) % 2).sum())
        2
    """

    def spoilt(labels: Tensor, classes: int | None) -> Tensor:
        return noisy_labels(
            labels,
            fraction,
            num_classes=classes,
            keep_possible=keep_possible,
            generator=generator,
        )

    if isinstance(data, ImageDataset):
        if num_classes is None:
            num_classes = data.num_classes
        clean = data.labels
        noisy = spoilt(clean, num_classes)
        wrong = int((noisy != clean).sum())
        return data.relabelled(noisy, note=f"label noise: {wrong:,} labels are wrong")
    pair = data.tensors if isinstance(data, TensorDataset) else data
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        contract = "be an ImageDataset, a TensorDataset or a pair of tensors"
        raise TypeError(message("data", contract, describe(data)))
    inputs, labels = pair
    noisy = spoilt(labels, num_classes)
    return (
        TensorDataset(inputs, noisy)
        if isinstance(data, TensorDataset)
        else (inputs, noisy)
    )
