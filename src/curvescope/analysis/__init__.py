"""The users' verbs: a problem goes in, frozen results come out."""

from curvescope.analysis.layers import layer_curvature
from curvescope.analysis.run import analyze

__all__ = ["analyze", "layer_curvature"]
