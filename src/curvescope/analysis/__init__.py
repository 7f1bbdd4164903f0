"""The users' verbs: a problem goes in, frozen results come out."""

from curvescope.analysis.homogeneity import homogeneity
from curvescope.analysis.landscape import loss_surface
from curvescope.analysis.laplace import laplace, laplace_predict
from curvescope.analysis.layers import layer_curvature
from curvescope.analysis.rank_report import rank_report
from curvescope.analysis.run import analyze

__all__ = [
    "analyze",
    "homogeneity",
    "laplace",
    "laplace_predict",
    "layer_curvature",
    "loss_surface",
    "rank_report",
]
