import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

import curvescope as cs
from curvescope.analysis.laplace import laplace, laplace_predict
from curvescope.bayes import linear_posterior, predict
from curvescope.results import load

FLOAT = torch.float64


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def net(*widths, dtype=FLOAT):
    torch.manual_seed(1)
    layers = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b, dtype=dtype), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def flat_jacobian(model, X):
    """(n, K, P) by torch.func alone."""
    parameters = dict(model.named_parameters())
    found = jacrev(lambda p: functional_call(model, p, (X,)))(parameters)
    return torch.cat([j.flatten(2) for j in found.values()], dim=2).detach()


def dense_ggn(model, X, loss):
    """Of the summed negative log-likelihood."""
    J, f = flat_jacobian(model, X), model(X).detach()
    if loss == "cross_entropy":
        p = f.softmax(1)
        D = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    else:
        D = torch.eye(f.shape[1], dtype=f.dtype).expand(len(f), -1, -1)
    return torch.einsum("nkp,nkl,nlq->pq", J, D, J)


def classifier(generator, n=30):
    model = net(4, 5, 3)
    X = torch.randn(n, 4, generator=generator, dtype=FLOAT)
    y = torch.randint(0, 3, (n,), generator=generator)
    return model, X, cs.Problem(model, "cross_entropy", (X, y)), y


def test_posterior_of_a_classifier_is_the_dense_one(generator):
    model, X, problem, y = classifier(generator)
    delta = 0.3
    G = dense_ggn(model, X, "cross_entropy")
    S = torch.linalg.inv(G + delta * torch.eye(len(G), dtype=FLOAT))
    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    nll = nn.functional.cross_entropy(model(X), y, reduction="sum").detach()

    at = laplace(problem, prior_precision=delta)

    assert at.method == "exact"
    gamma = float(torch.trace(G @ S))
    assert at.effective_dimension.value == pytest.approx(gamma, rel=1e-10)
    logdet = torch.logdet(torch.eye(len(G), dtype=FLOAT) + G / delta)
    evidence = -nll - delta / 2 * theta @ theta - logdet / 2
    assert at.log_marginal_likelihood.value == pytest.approx(float(evidence), rel=1e-11)
    new = torch.randn(6, 4, generator=generator, dtype=FLOAT)
    found = laplace_predict(at, problem, new, joint=True)
    J = flat_jacobian(model, new).flatten(0, 1)
    torch.testing.assert_close(
        found.joint_covariance, J @ S @ J.T, rtol=1e-9, atol=1e-12
    )
    blocks = torch.stack(
        [(J @ S @ J.T)[3 * i : 3 * i + 3, 3 * i : 3 * i + 3] for i in range(6)]
    )
    torch.testing.assert_close(found.covariance, blocks, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.mean, model(new).detach())
    assert float(found.covariance_slack.abs().max()) == 0.0


def test_nothing_depends_on_the_reduction(generator):
    model, X, mean, y = classifier(generator)
    total = cs.Problem(model, "cross_entropy", (X, y), reduction="sum")

    a, b = laplace(mean, prior_precision=2.0), laplace(total, prior_precision=2.0)

    assert a.effective_dimension.value == pytest.approx(
        b.effective_dimension.value, rel=1e-12
    )
    assert a.log_marginal_likelihood.value == pytest.approx(
        b.log_marginal_likelihood.value, rel=1e-12
    )


@pytest.mark.parametrize("loss", ["mse", "half_squared_error"])
def test_of_a_linear_model_it_is_the_exact_posterior(loss, generator):
    Phi = torch.randn(12, 5, generator=generator, dtype=FLOAT)
    y = torch.randn(12, generator=generator, dtype=FLOAT)
    truth = linear_posterior(Phi, y, prior_variance=0.5, noise_variance=0.2)
    model = nn.Linear(5, 1, bias=False, dtype=FLOAT)
    with torch.no_grad():
        model.weight.copy_(truth.mean[None])
    problem = cs.Problem(model, loss, (Phi, y[:, None]))

    at = laplace(problem, prior_precision=2.0, noise_variance=0.2)

    assert at.log_marginal_likelihood.value == pytest.approx(
        truth.log_evidence, rel=1e-12
    )
    assert at.effective_dimension.value == pytest.approx(
        truth.effective_dimension, rel=1e-12
    )
    assert at.newton_decrement == pytest.approx(0.0, abs=1e-20)
    torch.testing.assert_close(
        laplace_predict(at, problem, Phi).observation_variance,
        predict(truth, Phi).observation_variance,
    )
    with torch.no_grad():
        model.weight.add_(0.1)
    away = laplace(problem, prior_precision=2.0, noise_variance=0.2)
    gap = truth.log_evidence - away.log_marginal_likelihood.value
    assert away.newton_decrement == pytest.approx(gap, rel=1e-9)


