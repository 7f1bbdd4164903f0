"""One small trainer: one network, or many of one shape at once."""

from curvescope.training.loop import Moment
from curvescope.training.samples import PerModel
from curvescope.training.schedules import SCHEDULES, cosine, published
from curvescope.training.trainer import train, train_many

__all__ = [
    "SCHEDULES",
    "Moment",
    "PerModel",
    "cosine",
    "published",
    "train",
    "train_many",
]
