import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import BayesianRidge, RidgeCV

from curvescope._core.errors import AccuracyWarning
from curvescope.bayes import (
    covariance_effective_dimension,
    function_effective_dimension,
    linear_posterior,
    maximise_evidence,
    posterior_covariance,
    posterior_identities,
    predict,
)
from curvescope.results import load

SHAPES = [(60, 20), (20, 60), (25, 25)]


def draw(n, p, seed=0):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((n, p)), generator.standard_normal(n)


def dense(Phi, prior, noise):
    """The covariance from its definition, by NumPy."""
    p = Phi.shape[1]
    return np.linalg.inv(Phi.T @ Phi / noise + np.eye(p) / prior)


def gaussian_log_density(y, K):
    sign, logdet = np.linalg.slogdet(K)
    assert sign == 1
    return -0.5 * (len(y) * math.log(2 * math.pi) + logdet + y @ np.linalg.solve(K, y))


@pytest.mark.parametrize("shape", SHAPES)
def test_mean_and_covariance_are_the_textbook_ones(shape):
    Phi, y = draw(*shape)

    at = linear_posterior(Phi, y, prior_variance=3.0, noise_variance=0.1)

    S = dense(Phi, 3.0, 0.1)
    np.testing.assert_allclose(at.mean, S @ Phi.T @ y / 0.1, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(posterior_covariance(at), S, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_evidence_is_the_density_of_the_targets(shape):
    Phi, y = draw(*shape)

    at = linear_posterior(Phi, y, prior_variance=0.7, noise_variance=0.3)

    K = 0.7 * Phi @ Phi.T + 0.3 * np.eye(len(y))
    assert at.log_evidence == pytest.approx(gaussian_log_density(y, K), rel=1e-11)
    parts = at.log_likelihood + at.log_prior_penalty + at.log_occam_factor
    assert at.log_evidence == pytest.approx(parts, rel=1e-12)
    fit = gaussian_log_density(y - Phi @ at.mean.numpy(), 0.3 * np.eye(len(y)))
    assert at.log_likelihood == pytest.approx(fit, rel=1e-11)


@pytest.mark.parametrize("shape", SHAPES)
def test_predictions_are_those_of_the_gaussian_process(shape):
    Phi, y = draw(*shape)
    new, _ = draw(7, shape[1], seed=1)

    at = linear_posterior(Phi, y, prior_variance=2.0, noise_variance=0.2)
    found = predict(at, new, joint=True)

    K = 2.0 * Phi @ Phi.T + 0.2 * np.eye(len(y))
    k = 2.0 * new @ Phi.T
    mean = k @ np.linalg.solve(K, y)
    covariance = 2.0 * new @ new.T - k @ np.linalg.solve(K, k.T)
    np.testing.assert_allclose(found.mean[:, 0], mean, rtol=1e-9)
    np.testing.assert_allclose(found.joint_covariance, covariance, atol=1e-10)
    np.testing.assert_allclose(found.variance[:, 0], covariance.diagonal(), atol=1e-10)
    np.testing.assert_allclose(
        found.observation_variance[:, 0], covariance.diagonal() + 0.2, atol=1e-10
    )


def test_published_contraction_curve_is_reproduced():
    x = np.linspace(0, 50, 300)
    waves = [f(j * np.pi * x) for j in range(1, 101) for f in (np.cos, np.sin)]
    Phi = np.stack(waves, axis=1)[np.random.default_rng(0).permutation(300)]
    golden = {
        1: (74.63, 0.020, 1.0),
        50: (56.26, 0.980, 49.98),
        100: (37.53, 1.960, 99.95),
        150: (18.89, 2.936, 149.75),
        175: (10.09, 3.400, 173.4),
        200: (3.03, 3.775, 192.5),
        225: (0.51, 3.902, 199.0),
        300: (0.027, 3.921, 199.96),
    }

    for n, (of_covariance, of_function, determined) in golden.items():
        at = linear_posterior(
            Phi[:n], np.zeros(n), prior_variance=3.0, noise_variance=0.1
        )
        variances = torch.linalg.eigvalsh(posterior_covariance(at))
        function = predict(at, Phi[:n], joint=True).joint_covariance
        values = torch.linalg.eigvalsh(function).clamp_min(0.0)

        digits = 3 if of_covariance < 0.1 else 2
        assert (
            round(float((variances / (variances + 5)).sum()), digits) == of_covariance
        )
        assert round(float((values / (values + 5)).sum()), 3) == of_function
        decimals = 1 if determined in {173.4, 192.5, 199.0} else 2
        assert round(at.effective_dimension, decimals) == determined


def test_contraction_of_the_reference_setting():
    Phi, y = draw(60, 200)

    at = linear_posterior(Phi, y, prior_variance=3.0, noise_variance=0.1)

    S = dense(Phi, 3.0, 0.1)
    assert at.contraction == pytest.approx(200 * 3.0 - np.trace(S), rel=1e-11)
    assert at.num_prior_directions == 140
    kept = np.sum(np.abs(np.linalg.eigvalsh(S) - 3.0) < 1e-8)
    assert kept == 140


def test_contraction_agrees_with_samples_of_the_prior_and_the_posterior():
    Phi, y = draw(5, 8)
    at = linear_posterior(Phi, y, prior_variance=2.0, noise_variance=0.5)
    generator = np.random.default_rng(3)
    draws = 20_000
    # Matheron: a prior draw, corrected by noisy observations of itself.
    beta = generator.standard_normal((draws, 8)) * math.sqrt(2.0)
    noise = generator.standard_normal((draws, 5)) * math.sqrt(0.5)
    K = 2.0 * Phi @ Phi.T + 0.5 * np.eye(5)
    sample = beta + (y - beta @ Phi.T - noise) @ np.linalg.solve(K, 2.0 * Phi)

    spread = ((sample - sample.mean(0)) ** 2).sum(axis=1)
    error = spread.std() / math.sqrt(draws)
    left = 8 * 2.0 - at.contraction
    assert abs(spread.mean() - left) < 4 * error
    deviation = sample.std(axis=0) / math.sqrt(draws)
    assert np.all(np.abs(sample.mean(0) - at.mean.numpy()) < 5 * deviation)


@given(
    n=st.integers(1, 12),
    p=st.integers(1, 12),
    prior=st.floats(1e-6, 1e6),
    noise=st.floats(1e-6, 1e6),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_identities_hold_for_every_shape_and_scale(n, p, prior, noise, seed):
    Phi, y = draw(n, p, seed)

    at = linear_posterior(Phi, y, prior_variance=prior, noise_variance=noise)

    gamma = at.effective_dimension
    assert 0.0 <= gamma <= min(n, p) * (1 + 1e-12)
    assert at.contraction == pytest.approx(prior * gamma, rel=1e-12)
    total = float(at.variances.sum()) + prior * at.num_prior_directions
    assert total + at.contraction == pytest.approx(prior * p, rel=1e-12)
    on_data = predict(at, Phi).variance
    assert float(on_data.sum()) / noise == pytest.approx(gamma, rel=1e-9, abs=1e-13)
    assert at.residual_degrees_of_freedom + gamma == pytest.approx(n, rel=1e-12)
    # A common factor of features and deviation changes nothing that has no unit.
    scaled = linear_posterior(
        8.0 * Phi, y, prior_variance=prior, noise_variance=64.0 * noise
    )
    assert scaled.effective_dimension == pytest.approx(gamma, rel=1e-12)


@given(
    seed=st.integers(0, 2**16),
    n=st.integers(2, 9),
    p=st.integers(2, 9),
    decades=st.integers(16, 24),
)
@settings(max_examples=20, deadline=None)
def test_badly_scaled_columns_keep_their_digits(seed, n, p, decades):
    Phi, y = draw(n, p, seed)
    Phi = Phi * 10.0 ** np.linspace(-decades / 2, decades / 2, p)

    at = linear_posterior(Phi, y, prior_variance=1.0, noise_variance=1e-2)

    truth = exact_posterior(Phi, y, 1.0, 1e-2)
    assert at.settings["method"] == "jacobi"
    slack = 1e-9
    assert at.effective_dimension == pytest.approx(truth["dimension"], rel=slack)
    assert at.log_evidence == pytest.approx(truth["evidence"], rel=slack)
    assert at.residual_square == pytest.approx(truth["square"], rel=slack)
    left = float(at.variances.sum()) + at.num_prior_directions
    assert left == pytest.approx(truth["variance"], rel=slack)
    np.testing.assert_allclose(
        posterior_covariance(at).diagonal().numpy(), truth["variances"], rtol=1e-6
    )


def exact_posterior(Phi, y, prior, noise):
    """Everything in 80 digits."""
    with mpmath.workdps(80):
        P, t = mpmath.matrix(Phi.tolist()), mpmath.matrix(y.tolist())
        n, p = Phi.shape
        A = P.T * P / mpmath.mpf(noise) + mpmath.eye(p) / mpmath.mpf(prior)
        S = A**-1
        mean = S * (P.T * t) / mpmath.mpf(noise)
        rest = t - P * mean
        square = sum(r * r for r in rest)
        H = P.T * P / mpmath.mpf(noise) * S
        K = P * P.T * mpmath.mpf(prior) + mpmath.eye(n) * mpmath.mpf(noise)
        quadratic = (t.T * (K**-1) * t)[0]
        evidence = (
            -(n * mpmath.log(2 * mpmath.pi) + mpmath.log(mpmath.det(K)) + quadratic) / 2
        )
        return {
            "dimension": float(sum(H[i, i] for i in range(p))),
            "evidence": float(evidence),
            "square": float(square),
            "variance": float(sum(S[i, i] for i in range(p))),
            "variances": [float(S[i, i]) for i in range(p)],
        }


def test_extreme_units_neither_overflow_nor_underflow():
    Phi, y = draw(9, 4)
    plain = linear_posterior(Phi, y, prior_variance=2.0, noise_variance=0.1)

    for unit in (2.0**400, 2.0**-400):
        at = linear_posterior(
            Phi * unit, y, prior_variance=2.0 / unit / unit, noise_variance=0.1
        )
        assert at.effective_dimension == pytest.approx(plain.effective_dimension)
        assert at.log_evidence == pytest.approx(plain.log_evidence)
        np.testing.assert_allclose(at.mean * unit, plain.mean, rtol=1e-12)


def test_mackay_updates_reach_the_maximum_of_the_evidence():
    Phi, _ = draw(80, 12)
    generator = np.random.default_rng(5)
    y = Phi @ generator.standard_normal(12) * 1.5 + 0.4 * generator.standard_normal(80)

    fit = maximise_evidence(Phi, y)

    assert fit.converged
    at = fit.posterior
    for da, db in itertools.product((-1e-3, 0.0, 1e-3), repeat=2):
        near = linear_posterior(
            Phi,
            y,
            prior_variance=at.prior_variance * math.exp(da),
            noise_variance=at.noise_variance * math.exp(db),
        )
        assert near.log_evidence <= at.log_evidence
    assert bool((fit.log_evidences.diff() > -1e-9).all())


def test_mackay_updates_agree_with_scikit_learn():
    Phi, _ = draw(80, 12)
    generator = np.random.default_rng(5)
    y = Phi @ generator.standard_normal(12) + 0.4 * generator.standard_normal(80)
    theirs = BayesianRidge(
        alpha_1=0,
        alpha_2=0,
        lambda_1=0,
        lambda_2=0,
        tol=1e-14,
        max_iter=1000,
        fit_intercept=False,
        compute_score=True,
    ).fit(Phi, y)

    ours = maximise_evidence(Phi, y).posterior

    assert 1 / ours.noise_variance == pytest.approx(theirs.alpha_, rel=1e-8)
    assert 1 / ours.prior_variance == pytest.approx(theirs.lambda_, rel=1e-8)
    np.testing.assert_allclose(ours.mean, theirs.coef_, rtol=1e-8)
    np.testing.assert_allclose(posterior_covariance(ours), theirs.sigma_, atol=1e-12)
    assert ours.log_evidence == pytest.approx(theirs.scores_[-1], rel=1e-9)


def test_generalised_cross_validation_is_its_definition_and_picks_as_ridge_does():
    Phi, y = draw(40, 15)
    y = y + Phi[:, 0]
    S = dense(Phi, 2.0, 0.5)
    hat = Phi @ S @ Phi.T / 0.5
    rest = y - hat @ y

    at = linear_posterior(Phi, y, prior_variance=2.0, noise_variance=0.5)

    expected = 40 * rest @ rest / np.trace(np.eye(40) - hat) ** 2
    assert at.generalised_cross_validation == pytest.approx(expected, rel=1e-11)
    # Leave-one-out weighs each residual by its own leverage; GCV by the mean one.
    grid = np.logspace(-2, 3, 30)
    ours = [
        linear_posterior(
            Phi, y, prior_variance=1.0, noise_variance=z
        ).generalised_cross_validation
        for z in grid
    ]
    theirs = RidgeCV(alphas=grid, fit_intercept=False, store_cv_results=True).fit(
        Phi, y
    )
    best = float(np.log10(grid[int(np.argmin(ours))]))
    assert abs(best - math.log10(theirs.alpha_)) < 0.5


def test_updates_without_a_maximum_say_so():
    Phi, _ = draw(20, 3)
    y = np.linalg.qr(np.column_stack([Phi, np.ones(20)]))[0][:, 3]

    with pytest.warns(AccuracyWarning, match="no maximum within"):
        fit = maximise_evidence(Phi, y, max_iterations=50)

    assert not fit.converged
    assert "NOT converged" in str(fit)


def test_only_the_named_variance_is_updated():
    Phi, y = draw(30, 4)

    fit = maximise_evidence(
        Phi, y + Phi[:, 0], noise_variance=0.25, update=("prior_variance",)
    )

    assert set(fit.noise_variances.tolist()) == {0.25}
    assert fit.converged


def test_a_posterior_prints_and_survives_saving(tmp_path):
    Phi, y = draw(4, 6)
    at = linear_posterior(Phi, y, prior_variance=1.0, noise_variance=0.1)
    at.save(tmp_path, "posterior")

    again = load(tmp_path, "posterior")

    assert torch.equal(again.mean, at.mean)
    assert again.contraction == at.contraction
    assert "4 observations" in str(again)
    assert at.rows()[-1]["directions"] == 2
    fit = maximise_evidence(Phi[:, :1], y + 3 * Phi[:, 0])
    fit.save(tmp_path, "fit")
    assert load(tmp_path, "fit").posterior.mean.shape == (1,)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"prior_variance": 0.0}, "`prior_variance` must be above 0"),
        ({"noise_variance": -1.0}, "`noise_variance` must be above 0"),
        ({"targets": np.zeros(3)}, "`targets` must have shape"),
        ({"features": np.zeros(4)}, "`features` must be a matrix"),
        ({"features": np.full((4, 2), np.nan)}, "`features` must be finite"),
    ],
)
def test_wrong_arguments_are_named(change, text):
    given = {
        "features": np.ones((4, 2)),
        "targets": np.zeros(4),
        "prior_variance": 1.0,
        "noise_variance": 1.0,
        **change,
    }

    with pytest.raises(ValueError, match=text):
        linear_posterior(given.pop("features"), given.pop("targets"), **given)


