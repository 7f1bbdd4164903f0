"""Networks by name, the user's own by import path, and weights read without pickle."""

from curvescope.models.initialisation import SCHEMES, initialise_
from curvescope.models.masked import kept_parameters, mask_
from curvescope.models.registry import ModelInfo, build, info, names
from curvescope.models.resolve import resolve
from curvescope.models.weights import load_weights

__all__ = [
    "SCHEMES",
    "ModelInfo",
    "build",
    "info",
    "initialise_",
    "kept_parameters",
    "load_weights",
    "mask_",
    "names",
    "resolve",
]
