"""The users' verbs: a problem goes in, frozen results come out."""

from curvescope.analysis.layers import layer_curvature
from curvescope.analysis.run import PARTS, Analysis, analyze

__all__ = ["PARTS", "Analysis", "analyze", "layer_curvature"]