def test_features_that_do_not_fit_the_posterior_are_refused():
    at = linear_posterior(np.eye(3), np.ones(3), prior_variance=1.0, noise_variance=1.0)

    with pytest.raises(ValueError, match="`features` must have 3 columns"):
        predict(at, np.ones((2, 4)))


def test_features_of_zeros_leave_the_prior():
    at = linear_posterior(
        np.zeros((3, 2)), np.ones(3), prior_variance=2.0, noise_variance=1.0
    )

    assert at.contraction == 0.0
    assert at.num_prior_directions == 2
    np.testing.assert_allclose(predict(at, np.eye(2)).variance, 2.0, rtol=1e-15)


def repeated(rng, scales=1.0):
    """Forty rows of 15 columns, of rank 5."""
    return np.repeat(rng.standard_normal((40, 5)) * scales, 3, axis=1)


@pytest.mark.parametrize("grading", [0.0, 9.0])
def test_directions_that_keep_the_prior_are_those_beyond_the_rank(grading):
    rng = np.random.default_rng(0)
    Phi = repeated(rng, 10.0 ** -np.linspace(0.0, grading, 5))
    noise = 0.01 * 10.0 ** (-2.0 * grading)

    at = linear_posterior(Phi, np.ones(40), prior_variance=2.0, noise_variance=noise)

    assert at.settings["method"] == ("jacobi" if grading else "svd")
    assert at.num_prior_directions == 10
    if grading == 0.0:
        values = np.linalg.eigvalsh(dense(Phi, 2.0, noise))
        assert at.num_prior_directions == int((values > 2.0 * (1.0 - 1e-9)).sum())
    assert sum(row["directions"] for row in at.rows()) == 15


