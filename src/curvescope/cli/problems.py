"""From the command line's words to a problem."""

from curvescope.experiments.problems import Built, build_problem, parse_arguments

__all__ = ["Built", "build_problem", "parse_arguments"]
