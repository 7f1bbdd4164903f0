"""Contraction of a linear model against published numbers, of a net against theory."""

import numpy as np
import pytest
import torch

from curvescope import Problem, models
from curvescope.exact import ggn_factor
from curvescope.experiments.posterior_contraction import (
    PosteriorContractionConfig,
    plan,
    posterior_contraction,
)
from curvescope.experiments.posterior_linear import fourier_features
from curvescope.experiments.posterior_mode import find_mode
from curvescope.experiments.posterior_net import regression_data
from curvescope.experiments.sweep import PointError

# Number of observations: N_eff of the parameters' covariance, of the function's, of H.
PUBLISHED = {
    1: (74.63, 0.020, 1.0),
    50: (56.26, 0.980, 49.98),
    100: (37.53, 1.960, 99.95),
    150: (18.89, 2.936, 149.75),
    175: (10.09, 3.400, 173.4),
    200: (3.03, 3.775, 192.5),
    225: (0.51, 3.902, 199.0),
    300: (0.027, 3.921, 199.96),
}


def contraction(**settings):
    config = PosteriorContractionConfig(**{"jobs": 1, "draws": 1, **settings})
    return posterior_contraction(config)["contraction"]


def test_the_linear_model_reproduces_the_published_numbers():
    found = contraction(num_observations=tuple(PUBLISHED))

    assert found.prior_dimension == 75.0
    for row, truth in zip(found.rows(), PUBLISHED.values(), strict=True):
        parameters, function, hessian = truth
        assert row["parameter_dimension"] == pytest.approx(parameters, abs=0.0051)
        assert row["function_dimension"] == pytest.approx(function, abs=0.00051)
        assert row["effective_dimension"] == pytest.approx(hessian, abs=0.051)


def test_the_linear_curves_are_those_of_dense_covariances():
    found = contraction(num_observations=(7, 260), z=2.0, prior_variance=0.5, seed=4)
    order = np.random.default_rng(4).permutation(300)
    for row in found.rows():
        Phi = fourier_features().numpy()[order[: row["num_observations"]]]
        H = Phi.T @ Phi / 0.1
        S = np.linalg.inv(H + 2.0 * np.eye(200))
        for name, A, z in (
            ("parameter_dimension", S, 2.0),
            ("function_dimension", Phi @ S @ Phi.T, 2.0),
            ("effective_dimension", H, 2.0),
        ):
            truth = np.trace(A @ np.linalg.inv(A + z * np.eye(len(A))))
            assert row[name] == pytest.approx(truth, rel=1e-9), name


def test_the_first_feature_is_a_cosine_and_the_last_a_sine():
    x = np.linspace(0.0, 50.0, 300)
    Phi = fourier_features().numpy()
    assert Phi.shape == (300, 200)
    np.testing.assert_allclose(Phi[:, 0], np.cos(np.pi * x), atol=1e-12)
    np.testing.assert_allclose(Phi[:, -1], np.sin(100 * np.pi * x), atol=1e-10)


@pytest.fixture(scope="module")
def net():
    counts = (20, 60)
    return contraction(model="net", num_observations=counts, draws=2)


def test_the_net_starts_near_its_prior_and_falls(net):
    assert net.num_params == 480
    assert net.prior_dimension == 240.0
    curves = net.parameter_dimension
    # Twenty observations determine twenty directions at most, each by a half.
    assert bool((curves[:, 0] > 230.0).all())
    assert bool((curves.diff(dim=1) < 0.0).all())
    assert bool((net.effective_dimension.diff(dim=1) > 0.0).all())


def test_covariance_and_precision_share_the_parameters(net):
    """N_eff(S, 1) + N_eff(G + I, 1) = P, and the latter from N_eff's of G alone."""
    assert net.function_dimension is None
    lost = 240.0 - net.parameter_dimension
    # lambda / (2 (lambda + 2)) is between a quarter and a half of lambda / (lambda + 1).
    assert bool((lost > net.effective_dimension / 4.0).all())
    assert bool((lost < net.effective_dimension / 2.0).all())


