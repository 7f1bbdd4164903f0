"""One small trainer: one network, or many of one shape at once."""

from curvescope.training.least_squares import (
    RandomFeaturesPoint,
    random_features_curve,
)
from curvescope.training.loop import Moment
from curvescope.training.samples import PerModel
from curvescope.training.schedules import cosine, published
from curvescope.training.trainer import train, train_many

__all__ = [
    "Moment",
    "PerModel",
    "RandomFeaturesPoint",
    "cosine",
    "published",
    "random_features_curve",
    "train",
    "train_many",
]
