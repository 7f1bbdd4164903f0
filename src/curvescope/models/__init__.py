"""Networks by name, the user's own by import path, and weights read without pickle."""

from curvescope.models.registry import ModelInfo, build, info, names
from curvescope.models.resolve import resolve
from curvescope.models.weights import load_weights

__all__ = ["ModelInfo", "build", "info", "load_weights", "names", "resolve"]