def test_a_full_rank_design_has_prior_directions_by_its_shape_only():
    Phi, y = draw(6, 9)
    Phi *= 10.0 ** -np.arange(0.0, 27.0, 3.0)

    at = linear_posterior(Phi, y, prior_variance=1.0, noise_variance=1e-40)

    assert at.num_prior_directions == 3


@pytest.mark.parametrize(
    ("n", "p", "prior", "noise"),
    [(50, 50, 1e3, 1e-3), (60, 200, 3.0, 0.1), (300, 4, 1e-4, 10.0), (5, 40, 1.0, 1.0)],
)
def test_identities_hold_to_nine_digits_on_designs_that_are_barely_regularised(
    n, p, prior, noise
):
    Phi, y = draw(n, p, seed=3)

    table = posterior_identities(Phi, y, prior_variance=prior, noise_variance=noise)

    assert table.largest_difference < 1e-9
    by_name = {row.name: row for row in table.identities}
    if prior < 10.0:  # the naive left sides keep enough digits here
        S = dense(Phi, prior, noise)
        K = prior * Phi @ Phi.T + noise * np.eye(n)
        row = by_name["tr of the hat matrix = N_eff"]
        assert row.left == pytest.approx(np.trace(Phi @ S @ Phi.T) / noise, rel=1e-9)
        row = by_name["log N(y; 0, K + noise I) = log evidence"]
        assert row.left == pytest.approx(gaussian_log_density(y, K), rel=1e-9)
        name = "ln det Cov(prior) - ln det Cov(posterior) = -2 log Occam factor"
        determinant = p * math.log(prior) - np.linalg.slogdet(S)[1]
        assert by_name[name].left == pytest.approx(determinant, rel=1e-8, abs=1e-9)


