"""Operators: what they say of themselves, what they keep, when they refuse."""

import pytest
import torch
from torch import nn

import curvescope as cs
from curvescope.curvature import (
    GGN,
    NTK,
    EmpiricalFisher,
    FunctionalHessian,
    Hessian,
    Jacobian,
    MonteCarloFisher,
)
from curvescope.problem import Problem

ALL = [
    GGN,
    NTK,
    EmpiricalFisher,
    FunctionalHessian,
    Hessian,
    Jacobian,
    MonteCarloFisher,
]


@pytest.fixture
def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    data = (torch.randn(8, 4, dtype=torch.float64), torch.randint(0, 3, (8,)))
    return Problem(model, "cross_entropy", data, batch_size=3)


@pytest.mark.parametrize("kind", ALL)
def test_an_operator_says_what_it_is_of(kind, problem):
    A = kind(problem)

    assert A.info.num_samples == 8
    assert A.info.denominator == 8.0
    assert A.info.reduction == "mean"
    assert A.info.matrix
    assert "Sequential" in A.info.description
    assert A.info.fingerprint == problem.refresh()
    assert A.dtype == torch.float64


@pytest.mark.parametrize("kind", [GGN, FunctionalHessian, Hessian])
def test_the_named_parameters_lie_where_the_slices_say(kind, problem):
    slices = kind(problem).info.slices

    names = [s.name for s in slices]
    assert names == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert slices[-1].stop == problem.num_params


def test_the_structure_is_tagged(problem):
    definite = {
        kind.__name__: kind(problem).positive_semidefinite
        for kind in (EmpiricalFisher, MonteCarloFisher, NTK, Hessian, FunctionalHessian)
    }

    assert definite == {
        "EmpiricalFisher": True,
        "MonteCarloFisher": True,
        "NTK": True,
        "Hessian": False,
        "FunctionalHessian": False,
    }
    assert not Jacobian(problem).symmetric


@pytest.mark.parametrize(
    ("loss", "definite"),
    [
        ("cross_entropy", True),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 0.0, 2.0])), True),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, -0.5, 2.0])), False),
        (cs.Loss(lambda f, y: f.sin().sum(), reduction="sum"), False),
    ],
)
def test_the_ggn_is_semidefinite_where_the_loss_is_surely_convex(
    problem, loss, definite
):
    other = Problem(
        problem.model, loss, (torch.randn(6, 4).double(), torch.arange(6) % 3)
    )

    A = GGN(other)

    assert A.positive_semidefinite == definite
    if definite:
        values = torch.linalg.eigvalsh(A.to_dense())
        assert float(values[0]) >= -1e-12 * float(values[-1])


def test_the_kernel_is_of_outputs_and_not_of_parameters(problem):
    info = NTK(problem).info

    assert info.num_params == 24
    assert info.slices == ()
    assert "output" in info.unit
    assert "output" in Jacobian(problem).info.unit


@pytest.mark.parametrize("kind", ALL)
def test_a_product_follows_the_weights(kind, problem):
    A = kind(problem)
    v = torch.ones(A.shape[1], dtype=torch.float64)
    before = A @ v

    problem.model[0].weight.data.mul_(2.0)

    after = A @ v
    fresh = kind(problem) @ v
    assert torch.equal(after, fresh)
    assert not torch.equal(after, before)


def test_monte_carlo_draws_are_the_seed_s(problem):
    def of(seed, num=2):
        return MonteCarloFisher(problem, num_draws=num, seed=seed).to_dense()

    assert torch.equal(of(1), of(1))
    assert not torch.equal(of(1), of(2))
    with pytest.raises(ValueError, match="`num_draws` must be at least 1"):
        of(1, 0)


@pytest.mark.filterwarnings("ignore:the model has custom autograd functions")
def test_layers_without_a_batching_rule_go_column_by_column():
    class NoRule(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return NoRule.apply(grad)

    class Net(nn.Module):
        def __init__(self, function):
            super().__init__()
            torch.manual_seed(0)
            self.head = nn.Linear(3, 2).double()
            self.function = function

        def forward(self, x):
            return torch.tanh(self.function(self.head(x)))

    X = torch.randn(4, 3, dtype=torch.float64)
    data = (X, torch.tensor([0, 1, 0, 1]))

    for kind in (Hessian, GGN, Jacobian, NTK):
        with_rule = kind(Problem(Net(lambda x: x), "cross_entropy", data)).to_dense()
        without = kind(Problem(Net(NoRule.apply), "cross_entropy", data)).to_dense()
        torch.testing.assert_close(without, with_rule)


def test_a_memory_plan_is_kept(problem):
    H = Hessian(problem)
    plan = H.memory_plan()

    H @ torch.ones(problem.num_params, dtype=torch.float64)

    assert plan.num_kept == H._graphs.num_kept == plan.num_batches == 3
    assert plan.vector == 8 * problem.num_params
    assert plan.graph > 0


def test_wrong_vectors_are_refused(problem):
    H = Hessian(problem)

    with pytest.raises(ValueError, match=r"`V` must have shape \(43,\) or \(43, k\)"):
        H @ torch.ones(42, dtype=torch.float64)
    with pytest.raises(TypeError, match=r"`V` must be torch\.float64 on cpu"):
        H @ torch.ones(43)


@pytest.mark.parametrize("factor", [1e-12, 1e12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_scale_of_the_data_s_targets_is_no_obstacle(factor, dtype, problem):
    model = problem.model.to(dtype)
    X = torch.randn(6, 4, dtype=dtype)
    targets = factor * torch.randn(6, 3, dtype=dtype)

    F = FunctionalHessian(Problem(model, "mse", (X, targets)))

    assert bool(torch.isfinite(F.to_dense()).all())
