"""Matrices of any module by autodiff."""

import warnings

import pytest
import torch
from tests.cases import CASES
from tests.unit.exact.truth import PARTS, assert_matrices, mlp, truth
from torch import nn

import curvescope.losses as losses
from curvescope.exact.assembly import matrices
from curvescope.exact.general import autodiff_matrices
from curvescope.problem import Problem

CHOSEN = {"cnn", "norms", "causal-lm", "partly-used", "mlp-nll"}


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.id in CHOSEN], ids=lambda c: c.id
)
def test_any_module_agrees_with_reverse_over_reverse(case):
    model, loss, inputs, targets = case.make()
    problem = Problem(model, loss, case.batches(inputs, targets), weight_decay=0.1)

    found, _ = autodiff_matrices(problem, PARTS)

    expected = truth(model.eval(), case.oracle_loss, inputs, targets)
    assert_matrices(found, expected)


def test_a_loss_that_is_not_convex_has_its_ggn_by_products():
    model = mlp((4, 5, 3))
    inputs, targets = torch.randn(6, 4).double(), torch.zeros(6, 3).double()

    def total(f, y):
        return (f - y).cos().sum()

    problem = Problem(
        model, losses.Loss(total, reduction="sum"), (inputs, targets), weight_decay=0.1
    )

    found, num_matvecs = autodiff_matrices(problem, ("ggn",))

    assert_matrices(found, truth(model, total, inputs, targets))
    assert num_matvecs == problem.num_params


class _WrongSecondDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return _WrongBackward.apply(gradient, x)


class _WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gradient, x):
        ctx.save_for_backward(gradient, x)
        return 3 * gradient * x**2

    @staticmethod
    def backward(ctx, v):
        gradient, x = ctx.saved_tensors
        # Right would be 3 x^2 v.
        return 2 * x**2 * v, 6 * gradient * x * v


class _Cube(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.second(_WrongSecondDerivative.apply(self.first(x)))


def test_an_asymmetric_product_is_reported():
    data = (torch.randn(5, 3).double(), torch.randn(5, 2).double())
    problem = Problem(_Cube().double(), "mse", data)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found, _ = autodiff_matrices(problem, ("hessian",))

    assert any("asymmetric" in str(w.message) for w in caught)
    assert torch.equal(found["hessian"], found["hessian"].T)


@pytest.mark.parametrize("method", ["auto", "autodiff", "closed form"])
def test_the_matrix_of_a_single_parameter_is_its_second_derivative(method):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    X, y = torch.randn(30, 2).double(), torch.arange(30) % 2
    mask = {
        n: torch.zeros(p.shape, dtype=torch.bool) for n, p in net.named_parameters()
    }
    mask["2.bias"][0] = True

    found = matrices(Problem(net, "cross_entropy", (X, y), params=mask), method=method)

    p = torch.softmax(net(X).detach(), dim=1)[:, 0]
    expected = float((p * (1.0 - p)).mean())  # the bias is an output's own summand
    for A in (found.hessian, found.ggn):
        assert float(A.matrix) == pytest.approx(expected, rel=1e-12)
    assert float(found.functional.matrix) == pytest.approx(0.0, abs=1e-14)
