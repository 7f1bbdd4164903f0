"""Spearman's correlation and the intervals of its bootstrap."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from curvescope.experiments.correlations import correlate, rank_correlation, spearman
from curvescope.results import MeasureComparison

NUMBERS = st.lists(
    st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=30
)


@given(NUMBERS)
def test_the_correlation_is_scipys_also_with_ties(pairs):
    x, y = np.array(pairs, dtype=float).T
    if np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        assert math.isnan(spearman(x, y))
    else:
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-12)


def test_the_interval_covers_about_as_often_as_it_says():
    """Of Gaussian pairs with correlation 0.6, whose rank correlation is 0.582."""
    generator = np.random.default_rng(5)
    truth = 6.0 / np.pi * np.arcsin(0.3)
    inside = 0
    for seed in range(120):
        x = generator.standard_normal(60)
        y = 0.6 * x + 0.8 * generator.standard_normal(60)
        found = rank_correlation("x", x, y, seed=seed, num_resamples=200)
        inside += found.low <= truth <= found.high
    # 95 % of 120 is 114; the bootstrap of 60 points is a little short of that.
    assert 103 <= inside <= 120


def test_the_interval_is_that_of_resamples_drawn_one_by_one():
    """By SciPy, from the same groups."""
    x = np.array([1.0, 2.0, 2.0, 4.0, 5.0, 6.0, 7.0, 3.0])
    y = np.array([2.0, 1.0, 4.0, 3.0, 3.0, 7.0, 6.0, 5.0])
    groups = np.array([0, 0, 1, 1, 2, 3, 4, 5])
    found = rank_correlation("x", x, y, groups=list(groups), seed=7, num_resamples=50)

    chosen = np.random.default_rng(7).integers(6, size=(50, 6))
    values = []
    for row in chosen:
        index = np.concatenate([np.flatnonzero(groups == group) for group in row])
        if np.ptp(x[index]) > 0.0 and np.ptp(y[index]) > 0.0:
            values.append(stats.spearmanr(x[index], y[index])[0])
    low, high = np.quantile(values, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=1e-12)
    assert found.high == pytest.approx(high, abs=1e-12)


def test_copies_of_the_same_points_do_not_narrow_a_grouped_interval():
    generator = np.random.default_rng(1)
    x = generator.standard_normal(15)
    y = x + generator.standard_normal(15)
    groups = list(range(15))

    once = rank_correlation("x", x, y, groups=groups)
    copied = rank_correlation("x", np.tile(x, 8), np.tile(y, 8), groups=groups * 8)
    naive = rank_correlation("x", np.tile(x, 8), np.tile(y, 8))

    assert copied.rank_correlation == pytest.approx(once.rank_correlation)
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=1e-9)
    assert naive.high - naive.low < 0.6 * (once.high - once.low)


@pytest.mark.parametrize("count", [3, 4, 5])
def test_of_few_points_the_interval_is_no_certainty(count):
    """Resamples of three points in order are all in order: -1 | -1 | -1."""
    found = rank_correlation("x", range(count), range(count, 0, -1))
    assert (found.rank_correlation, found.low, found.high) == (-1.0, -1.0, 1.0)
    copies = [i % count for i in range(30)]
    grouped = rank_correlation("x", copies, copies, groups=copies)
    assert (grouped.rank_correlation, grouped.low, grouped.high) == (1.0, -1.0, 1.0)

    points = tuple({"x": i, "y": -i} for i in range(count))
    table = correlate(
        MeasureComparison(target="y", measures=("x",), records=points, words={})
    )
    assert "says nothing" in str(table)


@pytest.mark.parametrize("count", [3, 4, 5, 6, 8])
def test_intervals_of_independent_points_contain_zero_as_often_as_they_say(count):
    generator = np.random.default_rng(11)
    inside, draws = 0, 60
    for seed in range(draws):
        x, y = generator.standard_normal((2, count))
        found = rank_correlation("x", x, y, seed=seed, num_resamples=200)
        inside += found.low <= 0.0 <= found.high
    # 95 % less three standard deviations of 60 draws.
    assert inside >= 60 * (0.95 - 3 * np.sqrt(0.95 * 0.05 / 60))


def test_points_without_a_number_are_left_out_and_counted():
    found = rank_correlation("x", [1, 2, math.nan, 4], [1, 2, 0, math.inf])
    assert found.num_points == 2
    assert math.isnan(found.rank_correlation)


def test_chosen_points_and_all_points_have_a_row_each():
    records = tuple({"x": i, "y": -i if i > 4 else i, "late": i > 4} for i in range(12))
    table = correlate(
        MeasureComparison(
            target="y",
            measures=("x",),
            records=records,
            words={"x": "the x"},
            chosen="late",
            chosen_words="late ones",
        )
    )
    chosen, every = table.correlations
    assert (chosen.among, chosen.num_points) == ("late ones", 7)
    assert chosen.rank_correlation == pytest.approx(-1.0)
    assert (every.among, every.num_points) == ("all", 12)
    assert chosen.measure == "the x"
