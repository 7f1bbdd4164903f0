"""Problem: model + loss + data -> the objective on a flat parameter vector."""

from curvescope.problem.problem import Evaluation, Problem

__all__ = ["Evaluation", "Problem"]
