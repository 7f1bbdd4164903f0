"""Traced, compiled and coarse products: the same matrix, or a warning."""

import shutil
import warnings

import pytest
import torch
from torch import nn

import curvescope as cs
from curvescope.curvature import (
    GGN,
    EmpiricalFisher,
    FunctionalHessian,
    Hessian,
    MonteCarloFisher,
)
from curvescope.linalg import eigsh
from curvescope.problem import Problem

MATRICES = (Hessian, GGN, FunctionalHessian, EmpiricalFisher)


def _problem(*, dtype=torch.float64, sizes=(6, 6, 3), weight=True):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)),
        nn.Conv2d(1, 3, 3, padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48, 5),
        nn.LayerNorm(5),
        nn.Tanh(),
        nn.Linear(5, 3),
    ).to(dtype)
    net[2].running_mean.normal_()
    net[2].running_var.uniform_(0.5, 2.0)
    data = [(torch.randn(n, 16, dtype=dtype), torch.arange(n) % 3) for n in sizes]
    weights = torch.tensor([1.0, 2.0, 0.5], dtype=dtype) if weight else None
    return Problem(net, nn.CrossEntropyLoss(weight=weights), data)


def _uncompiled(monkeypatch):
    """Leave the C++ compiler out: traced programs run as they are."""
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.mark.filterwarnings("ignore:there is no C")
@pytest.mark.parametrize("matrix", MATRICES, ids=lambda m: m.__name__)
@pytest.mark.parametrize("kept", ["all", "none"])
def test_traced_products_equal_autograd_s_to_rounding(matrix, kept, monkeypatch):
    _uncompiled(monkeypatch)
    problem = _problem()
    V = torch.randn(problem.num_params, 3, dtype=torch.float64)
    traced = matrix(problem, compile=True, kept=kept)

    for _ in range(2):
        torch.testing.assert_close(traced @ V, matrix(problem) @ V)
    assert traced._graphs._programs.failure == ""


@pytest.mark.filterwarnings("ignore:there is no C")
def test_a_program_follows_the_weights(monkeypatch):
    _uncompiled(monkeypatch)
    problem = _problem()
    traced = Hessian(problem, compile=True)
    v = torch.randn(problem.num_params, dtype=torch.float64)
    traced @ v
    made = dict(traced._graphs._programs._programs)

    with torch.no_grad():
        for parameter in problem.model.parameters():
            parameter.mul_(1.3)

    torch.testing.assert_close(traced @ v, Hessian(problem) @ v)
    assert traced._graphs._programs._programs == made  # none was traced again


def test_without_a_compiler_it_says_so_and_runs_the_traced_program(monkeypatch):
    _uncompiled(monkeypatch)
    problem = _problem()
    v = torch.randn(problem.num_params, dtype=torch.float64)

    with pytest.warns(RuntimeWarning, match=r"no C\+\+ compiler"):
        product = Hessian(problem, compile=True) @ v

    torch.testing.assert_close(product, Hessian(problem) @ v)


class _Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        y = self.layer(x)
        return y if float(y.detach().sum()) > 1e9 else torch.sin(y)


def test_a_model_that_cannot_be_traced_falls_back_with_a_warning():
    data = (torch.randn(5, 4), torch.arange(5) % 2)
    problem = Problem(_Branching(), "cross_entropy", data)
    v = torch.randn(problem.num_params)
    compiled = Hessian(problem, compile=True)

    with pytest.warns(RuntimeWarning, match="`compile=True` has no effect"):
        product = compiled @ v

    torch.testing.assert_close(product, Hessian(problem) @ v)
    with warnings.catch_warnings():  # said once
        warnings.simplefilter("error")
        torch.testing.assert_close(compiled @ v, product)


def test_drawn_labels_fall_back_with_a_warning():
    problem = _problem(weight=False)
    v = torch.randn(problem.num_params, dtype=torch.float64)

    with pytest.warns(RuntimeWarning, match="has no effect"):
        product = MonteCarloFisher(problem, compile=True) @ v

    torch.testing.assert_close(product, MonteCarloFisher(problem) @ v)


