"""The users' verbs: a problem goes in, frozen results come out."""

from curvescope.analysis.layers import layer_curvature
from curvescope.analysis.run import MATRICES, PARTS, analyze, check_settings

__all__ = ["MATRICES", "PARTS", "analyze", "check_settings", "layer_curvature"]
