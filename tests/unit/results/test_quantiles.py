import math

import pytest

from curvescope.results import student_t_quantile

LEVELS = [0.0005, 0.025, 0.3, 0.5, 0.501, 0.6, 0.75, 0.9, 0.975, 0.995, 0.9995]


@pytest.mark.parametrize(
    "degrees", [0.3, 0.5, 2 / 3, 0.9, 1.0, 1.5, 2.0, 3.0, 4.0, 7.5, 16.0, 100.0, 1e3]
)
@pytest.mark.parametrize("level", LEVELS)
def test_quantiles_of_student_are_those_of_scipy(level, degrees):
    stats = pytest.importorskip("scipy.stats")

    found = student_t_quantile(level, degrees)

    assert found == pytest.approx(stats.t.ppf(level, degrees), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("level", LEVELS)
def test_with_one_and_two_degrees_quantiles_have_closed_forms(level):
    cauchy = math.tan(math.pi * (level - 0.5))
    two = (2 * level - 1) / math.sqrt(2 * level * (1 - level))

    assert student_t_quantile(level, 1.0) == pytest.approx(cauchy, rel=1e-9, abs=1e-12)
    assert student_t_quantile(level, 2.0) == pytest.approx(two, rel=1e-9, abs=1e-12)


def test_many_degrees_go_over_into_the_normal_distribution():
    from statistics import NormalDist

    for degrees in (9e5, 2e6, math.inf):
        for level in LEVELS:
            normal = NormalDist().inv_cdf(level)
            found = student_t_quantile(level, degrees)
            # The next term of the expansion in 1 / degrees.
            found -= 0.0 if degrees > 1e6 else (normal**3 + normal) / (4 * degrees)
            assert found == pytest.approx(normal, rel=1e-7, abs=1e-9)
