"""Problem: model + loss + data -> the objective on a flat parameter vector."""

from curvescope.problem.problem import Problem
from curvescope.problem.shared import Evaluation

__all__ = ["Evaluation", "Problem"]
