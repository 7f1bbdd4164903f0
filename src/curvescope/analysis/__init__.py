"""The users' verbs: a problem goes in, frozen results come out."""

from curvescope.analysis.layers import layer_curvature


__all__ = ["layer_curvature"]