def test_low_rank_brackets_the_exact_posterior(generator):
    _, _, problem, _ = classifier(generator, n=40)
    new = torch.randn(5, 4, generator=generator, dtype=FLOAT)
    exact = laplace(problem, prior_precision=0.2)
    truth = laplace_predict(exact, problem, new)

    for rank in (5, 15, 30):
        at = laplace(problem, prior_precision=0.2, method="low_rank", rank=rank)

        assert at.method == "low_rank"
        torch.testing.assert_close(
            at.eigenvalues, exact.eigenvalues[:rank], rtol=1e-6, atol=0
        )
        for name in (
            "effective_dimension",
            "log_marginal_likelihood",
            "log_occam_factor",
        ):
            low, high = getattr(at, name).interval(level=0.999)
            assert low <= getattr(exact, name).value <= high
        found = laplace_predict(at, problem, new)
        excess = found.covariance - truth.covariance
        values = torch.linalg.eigvalsh(excess)
        assert float(values.min()) >= -1e-9
        assert bool((values.max(dim=1).values <= found.covariance_slack + 1e-9).all())


def test_with_every_eigenpair_low_rank_is_exact(generator):
    _, _, problem, _ = classifier(generator, n=10)
    exact = laplace(problem, prior_precision=0.2)

    at = laplace(problem, prior_precision=0.2, method="low_rank", rank=1000)

    assert at.num_left_out == 0
    assert at.effective_dimension.interval() == pytest.approx(
        (exact.effective_dimension.value,) * 2, rel=1e-9
    )


def test_float32_is_promoted_and_nothing_of_the_model_changes(generator):
    model = net(4, 5, 3, dtype=torch.float32).train()
    X = torch.randn(20, 4, generator=generator)
    y = torch.randint(0, 3, (20,), generator=generator)
    before = [p.detach().clone() for p in model.parameters()]
    double = net(4, 5, 3, dtype=torch.float32).double()

    at = laplace(cs.Problem(model, "cross_entropy", (X, y)), prior_precision=1.0)

    G = dense_ggn(double, X.double(), "cross_entropy")
    top = torch.linalg.eigvalsh(G).flip(0)[:5]
    torch.testing.assert_close(at.eigenvalues[:5], top, rtol=1e-11, atol=0)
    assert all(
        torch.equal(a, b) and b.grad is None
        for a, b in zip(before, model.parameters(), strict=True)
    )
    assert model.training


def test_weight_decay_of_the_problem_is_the_prior(generator):
    model, X, problem, y = classifier(generator, n=25)
    decayed = cs.Problem(model, "cross_entropy", (X, y), weight_decay=0.04)

    at = laplace(decayed)

    assert at.prior_precision == pytest.approx(25 * 0.04)
    plain = laplace(problem, prior_precision=1.0)
    assert at.effective_dimension.value == pytest.approx(
        plain.effective_dimension.value
    )
    low = laplace(decayed, method="low_rank", rank=6)
    torch.testing.assert_close(
        low.eigenvalues, plain.eigenvalues[:6], rtol=1e-6, atol=0
    )


def test_function_covariance_agrees_with_samples(generator):
    _, _, problem, _ = classifier(generator)
    at = laplace(problem, prior_precision=0.5)
    X = torch.randn(2, 4, generator=generator, dtype=FLOAT)
    J = flat_jacobian(problem.model, X).flatten(0, 1)
    draws = 40_000
    V = at.directions
    inside = (
        torch.randn(draws, len(V), generator=generator, dtype=FLOAT)
        * at.variances.sqrt()
    )
    free = torch.randn(draws, V.shape[1], generator=generator, dtype=FLOAT)
    free = free - (free @ V.T) @ V
    samples = (inside @ V + free / math.sqrt(0.5)) @ J.T

    found = laplace_predict(at, problem, X).variance.flatten()

    error = found * math.sqrt(2 / draws)
    assert bool(((samples.var(dim=0) - found).abs() < 5 * error).all())


