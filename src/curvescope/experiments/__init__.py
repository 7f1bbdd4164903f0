"""One file an experiment of a paper: a configuration, and a function to results."""

from curvescope.experiments.base import Experiment
from curvescope.experiments.catalog import experiment, names
from curvescope.experiments.cluster import Scheduled, scheduled
from curvescope.experiments.rank import RankPoint, build_rank_problem
from curvescope.experiments.sweep import PointError, run_points

__all__ = [
    "Experiment",
    "PointError",
    "RankPoint",
    "Scheduled",
    "build_rank_problem",
    "experiment",
    "names",
    "run_points",
    "scheduled",
]
