"""Data sets by name: found where the user put them, or downloaded."""

from pathlib import Path

import numpy as np
import torch

from curvescope._core.checks import message, one_of
from curvescope._core.imports import require
from curvescope.data.catalog import CATALOG, SPLITS, Entry
from curvescope.data.images import ImageDataset
from curvescope.data.preprocess import PixelStatistics, statistics
from curvescope.data.store import Located, contents, locate
from curvescope.data.store import download as download_file

_DIGITS = "digits"
_DIGITS_TRAIN = 1500


def names() -> tuple[str, ...]:
    """Return the names of the data sets.

    Returns:
        The names; ``digits`` is embedded, the others are files.

    Example:
        >>> names()
        ('digits', 'mnist', 'fashion-mnist', 'cifar10', 'cifar100', 'svhn')
    """
    return (_DIGITS, *CATALOG)


def load(
    name: str,
    *,
    root: str | Path | None = None,
    split: str = "train",
    num_samples: int | None = None,
    download: bool = True,
    normalize: str | PixelStatistics | None = None,
    base_url: str | None = None,
) -> ImageDataset:
    """Load a data set of images and labels.

    ``root`` holds one folder a set, named as the set, with the official files inside:
    loose, in the official sub-folder, or as the official archive. Files that are there
    are used; if they are not byte for byte the published ones, the set says so
    (``official``, ``notes``). ``digits`` needs no files: its first 1,500 images, in
    scikit-learn's order, are the training split, and its last 297 the test split.

    Args:
        name: One of `names`.
        root: The folder of all sets; a folder of this user's cache if ``None``.
        split: ``train`` or ``test``.
        num_samples: Only the first so many of the split.
        download: Whether absent files may be downloaded.
        normalize: Pixel statistics to apply, by name or whole; ``None`` leaves pixels
            between 0 and 1.
        base_url: Where to download from, instead of the known places.

    Returns:
        A torch ``Dataset`` of (image, label).

    Raises:
        DownloadError: If a file cannot be downloaded whole.
        FileNotFoundError: If files are absent and must not be downloaded.
        MissingExtraError: If the set needs a package that is not installed.
        ValueError: If a name, number or file is wrong.

    Example:
        >>> digits = load("digits", split="test", num_samples=10)
        >>> image, label = digits[0]
        >>> image.shape, len(digits)
        (torch.Size([1, 8, 8]), 10)
    """
    one_of("name", name, names())
    one_of("split", split, SPLITS)
    applied = (
        normalize
        if isinstance(normalize, PixelStatistics)
        else statistics("none" if normalize is None else normalize)
    )
    if name == _DIGITS:
        return _digits(split, applied).first(num_samples)
    entry = CATALOG[name]
    folder = _folder(entry, root)
    if download:
        _fetch_split(entry, folder, split, base_url)
    found = locate(entry, folder, split)
    if found is None:
        files = " or ".join(
            ", ".join(layout.files[split][:2]) for layout in entry.layouts[:2]
        )
        contract = f"hold the {split} files of {name} in {folder}"
        remedy = f"Put the official files there (such as {files}), or let it download."
        raise FileNotFoundError(message("root", contract, "none of them", remedy))
    return _read(entry, found, split, applied).first(num_samples)


def fetch(
    name: str, *, root: str | Path | None = None, base_url: str | None = None
) -> tuple[Path, ...]:
    """Download what is absent of a data set, and return its files.

    Args:
        name: One of `names`.
        root: The folder of all sets; a folder of this user's cache if ``None``.
        base_url: Where to download from, instead of the known places.

    Returns:
        The files of both splits; none for ``digits``, which is embedded.

    Raises:
        DownloadError: If a file cannot be downloaded whole.
        MissingExtraError: If pooch is needed and not installed.
        ValueError: If there is no such set.

    Example:
        >>> fetch("digits")
        ()
    """
    one_of("name", name, names())
    if name == _DIGITS:
        return ()
    entry = CATALOG[name]
    folder = _folder(entry, root)
    paths: dict[Path, None] = {}
    for split in SPLITS:
        _fetch_split(entry, folder, split, base_url)
        found = locate(entry, folder, split)
        assert found is not None
        paths.update(dict.fromkeys(found.paths))
    return tuple(paths)


def _folder(entry: Entry, root: str | Path | None) -> Path:
    if root is not None:
        return Path(root).expanduser() / entry.name
    purpose = "a data set without `root`"
    pooch = require("pooch", extra="experiments", purpose=purpose)
    return Path(pooch.os_cache("curvescope")) / entry.name


def _fetch_split(entry: Entry, folder: Path, split: str, base_url: str | None) -> None:
    if locate(entry, folder, split) is not None:
        return
    mirrors = entry.mirrors if base_url is None else (base_url,)
    for file, md5 in entry.downloads[split].items():
        if not (folder / file).exists():
            download_file(file, md5, folder, mirrors)


def _read(
    entry: Entry, found: Located, split: str, applied: PixelStatistics
) -> ImageDataset:
    files, doubtful = contents(found)
    pixels, labels = found.layout.read(files)
    notes = []
    if doubtful:
        listed = ", ".join(doubtful)
        notes.append(f"not verified as the published files by their hash: {listed}")
    if found.absent:
        notes.append(f"absent: {', '.join(found.absent)}")
    size = entry.sizes[split]
    if len(labels) != size:
        notes.append(f"{len(labels):,} of the {size:,} images of the {split} split")
    return ImageDataset(
        torch.from_numpy(pixels),
        torch.from_numpy(labels),
        levels=255,
        name=entry.name,
        split=split,
        num_classes=entry.num_classes,
        official=not notes,
        notes=tuple(notes),
        statistics=applied,
    )


def _digits(split: str, applied: PixelStatistics) -> ImageDataset:
    purpose = "the data set digits"
    sklearn = require("sklearn.datasets", extra="experiments", purpose=purpose)
    bunch = sklearn.load_digits()
    part = slice(_DIGITS_TRAIN) if split == "train" else slice(_DIGITS_TRAIN, None)
    pixels = bunch.images[part].astype(np.uint8)[:, None]
    return ImageDataset(
        torch.from_numpy(pixels),
        torch.from_numpy(bunch.target[part].astype(np.int64)),
        levels=16,
        name=_DIGITS,
        split=split,
        num_classes=10,
        official=True,
        notes=(f"images {'0 to 1,499' if split == 'train' else '1,500 to 1,796'}",),
        statistics=applied,
    )
