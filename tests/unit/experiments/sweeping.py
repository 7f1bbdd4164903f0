"""A process that sweeps slow toys, to be killed."""

import sys

from tests.unit.experiments.toys import Toy, square

from curvescope.experiments import run_points

if __name__ == "__main__":
    log, folder, jobs = sys.argv[1:]
    points = [Toy(x=x, log=log, wait=0.3) for x in range(12)]
    print(run_points(points, square, folder=folder, jobs=int(jobs)))
