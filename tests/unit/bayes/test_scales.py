import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import curvescope as cs
from curvescope.analysis import laplace, laplace_predict
from curvescope.bayes import (
    check_function_space_homogeneity,
    linear_posterior,
    z_from_kink,
    z_from_prior,
    z_from_weight_decay,
)
from curvescope.bayes.likelihood import likelihood_of

FLOAT = torch.float64


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def regression(loss, reduction, generator, outputs=1):
    X = torch.randn(12, 7, generator=generator, dtype=FLOAT)
    y = torch.randn(12, outputs, generator=generator, dtype=FLOAT)
    model = nn.Linear(7, outputs, bias=False, dtype=FLOAT)
    return X, y, cs.Problem(model, loss, (X, y), reduction=reduction)


def classification(reduction, generator, loss="cross_entropy", **options):
    X = torch.randn(12, 4, generator=generator, dtype=FLOAT)
    y = torch.randint(0, 3, (12,), generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return cs.Problem(model, loss, (X, y), reduction=reduction, **options)


def n_eff(problem, z):
    values = torch.linalg.eigvalsh(cs.GGN(problem).to_dense()).clamp_min(0.0)
    return float((values / (values + z)).sum())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", ["mse", "half_squared_error"])
def test_prior_and_noise_give_the_posteriors_dimension_in_any_unit(
    loss, reduction, generator
):
    X, y, problem = regression(loss, reduction, generator)
    at = linear_posterior(X, y[:, 0], prior_variance=3.0, noise_variance=0.1)

    scale = z_from_prior(problem, prior_variance=3.0, noise_variance=0.1)

    assert n_eff(problem, float(scale)) == pytest.approx(
        at.effective_dimension, rel=1e-10
    )
    assert scale.of.unit in str(scale)
    verb = cs.effective_dimension(cs.GGN(problem), z=float(scale), method="exact")
    assert verb.value == pytest.approx(at.effective_dimension, rel=1e-9)


def test_several_outputs_of_mse_count_as_elements(generator):
    _, _, problem = regression("mse", "mean", generator, outputs=3)

    z = z_from_prior(problem, prior_variance=2.0, noise_variance=0.5).z

    # Mean over 36 elements of squares: its Hessian is 2/36 of the half sum's.
    assert z == pytest.approx(0.5 / 2.0 * 2 / 36)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_weight_decay_gives_the_dimension_of_laplace(reduction, generator):
    problem = classification(reduction, generator)
    truth = laplace(problem, prior_precision=12 * 0.02).effective_dimension.value

    scale = z_from_weight_decay(problem, weight_decay=0.02)

    assert scale.z == pytest.approx(0.02 if reduction == "mean" else 12 * 0.02)
    assert n_eff(problem, scale.z) == pytest.approx(truth, rel=1e-10)
    prior = z_from_prior(problem, prior_variance=1 / (12 * 0.02))
    assert prior.z == pytest.approx(scale.z)


def test_the_problems_own_weight_decay_is_in_its_own_unit(generator):
    for reduction in ("mean", "sum"):
        problem = classification(reduction, generator, weight_decay=0.3)

        assert z_from_weight_decay(problem).z == 0.3
        assert z_from_weight_decay(
            problem, weight_decay=0.3, trained_on=reduction
        ).z == pytest.approx(0.3)


def test_denominators_are_the_losss_own(generator):
    weight = torch.tensor([1.0, 2.0, 5.0], dtype=FLOAT)
    problem = classification("sum", generator, nn.CrossEntropyLoss(weight=weight))

    z = z_from_weight_decay(problem, weight_decay=0.1).z

    assert z == pytest.approx(0.1 * problem.denominator)
    assert problem.denominator != 12
    note = z_from_prior(problem, prior_variance=1.0).notes
    assert "no normalised likelihood" in note[0]


def test_likelihoods_are_the_textbook_densities(generator):
    for loss in ("mse", "half_squared_error"):
        X, y, problem = regression(loss, "mean", generator, outputs=2)
        found = likelihood_of(problem, noise_variance=0.3)
        total = problem.evaluate().loss / problem.scale

        normal = torch.distributions.Normal(problem.model(X).detach(), math.sqrt(0.3))
        expected = -float(normal.log_prob(y).sum())
        assert found.factor * total + found.constant == pytest.approx(expected)
    problem = classification("mean", generator)
    assert likelihood_of(problem).proper


def test_missing_and_superfluous_arguments_are_refused(generator):
    _, _, problem = regression("mse", "mean", generator)

    with pytest.raises(ValueError, match="`noise_variance` must be given"):
        z_from_prior(problem, prior_variance=1.0)
    with pytest.raises(ValueError, match="`weight_decay` must be above 0"):
        z_from_weight_decay(problem)
    with pytest.raises(ValueError, match="`trained_on` must be one of"):
        z_from_weight_decay(problem, weight_decay=1.0, trained_on="batch")
    with pytest.raises(ValueError, match="`prior_variance` must be above 0"):
        z_from_prior(problem, prior_variance=0.0, noise_variance=1.0)


@given(
    outliers=st.integers(2, 12),
    decades=st.floats(2.0, 8.0),
    seed=st.integers(0, 2**16),
    unit=st.sampled_from([1e-12, 1.0, 1e12]),
)
@settings(max_examples=40, deadline=None)
def test_the_kink_lies_between_outliers_and_bulk_in_any_unit(
    outliers, decades, seed, unit
):
    generator = np.random.default_rng(seed)
    top = 1.0 + generator.random(outliers)
    bulk = 10.0**-decades * np.arange(1, 200) ** -0.7
    spectrum = generator.permutation(np.concatenate([top, bulk])) * unit

    found = z_from_kink(torch.from_numpy(spectrum))

    assert bulk.max() * unit < found.z < top.min() * unit
    assert found.low <= found.z <= found.high
    assert found.notes == ()
    assert f"after {outliers} of" in found.meaning


@pytest.mark.parametrize(
    "spectrum",
    [np.arange(1.0, 400.0) ** -1.5, np.exp(-np.arange(30.0)), np.linspace(1, 0, 300)],
    ids=["power law", "exponential", "uniform"],
)
def test_spectra_without_a_kink_are_told(spectrum):
    found = z_from_kink(spectrum)

    assert "no clear kink" in found.notes[0]


def test_the_kink_of_eigenpairs_carries_their_unit(generator):
    A = torch.diag(torch.cat([torch.full((5,), 2.0), torch.linspace(1e-4, 1e-5, 40)]))
    pairs = cs.eigsh(A.double(), k=45)

    found = z_from_kink(pairs)

    assert 1e-4 < found.z < 2.0
    assert found.of == pairs.of


def test_negative_and_zero_eigenvalues_do_not_make_a_kink():
    values = torch.cat(
        [torch.ones(4), torch.full((20,), -0.5), torch.full((9,), 1e-20)]
    )

    with pytest.raises(ValueError, match="`spectrum` must have 6 eigenvalues"):
        z_from_kink(values)
    with pytest.raises(ValueError, match="`spectrum` must be finite"):
        z_from_kink(torch.tensor([1.0, math.nan]))


@pytest.mark.parametrize("spectrum", ["ab", None, [[1, 2], [3]], torch.ones(9) * 1j])
def test_a_spectrum_that_holds_no_real_numbers_is_refused(spectrum):
    with pytest.raises(TypeError, match="`spectrum` must hold real numbers"):
        z_from_kink(spectrum)


@pytest.mark.parametrize(
    "call",
    [
        lambda: laplace("x", prior_precision=1.0),
        lambda: check_function_space_homogeneity("x"),
        lambda: z_from_prior("x", prior_variance=1.0),
        lambda: z_from_weight_decay("x", weight_decay=1.0),
    ],
)
def test_what_is_no_problem_is_refused(call):
    with pytest.raises(TypeError, match="`problem` must be a Problem; got 'x'"):
        call()


def test_what_is_no_laplace_posterior_is_refused():
    with pytest.raises(TypeError, match="`posterior` must be a LaplacePosterior"):
        laplace_predict(None, None, torch.ones(1, 2))
