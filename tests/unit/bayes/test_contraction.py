import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import curvescope as cs
from curvescope.analysis import laplace, laplace_predict
from curvescope.bayes import (
    covariance_effective_dimension,
    function_effective_dimension,
    linear_posterior,
    posterior_covariance,
    posterior_identities,
)
from curvescope.bayes.left_out import bracketed_sum
from curvescope.results import load


def draw(n, p, seed=0):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((n, p)), generator.standard_normal(n)


def published_features():
    """Fourier features of 300 places, in the random order of the golden numbers."""
    x = np.linspace(0, 50, 300)
    waves = [f(j * np.pi * x) for j in range(1, 101) for f in (np.cos, np.sin)]
    return np.stack(waves, axis=1)[np.random.default_rng(0).permutation(300)]


def test_published_curves_come_from_the_posterior_alone():
    Phi = published_features()
    golden = {1: (74.63, 0.020), 100: (37.53, 1.960), 200: (3.03, 3.775)}

    for n, (of_covariance, of_function) in golden.items():
        at = linear_posterior(
            Phi[:n], np.zeros(n), prior_variance=3.0, noise_variance=0.1
        )

        found = covariance_effective_dimension(at, z=5.0).value
        assert found == pytest.approx(of_covariance, abs=0.0051)
        found = function_effective_dimension(at, z=5.0).value
        assert found == pytest.approx(of_function, abs=0.00051)
    start = linear_posterior(
        np.zeros((1, 200)), [0.0], prior_variance=3.0, noise_variance=0.1
    )
    assert covariance_effective_dimension(start, z=5.0).value == pytest.approx(75.0)


@given(
    n=st.integers(1, 10),
    p=st.integers(1, 10),
    prior=st.floats(1e-2, 1e2),
    noise=st.floats(1e-2, 1e2),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=50, deadline=None)
def test_every_identity_holds_to_nine_digits(n, p, prior, noise, seed):
    Phi, y = draw(n, p, seed)

    table = posterior_identities(Phi, y, prior_variance=prior, noise_variance=noise)

    for row in table.identities:
        # Both sides of a difference of large numbers are judged against those.
        scale = max(
            abs(row.left),
            abs(row.right),
            1.0,
            p * prior if "tr Cov" in row.name else 0.0,
        )
        assert abs(row.left - row.right) <= 1e-9 * scale, row


@pytest.mark.parametrize("shape", [(60, 200), (200, 60)])
def test_every_identity_holds_at_the_size_of_the_reference(shape):
    Phi, y = draw(*shape)

    table = posterior_identities(Phi, y, prior_variance=3.0, noise_variance=0.1)

    assert table.largest_difference < 1e-9
    assert len(table.identities) == 13


def test_a_wrong_identity_would_be_seen(tmp_path):
    Phi, y = draw(5, 3)
    table = posterior_identities(Phi, y, prior_variance=3.0, noise_variance=0.1)
    table.save(tmp_path, "identities")

    again = load(tmp_path, "identities")

    assert again.identities == table.identities
    first = again.identities[0]
    assert type(first)(name="x", left=1.0, right=1.1).relative_difference > 0.09
    assert "N_eff" in str(again)


def test_contraction_falls_and_the_function_grows_as_observations_come():
    Phi, y = draw(40, 15)

    ends = [
        linear_posterior(Phi[:n], y[:n], prior_variance=1.0, noise_variance=0.3)
        for n in range(1, 41, 3)
    ]

    of_covariance = [covariance_effective_dimension(at, z=1.0).value for at in ends]
    of_function = [function_effective_dimension(at, z=1.0).value for at in ends]
    assert all(np.diff(of_covariance) < 0)
    assert all(np.diff(of_function) > 0)


def test_laplace_covariance_has_the_dimension_of_the_dense_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    X, y = torch.randn(20, 3).double(), torch.randint(0, 2, (20,))
    problem = cs.Problem(model, "cross_entropy", (X, y))
    exact = laplace(problem, prior_precision=0.5)
    G = cs.GGN(problem).to_dense() * 20
    v = 1 / (torch.linalg.eigvalsh(G).clamp_min(0) + 0.5)

    value = covariance_effective_dimension(exact, z=2.0).value

    assert value == pytest.approx(float((v / (v + 2.0)).sum()), rel=1e-11)
    for rank in (3, 8):
        low = laplace(problem, prior_precision=0.5, method="low_rank", rank=rank)
        below, above = covariance_effective_dimension(low, z=2.0).interval(level=0.999)
        assert below <= value <= above
    joint = laplace_predict(exact, problem, X, joint=True).joint_covariance
    assert joint.shape == (40, 40)


@given(
    values=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=30),
    kept=st.integers(1, 5),
    delta=st.floats(1e-4, 1e2),
)
@settings(max_examples=80, deadline=None)
def test_the_bracket_holds_for_every_spectrum(values, kept, delta):
    spectrum = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    top, rest = spectrum[:kept], spectrum[kept:]

    def g(x):
        return torch.log1p(x / delta)

    middle, half, _ = bracketed_sum(
        g,
        num=max(len(rest), 1),
        bound=float(top[-1]) or 1.0,
        trace=float(rest.sum()),
        trace_error=0.0,
    )

    truth = float(g(rest).sum())
    assert middle - half <= truth + 1e-12 * abs(truth)
    assert truth <= middle + half + 1e-12 * abs(truth)


def test_covariance_of_a_linear_model_agrees_with_its_matrix():
    Phi, y = draw(6, 9)
    at = linear_posterior(Phi, y, prior_variance=2.0, noise_variance=0.3)

    v = torch.linalg.eigvalsh(posterior_covariance(at))

    value = covariance_effective_dimension(at, z=0.7).value
    assert value == pytest.approx(float((v / (v + 0.7)).sum()), rel=1e-12)
    with pytest.raises(ValueError, match="`z` must be above 0"):
        covariance_effective_dimension(at, z=0.0)
