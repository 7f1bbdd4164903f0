"""Random features at the published setting, and rank correlations."""

import numpy as np
import pytest
import torch

from curvescope.experiments.random_features import (
    RandomFeatures,
    draw,
    plan,
    random_features,
)
from curvescope.results.random_features import CURVES


@pytest.fixture(scope="module")
def published():
    return random_features(RandomFeatures())


@pytest.fixture(scope="module")
def rows(published):
    return {row["num_features"]: row for row in published["random_features"].rows()}


def test_the_columns_are_those_of_the_published_table(rows):
    assert list(rows[5]) == ["num_features", *CURVES]
    assert list(rows) == list(range(5, 400, 2))


def test_the_published_peaks_are_reproduced(published):
    curve = published["random_features"]

    place, value = curve.peak("undetermined_dimension")
    assert (place, round(value, 3)) == (201, 6.419)
    place, value = curve.peak("test_error")
    assert (place, round(value, 3)) == (199, 1.962)


def test_the_published_numbers_at_both_ends_are_reproduced(rows):
    last, early = rows[399], rows[99]
    assert round(last["undetermined_dimension"], 3) == 0.204
    assert round(last["test_error"], 3) == 0.063
    assert last["train_error"] < 1e-12
    assert round(early["undetermined_dimension"], 3) == 0.193
    assert round(early["test_error"], 3) == 0.125
    assert round(early["train_error"], 3) == 0.075


def test_the_effective_dimension_itself_never_peaks(rows):
    """Only what is plotted under its name does."""
    dimensions = np.array([row["effective_dimension"] for row in rows.values()])
    # Each point has data of its own: it rises but for their chance.
    assert (np.maximum.accumulate(dimensions) - dimensions).max() < 1.0
    assert dimensions[-1] > 199.7
    for count, row in rows.items():
        total = row["effective_dimension"] + row["undetermined_dimension"]
        assert total == pytest.approx(min(200, count), rel=1e-12)


def test_the_correlations_have_the_signs_that_were_found(published):
    found = {(c.measure, c.among): c for c in published["correlations"].correlations}
    plotted = found[
        "undetermined dimension min(n, d) \u2212 N_eff", "more than 100 features"
    ]
    own = found["effective dimension N_eff", "more than 100 features"]
    assert plotted.rank_correlation == pytest.approx(0.84, abs=0.02)
    assert own.rank_correlation == pytest.approx(-0.79, abs=0.02)
    assert plotted.low < plotted.rank_correlation < plotted.high


def test_the_comparison_calls_no_underdetermined_fit_overparameterised(published):
    rows = published["comparison"].rows()
    assert "overparameterised" not in rows[0]
    chosen = {
        row["num_features"] for row in rows if published["comparison"].is_chosen(row)
    }
    assert chosen == set(range(101, 400, 2))
    assert all(
        row["more_features_than_half_the_samples"] == (row["num_features"] > 100)
        for row in rows
    )


def test_points_agree_with_least_squares_of_numpy():
    """Another algorithm, on the same draws."""
    config = RandomFeatures(num_samples=12, max_features=21, seed=3, draws=2)
    curve = random_features(config)["random_features"]
    for row, seed in enumerate((3, 4)):
        stream = np.random.RandomState(seed)
        for place, count in enumerate(range(5, 22, 2)):
            X, y = draw(stream, 12, count)
            X_test, y_test = draw(stream, 12, count)
            w = np.linalg.lstsq(X, y, rcond=None)[0]
            A = X.T @ X
            N_eff = np.trace(A @ np.linalg.inv(A + 0.012 * np.eye(count)))
            truth = {
                "undetermined_dimension": min(12, count) - N_eff,
                "effective_dimension": N_eff,
                "train_error": np.linalg.norm(X @ w - y) / np.linalg.norm(y),
                "test_error": np.linalg.norm(X_test @ w - y_test)
                / np.linalg.norm(y_test),
            }
            for name, value in truth.items():
                found = float(getattr(curve, name)[row, place])
                assert found == pytest.approx(value, rel=1e-7, abs=1e-9), name


def test_several_draws_are_told_apart_in_the_table():
    config = RandomFeatures(num_samples=8, max_features=9, draws=2)
    curve = random_features(config)["random_features"]
    assert [row["seed"] for row in curve.rows()] == [88] * 3 + [89] * 3
    assert not torch.equal(curve.test_error[0], curve.test_error[1])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_samples": 1}, "`num_samples` must be at least 2"),
        ({"max_features": 4}, "`max_features` must be at least 5"),
        ({"regularisation": 0.0}, "`regularisation` must be"),
        ({"draws": 0}, "`draws` must be at least 1"),
        ({"seed": -1}, "`seed` must be at least 0"),
    ],
)
def test_a_wrong_configuration_is_refused(change, text):
    with pytest.raises(ValueError, match=text):
        random_features(RandomFeatures(**change))


def test_the_plan_counts_runs_and_features():
    made = plan(RandomFeatures(preset="paper", draws=3))
    assert made.runs == 3 * 198
    assert made.rows[0].num_params == 399
    assert 0.0 < made.hours < 0.1
