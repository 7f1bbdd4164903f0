"""Sampling the published network: numbers from samples, chains, and the sampler itself."""

import importlib.util
import math
import sys

import numpy as np
import pytest
import torch

from curvescope._core.errors import MissingExtraError
from curvescope.experiments import posterior_samples
from curvescope.experiments.posterior_contraction import (
    PosteriorContractionConfig,
    plan,
    posterior_contraction,
    sampled_points,
)
from curvescope.experiments.posterior_net import (
    NUM_PARAMS,
    draw_from_prior,
    regression_data,
)
from curvescope.experiments.posterior_samples import (
    SampledPoint,
    Samples,
    covariance_numbers,
    dimension,
    nuts,
    outputs_of,
    prior_sample_dimension,
    published_dimension,
    published_function_dimension,
    variances_of,
)
from curvescope.plots import plot
from curvescope.report.kinds import kind_of
from curvescope.results import load

needs_numpyro = pytest.mark.skipif(
    importlib.util.find_spec("numpyro") is None,
    reason="needs numpyro: pip install 'curvescope[nuts]'",
)
# jax says at import and at first use what its next version will change.
quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CONFIG = PosteriorContractionConfig(
    model="net", sampler="nuts", num_observations=(10, 30), draws=1, samples=20, jobs=1
)


def draws(shape=(2, 60, 7), seed=0):
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((shape[-1], shape[-1]))
    return generator.standard_normal(shape) @ mixing + 5.0


def test_dimensions_are_those_of_numpys_covariance():
    flat = draws()
    S = np.cov(flat.reshape(-1, 7), rowvar=False)
    numbers = covariance_numbers(flat, z=0.3, prior_variance=2.0)

    truth = np.trace(S @ np.linalg.inv(S + 0.3 * np.eye(7)))
    assert numbers["parameter_dimension"] == pytest.approx(truth, rel=1e-10)
    determined = 7 - np.trace(S) / 2.0
    assert numbers["effective_dimension"] == pytest.approx(determined, rel=1e-10)


def test_the_published_way_counts_the_mean_and_the_precision():
    flat, precision = draws(), np.full((2, 60), 30.0)
    X = np.concatenate([flat.reshape(-1, 7), np.full((120, 1), 30.0)], axis=1)
    S = X.T @ X / 119
    truth = np.trace(S @ np.linalg.inv(S + np.eye(8)))

    found = published_dimension(flat, precision, 1.0)

    assert found == pytest.approx(truth, rel=1e-10)
    # A mean that is large against z counts as a direction that the prior left alone.
    assert variances_of(flat, centred=False)[0] > 5 * variances_of(flat)[0]


@pytest.mark.parametrize(("observations", "published"), [(12, 12), (60, 39)])
def test_the_published_function_dimension_counts_observations_or_samples(
    observations, published
):
    """It is the smaller of both whatever is sampled: here noise of any size."""
    generator = np.random.default_rng(1)
    for size in (0.3, 3.0):
        observed = size * generator.standard_normal((1, 40, observations))
        found = published_function_dimension(observed)
        assert found == pytest.approx(published, abs=0.01)


def test_few_independent_samples_of_the_prior_give_less_than_its_dimension():
    found = [
        prior_sample_dimension(60, count, z=1.0, prior_variance=1.0)
        for count in (30, 120, 20_000)
    ]
    assert found == sorted(found)
    assert found[0] < 29.0
    assert found[-1] == pytest.approx(30.0, rel=0.01)


def test_the_trace_does_not_mind_dependent_samples():
    """Each of 40 draws four times over: a dimension that falls, a trace that stays."""
    flat = np.random.default_rng(2).standard_normal((1, 4000, 50))
    few = np.repeat(flat[:, :40], 100, axis=1)
    whole = covariance_numbers(flat, z=1.0, prior_variance=1.0)
    repeated = covariance_numbers(few, z=1.0, prior_variance=1.0)

    assert whole["parameter_dimension"] == pytest.approx(25.0, rel=0.02)
    assert repeated["parameter_dimension"] < 20.0
    # The error of a mean of 40 * 50 squares.
    assert abs(repeated["effective_dimension"]) < 4 * 50 * math.sqrt(2 / 2000) + 50 / 40


def test_the_function_is_that_of_the_network():
    model = draw_from_prior(1.0, seed=3)
    inputs = regression_data(15, seed=0)[0]
    weights = [p.detach().T.numpy()[None, None] for p in model.parameters()]

    found = outputs_of(weights, inputs.numpy())

    torch.testing.assert_close(
        torch.from_numpy(found[0, 0]), model(inputs)[:, 0].detach()
    )


def test_a_chain_holds_the_weights_alone():
    """480 of them; the published 481 is with the precision of the noise."""
    weights = [np.zeros((2, 3, a, b)) for a, b in ((3, 20), (20, 20), (20, 1))]
    zero = np.zeros((2, 3))
    chain = Samples(weights, zero, zero, zero, zero, "none")
    assert chain.flat.shape == (2, 3, NUM_PARAMS) == (2, 3, 480)


