"""Random features: the golden numbers of the published notebook, and plain lstsq."""

import numpy as np
import pytest

from curvescope.training import random_features_curve


@pytest.fixture(scope="module")
def curve():
    return {point.num_features: point for point in random_features_curve()}


def test_the_published_curve_is_reproduced(curve):
    drawn = max(curve.values(), key=lambda p: p.undetermined_dimension)
    worst = max(curve.values(), key=lambda p: p.test_error)

    assert (drawn.num_features, round(drawn.undetermined_dimension, 3)) == (201, 6.419)
    assert (worst.num_features, round(worst.test_error, 3)) == (199, 1.962)
    last = curve[399]
    assert round(last.undetermined_dimension, 3) == 0.204
    assert round(last.test_error, 3) == 0.063
    assert last.train_error < 1e-12
    early = curve[99]
    assert round(early.undetermined_dimension, 3) == 0.193
    assert round(early.test_error, 3) == 0.125
    assert round(early.train_error, 3) == 0.075


def test_the_effective_dimension_itself_rises_and_has_no_peak(curve):
    values = [curve[d].effective_dimension for d in range(5, 400, 22)]

    assert values == sorted(values)
    assert curve[399].effective_dimension < 200


def test_the_weights_are_those_of_least_norm():
    source = np.random.RandomState(5)
    expected = []
    for size in (3, 8, 12):
        sets = []
        for _ in range(2):
            y = source.randn(8)
            X = source.randn(8, size)
            X[:, : min(size, 4)] += y[:, None]
            sets.append((X, y))
        w = np.linalg.lstsq(*sets[0], rcond=None)[0]
        expected.append(
            [np.linalg.norm(X @ w - y) / np.linalg.norm(y) for X, y in sets]
        )

    points = random_features_curve([3, 8, 12], num_samples=8, num_informative=4, seed=5)

    found = [[p.train_error, p.test_error] for p in points]
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="`sizes` must be at least 1"):
        random_features_curve([3, 0])
    with pytest.raises(ValueError, match="`regularisation` must be above 0"):
        random_features_curve([3], regularisation=0.0)


def test_a_point_is_a_row_of_the_published_table():
    (point,) = random_features_curve([5], num_samples=10)

    assert list(point.row()) == [
        "num_features",
        "undetermined_dimension",
        "effective_dimension",
        "train_error",
        "test_error",
    ]
