"""The GGN's factor and its triangle."""

import pytest
import torch
from tests.cases import CASES
from tests.unit.exact.truth import LOSSES, mlp, truth
from torch import nn

import curvescope.losses as losses
from curvescope.exact import factor
from curvescope.exact.factor import factor_triangle, ggn_factor, has_factor
from curvescope.problem import Problem

GENERAL = [c for c in CASES if c.id in {"cnn", "causal-lm", "partly-used"}]


def assert_square(F, expected):
    torch.testing.assert_close(
        F.T @ F, expected, rtol=0, atol=1e-12 * float(expected.abs().max())
    )


@pytest.mark.parametrize("case", LOSSES, ids=lambda c: c.id)
def test_the_factor_of_a_feed_forward_net_squares_to_the_ggn(case):
    model, inputs = mlp((4, 5, 2, 3)), torch.randn(7, 4, dtype=torch.float64)
    targets = case.targets(7)
    problem = Problem(
        model, case.loss, (inputs, targets), batch_size=3, weight_decay=0.5
    )

    F = ggn_factor(problem)

    expected = truth(model, case.total, inputs, targets)["ggn"]
    assert_square(F, expected / case.denominator(targets))
    assert F.shape == (21, problem.num_params)


@pytest.mark.parametrize("case", GENERAL, ids=lambda c: c.id)
def test_the_factor_of_any_module_squares_to_the_ggn(case):
    model, loss, inputs, targets = case.make()
    problem = Problem(model, loss, case.batches(inputs, targets))

    F = ggn_factor(problem)

    expected = truth(model.eval(), case.oracle_loss, inputs, targets)["ggn"]
    assert_square(F, expected)


@pytest.mark.parametrize("case", GENERAL[:2], ids=lambda c: c.id)
def test_layers_without_batching_rules_give_the_same_factor(case, monkeypatch):
    model, loss, inputs, targets = case.make()
    problem = Problem(model, loss, case.batches(inputs, targets))
    expected = ggn_factor(problem)
    original = factor.pullback

    def refuse(*args, vectorised):
        if vectorised:
            raise RuntimeError("no batching rule")
        return original(*args, vectorised=False)

    monkeypatch.setattr(factor, "pullback", refuse)

    torch.testing.assert_close(ggn_factor(problem), expected)


@pytest.mark.parametrize("num_samples", [2, 40])
def test_the_triangle_has_the_singular_values_of_the_factor(num_samples, monkeypatch):
    monkeypatch.setattr(factor, "_CHUNK_BYTES", 8 * 43 * 3 * 5)
    data = (torch.randn(num_samples, 4).double(), torch.randint(0, 3, (num_samples,)))
    problem = Problem(mlp((4, 5, 3)), "cross_entropy", data)

    R = factor_triangle(problem)

    ours, expected = map(torch.linalg.svdvals, (R, ggn_factor(problem)))
    size = min(len(ours), len(expected))
    largest = float(expected[0])
    assert len(R) <= problem.num_params
    torch.testing.assert_close(
        ours[:size], expected[:size], rtol=0, atol=1e-14 * largest
    )
    assert torch.equal(R, R.triu())


def test_only_the_selected_parameters_have_columns():
    model = mlp((4, 5, 3))
    data = (torch.randn(6, 4).double(), torch.randn(6, 3).double())
    problem = Problem(model, "mse", data)
    whole = ggn_factor(problem)
    mask = torch.rand(problem.num_params) < 0.4

    some = ggn_factor(problem.select(mask))
    weights = ggn_factor(problem.select("weights"))

    torch.testing.assert_close(some, whole[:, mask])
    torch.testing.assert_close(weights, torch.cat([whole[:, :20], whole[:, 25:40]], 1))


def test_a_factor_keeps_what_a_square_loses():
    # One input direction is 1e-9 of the other: its square is below eps.
    model = nn.Linear(2, 1, bias=False).double()
    rotation = torch.tensor([[0.6, 0.8], [-0.8, 0.6]]).double()
    inputs = torch.diag(torch.tensor([1.0, 1e-9]).double()) @ rotation
    data = (inputs, torch.zeros(2, 1).double())
    problem = Problem(model, "half_squared_error", data, reduction="sum")

    values = torch.linalg.svdvals(ggn_factor(problem))

    expected = torch.tensor([1.0, 1e-9]).double()
    torch.testing.assert_close(values, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("make", [lambda: mlp((4, 5, 3)), lambda: nn.Conv1d(1, 3, 4)])
def test_a_loss_that_is_not_convex_has_no_factor(make):
    model = make().double()
    inputs = torch.randn(5, 4, dtype=torch.float64)
    if isinstance(model, nn.Conv1d):
        inputs = inputs[:, None]
    targets = torch.zeros_like(model(inputs)).detach()
    loss = losses.Loss(lambda f, y: (f - y).cos().sum(), reduction="sum")
    problem = Problem(model, loss, (inputs, targets))

    assert not has_factor(problem)
    with pytest.raises(ValueError, match="`loss` must be convex"):
        ggn_factor(problem)
    with pytest.raises(ValueError, match="`loss` must be convex"):
        factor_triangle(problem)


def test_a_convex_loss_has_a_factor():
    data = (torch.randn(6, 4), torch.randn(6, 3))

    assert has_factor(Problem(mlp((4, 5, 3)).float(), nn.HuberLoss(), data))


def test_a_factor_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(factor, "available_memory", lambda device: 1000)
    data = (torch.randn(6, 4).double(), torch.randn(6, 3).double())

    with pytest.raises(MemoryError, match="factor_triangle"):
        ggn_factor(Problem(mlp((4, 5, 3)), "mse", data))