def test_without_the_sampler_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "numpyro", None)
    with pytest.raises(MissingExtraError, match=r"find numpyro.*curvescope\[nuts\]"):
        posterior_contraction(CONFIG)


def test_points_are_sampled_each_by_itself_from_one_draw():
    points = sampled_points(CONFIG)
    assert [(p.num_observations, p.drawn) for p in points] == [(10, 30), (30, 30)]


def test_the_published_sampling_is_the_default_of_its_preset():
    config = PosteriorContractionConfig(model="net", sampler="nuts", preset="paper")
    points = sampled_points(config)
    assert {(p.samples, p.chains, p.z) for p in points} == {(2000, 1, 1.0)}
    assert len({p.num_observations for p in points}) == 22
    made = plan(config)
    assert made.runs == 110
    assert {row.num_params for row in made.rows} == {480}


@pytest.fixture(scope="module", autouse=True)
def small_trees():
    """Trees of at most seven gradients, not 1,023: a hundredth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posterior_samples, "MOST_DOUBLINGS", 3)
        yield


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nuts")
    return posterior_contraction(CONFIG, folder=folder)["contraction"], folder


@quiet
@needs_numpyro
def test_the_model_of_the_sampler_is_the_posterior():
    """Its log density against that of torch's own distributions."""
    import jax
    from numpyro.infer.util import log_density

    inputs, targets, _ = regression_data(12, seed=1)
    net = draw_from_prior(1.3, seed=0)
    matrices = [p.detach().T.contiguous() for p in net.parameters()]
    values = {f"weights{i}": m.numpy() for i, m in enumerate(matrices)}
    found, _ = log_density(
        posterior_samples.network_model,
        (inputs.numpy(), targets.numpy(), 1.3),
        {},
        {**values, "precision": jax.numpy.asarray(4.0)},
    )

    prior = torch.distributions.Normal(0.0, math.sqrt(1.3))
    noise = torch.distributions.Normal(net(inputs).detach(), 0.5)
    truth = sum(prior.log_prob(m).sum() for m in matrices)
    truth += torch.distributions.Gamma(3.0, 1.0).log_prob(torch.tensor(4.0))
    truth += noise.log_prob(targets).sum()
    assert float(found) == pytest.approx(float(truth), rel=2e-6)


@quiet
@needs_numpyro
def test_chains_are_measured_and_kept(sampled, tmp_path, monkeypatch):
    found, folder = sampled
    assert found.posterior == "nuts"
    assert found.num_params == 480
    assert [chain.num_observations for chain in found.chains] == [10, 30]
    for chain in found.chains:
        assert chain.weights_r_hat > 0.5
        assert chain.function_sample_size > 0.0
        assert 0.0 < chain.acceptance <= 1.0
        assert 1.0 <= chain.mean_steps <= 7.0
        assert "numpyro" in chain.sampler
        assert chain.published_function_dimension == pytest.approx(
            min(chain.num_observations, 19), rel=1e-3
        )
    # Twenty samples span nineteen directions, whatever the posterior.
    assert float(found.parameter_dimension.max()) <= 19.0
    assert 0.0 < found.independent_prior_dimension <= 19.0
    assert any("R-hat" in note for note in found.notes)

    loaded = load(found.save(tmp_path, "found").parent, "found")
    assert loaded.chains == found.chains
    assert "R-hat" in kind_of(loaded).sureness(loaded)
    labels = [line.get_label() for line in plot(loaded).axes[0].get_lines()]
    assert any("published way" in label for label in labels)

    monkeypatch.setattr(posterior_samples, "nuts", None)
    again = posterior_contraction(CONFIG, folder=folder)["contraction"]
    assert again.chains == found.chains


@quiet
@needs_numpyro
@pytest.mark.slow
def test_the_same_seed_gives_the_same_chain():
    point = SampledPoint(
        num_observations=8,
        drawn=8,
        z=1.0,
        prior_variance=1.0,
        samples=5,
        chains=2,
        seed=4,
    )
    first, again = nuts(point), nuts(point)
    assert np.array_equal(first.flat, again.flat)
    assert first.flat.shape == (2, 5, 480)
    assert not np.array_equal(first.flat[0], first.flat[1])


@quiet
@needs_numpyro
@pytest.mark.slow
def test_without_a_say_of_the_data_the_samples_are_the_priors():
    """One observation hardly tells: the trace is that of the prior, to its own error."""
    point = SampledPoint(
        num_observations=1,
        drawn=30,
        z=1.0,
        prior_variance=1.0,
        samples=400,
        chains=1,
        seed=0,
    )
    numbers = posterior_samples.measure_samples(point)
    assert abs(numbers["effective_dimension"]) < 4 * math.sqrt(2 * 480 / 200)
    expected = prior_sample_dimension(480, 400, z=1.0, prior_variance=1.0)
    assert numbers["parameter_dimension"] == pytest.approx(expected, rel=0.05)


def test_dimension_of_nothing_is_zero():
    assert dimension(np.zeros(3), 1.0) == 0.0
