"""What a loss must tell: the SUM over a batch and its own DENOMINATOR."""

from curvescope.losses.base import AbstractLoss
from curvescope.losses.cross_entropy import NLL, CrossEntropy
from curvescope.losses.elementwise import (
    BCEWithLogits,
    LogCosh,
    SquaredError,
    half_squared_error,
)
from curvescope.losses.resolve import names, resolve
from curvescope.losses.wrapped import Loss, ModuleLoss

__all__ = [
    "NLL",
    "AbstractLoss",
    "BCEWithLogits",
    "CrossEntropy",
    "LogCosh",
    "Loss",
    "ModuleLoss",
    "SquaredError",
    "half_squared_error",
    "names",
    "resolve",
]