NOT_NUMBERS = ["x", None, [[1, 2], [3]], [["a", "b"]], np.ones((4, 2)) * 1j]


@pytest.mark.parametrize("value", [*NOT_NUMBERS, torch.ones(4, 2) * 1j])
@pytest.mark.parametrize("argument", ["features", "targets"])
def test_what_holds_no_real_numbers_is_refused(argument, value):
    given = {"features": np.ones((4, 2)), "targets": np.zeros(4), argument: value}

    with pytest.raises(TypeError, match=f"`{argument}` must hold real numbers"):
        linear_posterior(**given, prior_variance=1.0, noise_variance=1.0)


@pytest.mark.parametrize("value", ["1", True, None, 1j])
def test_a_variance_that_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match="`prior_variance` must be a number"):
        linear_posterior(
            np.eye(2), np.ones(2), prior_variance=value, noise_variance=1.0
        )


def test_lists_keep_the_digits_of_their_numbers():
    options = {"prior_variance": 1.0, "noise_variance": 1.0}
    Phi, y = [[0.1, 0.3], [0.7, 0.2]], [1.0, 2.0]

    at = linear_posterior(Phi, y, **options)

    assert torch.equal(at.mean, linear_posterior(np.array(Phi), y, **options).mean)


@pytest.mark.parametrize(
    "call",
    [
        lambda: predict("no", np.eye(2)),
        lambda: posterior_covariance(None),
        lambda: covariance_effective_dimension("x", z=1.0),
        lambda: function_effective_dimension("x", z=1.0),
    ],
)
def test_what_is_no_posterior_is_refused(call):
    with pytest.raises(TypeError, match=r"`posterior` must be .*LinearPosterior"):
        call()