def test_a_program_that_is_wrong_is_found_out(monkeypatch):
    _uncompiled(monkeypatch)
    problem = _problem()
    v = torch.randn(problem.num_params, dtype=torch.float64)

    def spoiled(program):
        def apply(*arguments):
            return [1.01 * part for part in program(*arguments)]

        return apply

    monkeypatch.setattr("curvescope.curvature.compiling.fused", spoiled)
    with pytest.warns(RuntimeWarning) as said:
        product = Hessian(problem, compile=True) @ v

    assert any("differs from autograd's by 1.0e-02" in str(w.message) for w in said)
    torch.testing.assert_close(product, Hessian(problem) @ v)


def test_nothing_of_the_user_s_changes(monkeypatch):
    _uncompiled(monkeypatch)
    problem = _problem()
    model = problem.model.train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    state = torch.get_rng_state()

    with pytest.warns(RuntimeWarning):
        Hessian(problem, compile=True) @ torch.ones(
            problem.num_params, dtype=torch.float64
        )

    assert all(module.training for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("matrix", [Hessian, GGN], ids=lambda m: m.__name__)
def test_compiled_products_equal_autograd_s_to_rounding(matrix):
    problem = _problem()
    V = torch.randn(problem.num_params, 2, dtype=torch.float64)
    compiled = matrix(problem, compile=True)

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        torch.testing.assert_close(compiled @ V, matrix(problem) @ V)


@pytest.mark.parametrize("matrix", MATRICES, ids=lambda m: m.__name__)
def test_a_coarse_product_is_off_by_about_what_it_says(matrix):
    problem = _problem(dtype=torch.float32)
    exact, coarse = matrix(problem), matrix(problem, precision="bfloat16")
    V = torch.randn(problem.num_params, 20)
    expected = exact @ V

    errors = (coarse @ V - expected).norm(dim=0) / expected.norm(dim=0)

    assert 1e-4 < coarse.rounding_error < 0.2
    assert float(errors.median()) < 4 * coarse.rounding_error
    assert float(errors.median()) > coarse.rounding_error / 4
    assert (coarse @ V).dtype == torch.float32


@pytest.mark.parametrize("matrix", MATRICES, ids=lambda m: m.__name__)
def test_the_error_is_not_stated_too_small_for_small_batches_of_a_trained_network(
    matrix,
):
    """Whose batches cancel in the products, but not in the errors."""
    torch.manual_seed(0)
    X, y = torch.randn(256, 20), torch.randint(0, 4, (256,))
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), y).backward()
        optimizer.step()
    problem = Problem(model, "cross_entropy", (X, y), batch_size=8)
    coarse = matrix(problem, precision="bfloat16")
    V = torch.randn(problem.num_params, 8)
    expected = matrix(problem) @ V

    error = float((coarse @ V - expected).norm() / expected.norm())

    assert error < 2 * coarse.rounding_error
    assert coarse.rounding_error < 10 * error


def test_results_say_that_products_were_coarse():
    problem = _problem(dtype=torch.float32)
    coarse = Hessian(problem, precision="bfloat16")

    pairs = eigsh(coarse, k=2, tol=0.1)

    assert "bfloat16" in pairs.of.matrix
    assert "relatively" in str(pairs)
    exact = eigsh(Hessian(problem), k=2)
    error = (pairs.eigenvalues - exact.eigenvalues).abs()
    assert bool((error < 0.1 * exact.eigenvalues.abs().max()).all())


def test_bfloat16_is_refused_for_float64():
    with pytest.raises(ValueError, match=r"`precision` must be \"full\""):
        Hessian(_problem(), precision="bfloat16")


def test_choices_of_a_wrong_kind_are_refused():
    with pytest.raises(TypeError, match="`compile` must be True or False"):
        cs.Hessian(_problem(), compile="yes")
    with pytest.raises(ValueError, match="`precision` must"):
        cs.Hessian(_problem(), precision="half")


def test_an_unknown_keyword_is_named_with_those_that_there_are():
    problem = _problem()

    with pytest.raises(TypeError, match=r"`keywords` must .*columns, .*; got colums"):
        Hessian(problem, colums=3)
    with pytest.raises(TypeError, match="got explian"):
        cs.analyze(problem, explian=True)