def test_a_selection_of_parameters_has_its_own_posterior(generator):
    model, X, problem, _ = classifier(generator)
    part = problem.select("2.*")

    at = laplace(part, prior_precision=1.0)
    G = dense_ggn(model, X, "cross_entropy")[25:, 25:]

    top = torch.linalg.eigvalsh(G).flip(0)[:6]
    torch.testing.assert_close(at.eigenvalues[:6], top, rtol=1e-10, atol=0)
    assert laplace_predict(at, part, X[:3]).variance.shape == (3, 3)


def test_convolutions_and_missing_rules_are_served(generator):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2)
    ).double()
    X = torch.randn(9, 1, 5, 5, generator=generator, dtype=FLOAT)
    y = torch.randint(0, 2, (9,), generator=generator)
    problem = cs.Problem(model, "cross_entropy", (X, y))

    at = laplace(problem, prior_precision=1.0)
    found = laplace_predict(at, problem, X)

    G = dense_ggn(model, X, "cross_entropy")
    S = torch.linalg.inv(G + torch.eye(len(G), dtype=FLOAT))
    J = flat_jacobian(model, X)
    torch.testing.assert_close(found.covariance, J @ S @ J.mT, rtol=1e-9, atol=1e-12)


def test_wrong_use_is_refused(generator):
    model, X, problem, y = classifier(generator)

    with pytest.raises(ValueError, match="`prior_precision` must be above 0"):
        laplace(problem)
    with pytest.raises(ValueError, match="`noise_variance` must be `None`"):
        laplace(problem, prior_precision=1.0, noise_variance=1.0)
    regression = cs.Problem(model, "mse", (X, torch.zeros(30, 3, dtype=FLOAT)))
    with pytest.raises(ValueError, match="`noise_variance` must be given for mse"):
        laplace(regression, prior_precision=1.0)
    concave = cs.Problem(
        model, cs.Loss(lambda f, t: -(f**2).sum(), reduction="sum"), (X, y)
    )
    with pytest.raises(ValueError, match="`loss` must be convex"):
        laplace(concave, prior_precision=1.0)
    at = laplace(problem, prior_precision=1.0)
    with torch.no_grad():
        model[0].weight.mul_(1.01)
    with pytest.raises(ValueError, match="`problem` must be the posterior's own"):
        laplace_predict(at, problem, X)


def test_weights_off_the_mode_and_improper_likelihoods_are_noted(generator):
    model, X, _, y = classifier(generator)
    smooth = nn.CrossEntropyLoss(label_smoothing=0.1)

    at = laplace(cs.Problem(model, smooth, (X, y)), prior_precision=0.01)

    assert any("no normalised likelihood" in note for note in at.notes)
    assert at.newton_decrement > 1.0
    assert any("not at the posterior's mode" in note for note in at.notes)


def test_a_posterior_prints_and_survives_saving(tmp_path, generator):
    _, X, problem, _ = classifier(generator)
    at = laplace(problem, prior_precision=1.0, method="low_rank", rank=4)
    at.save(tmp_path, "laplace")

    again = load(tmp_path, "laplace")

    assert torch.equal(again.directions, at.directions)
    assert again.effective_dimension.value == at.effective_dimension.value
    assert "effective dimension" in str(again)
    np.testing.assert_array_equal(
        laplace_predict(again, problem, X).variance,
        laplace_predict(at, problem, X).variance,
    )


def test_the_same_seed_gives_the_same_posterior(generator):
    _, _, problem, _ = classifier(generator)

    a, b = (
        laplace(problem, prior_precision=1.0, method="low_rank", rank=4)
        for _ in range(2)
    )

    assert torch.equal(a.eigenvalues, b.eigenvalues)
    assert a.effective_dimension.value == b.effective_dimension.value


@pytest.mark.slow
def test_intervals_of_a_low_rank_posterior_cover_the_exact_numbers(generator):
    torch.manual_seed(0)
    X = torch.randn(40, 6, generator=generator, dtype=FLOAT)
    y = torch.randint(0, 8, (40,), generator=generator)
    problem = cs.Problem(net(6, 12, 8), "cross_entropy", (X, y))
    exact = laplace(problem, prior_precision=0.1)
    names = ("effective_dimension", "log_marginal_likelihood")
    inside = 0

    for seed in range(6):
        at = laplace(
            problem,
            prior_precision=0.1,
            method="low_rank",
            rank=8,
            num_probes=4,
            num_steps=12,
            generator=torch.Generator().manual_seed(seed),
        )
        for name in names:
            low, high = getattr(at, name).interval()
            inside += low <= getattr(exact, name).value <= high
        half = (high - low) / 2
        assert half < 0.3 * abs(exact.log_occam_factor.value)

    assert inside >= 10  # of 12, at 95 %
