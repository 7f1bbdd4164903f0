"""Data sets by name, the user's own by import path, and text as characters."""

from curvescope.data.augment import CropAndFlip
from curvescope.data.downscale import downscale
from curvescope.data.images import ImageDataset
from curvescope.data.label_noise import noisy_labels, with_label_noise
from curvescope.data.preprocess import Normalize, PixelStatistics, statistics
from curvescope.data.resolve import resolve
from curvescope.data.sets import fetch, load, names
from curvescope.data.synthetic import (
    bumpy_curve,
    gaussian_mixture,
    random_features,
    two_spirals,
)
from curvescope.data.text import CharacterDataset, load_text

__all__ = [
    "CharacterDataset",
    "CropAndFlip",
    "ImageDataset",
    "Normalize",
    "PixelStatistics",
    "bumpy_curve",
    "downscale",
    "fetch",
    "gaussian_mixture",
    "load",
    "load_text",
    "names",
    "noisy_labels",
    "random_features",
    "resolve",
    "statistics",
    "two_spirals",
    "with_label_noise",
]
