"""Formulas, measured and exact ranks of random problems never contradict each other."""

import collections
import warnings

import pytest
from tests.theorems.rank_problems import draw, faults

import curvescope as cs

FAST = range(60)
SLOW = range(100_000, 102_500)


def check(seeds, **sizes):
    """Report on every problem; return how often each verdict was given."""
    verdicts, wrong = collections.Counter(), []
    for seed in seeds:
        words, problem = draw(seed, **sizes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = cs.rank_report(problem)
        wrong += [f"{words}: {fault}" for fault in faults(report)]
        verdicts.update(rank.verdict for rank in report.measured.values())
    assert wrong == []
    return verdicts


def test_no_rank_of_random_problems_is_certain_and_wrong():
    verdicts = check(FAST, widest=5, deepest=3)

    assert verdicts["certified"] > 0.75 * verdicts.total()


@pytest.mark.slow
def test_no_rank_of_many_random_problems_is_certain_and_wrong():
    verdicts = check(SLOW)

    assert verdicts["certified"] > 0.75 * verdicts.total()


@pytest.mark.slow
def test_no_rank_of_deep_narrow_networks_is_certain_and_wrong():
    verdicts = check(range(200_000, 201_000), widest=4, deepest=7)

    assert verdicts["certified"] > 0.75 * verdicts.total()