def test_each_number_of_observations_can_have_its_own_mode(net):
    counts = (20, 60)
    own = contraction(model="net", num_observations=counts, weights="each")
    torch.testing.assert_close(
        own.parameter_dimension[0, -1],
        net.parameter_dimension[0, -1],
        rtol=1e-9,
        atol=0,
    )
    assert (
        float((own.parameter_dimension - net.parameter_dimension[:1])[0, 0].abs()) > 0
    )


def test_the_mode_is_one():
    """The gradient of the negative log posterior, by autograd, is next to nothing."""
    inputs, targets, noise = regression_data(80, seed=1)
    model = models.build(
        "mlp", in_features=3, hidden=(6,), num_classes=1, activation="elu", bias=False
    ).double()
    energy = find_mode(model, inputs, targets, noise_variance=noise, tol=1e-9)

    square = (model(inputs) - targets).square().sum()
    prior = sum(p.square().sum() for p in model.parameters())
    value = 0.5 * (square / noise + prior)
    assert energy == pytest.approx(float(value.detach()), rel=1e-12)
    grads = torch.autograd.grad(value, list(model.parameters()))
    gradient = torch.cat([g.flatten() for g in grads])
    F = ggn_factor(Problem(model, "half_squared_error", (inputs, targets))) * 80**0.5
    precision = F.T @ F / noise + torch.eye(F.shape[1])
    gain = 0.5 * float(gradient @ torch.linalg.solve(precision, gradient))
    assert gain < 1e-6


def test_nested_observations_are_the_same_ones():
    inputs, targets, noise = regression_data(50, seed=3)
    assert sorted(inputs[:, 1].tolist()) == pytest.approx(np.linspace(-1, 1, 50))
    torch.testing.assert_close(inputs[:, 2], inputs[:, 1] ** 2)
    assert float(targets.mean()) == pytest.approx(0.0, abs=1e-12)
    assert 0.0 < noise < 1.0


def test_finished_draws_are_not_computed_again(tmp_path, monkeypatch):
    config = PosteriorContractionConfig(num_observations=(3, 9), draws=2, jobs=1)
    first = posterior_contraction(config, folder=tmp_path)["contraction"]
    module = "curvescope.experiments.posterior_linear"
    monkeypatch.setattr(f"{module}.linear_posterior", None)

    again = posterior_contraction(config, folder=tmp_path)["contraction"]

    torch.testing.assert_close(again.parameter_dimension, first.parameter_dimension)
    more = PosteriorContractionConfig(num_observations=(3, 9), draws=3, jobs=1)
    with pytest.raises(PointError, match="seed=2"):
        posterior_contraction(more, folder=tmp_path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_observations": ()}, "`num_observations` must hold at least one"),
        ({"num_observations": (301,)}, "`num_observations` must be at most 300"),
        ({"num_observations": (3, 3)}, "`num_observations` must have no repetition"),
        ({"z": 0.0}, "`z` must be"),
        ({"prior_variance": -1.0}, "`prior_variance` must be"),
        ({"draws": 0}, "`draws` must be at least 1"),
        ({"sampler": "nuts"}, "`sampler` must be laplace for the linear model"),
        ({"samples": 10}, "`samples` must be given to NUTS only"),
        ({"chains": 0}, "`chains` must be at least 1"),
    ],
)
def test_a_wrong_configuration_is_refused(change, text):
    with pytest.raises(ValueError, match=text):
        posterior_contraction(PosteriorContractionConfig(**change))


def test_the_plan_knows_models_and_draws():
    linear = plan(PosteriorContractionConfig(preset="paper"))
    assert (linear.runs, linear.rows[0].num_params) == (5, 200)
    net = plan(PosteriorContractionConfig(preset="paper", model="net"))
    assert (net.runs, net.rows[0].num_params) == (5, 480)
    assert "up to 5000" in str(net)
