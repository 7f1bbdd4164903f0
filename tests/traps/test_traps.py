"""Every trap: ours passes, and an implementation that falls into it does not."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.traps import ours
from torch.func import functional_call

from curvescope.testing import traps

OURS = {
    "t01_ragged_batches": ours.hessian,
    "t02_denominators": ours.hessian,
    "t03_sum_over_batches": ours.hessian,
    "t04_wrong_point": ours.product,
    "t05_ghosts": ours.ritz_values,
    "t06_magnitude": ours.top_eigenvalues,
    "t07_noisy_operator": ours.solve,
    "t08_finite_differences": ours.hessian,
    "t09_absolute_tolerances": ours.top_eigenvalues,
    "t10_small_change": ours.trace,
    "t11_rayleigh_quotient": ours.top_pair,
    "t12_quadrature_weights": ours.quadrature,
    "t13_side_effects": ours.every_operator,
    "t14_unused_parameters": ours.hessian,
    "t15_attention_kernels": ours.hessian,
    "t17_unrepeatable_data": ours.product,
    "t18_breakdown": ours.top_eigenvalues,
    "t19_kernel_width": ours.density,
    "t20_memory_tests": traps.t20_memory_tests.peak_growth,
    "t21_float32_rank": ours.rank,
    "t24_norm_layers": ours.hessian,
    "t25_changed_weights": ours.product,
}


def func_hessian(model, loss, batches):
    """torch.func.hessian, which is wrong on norm layers."""
    ((X, y),) = batches
    named = dict(model.named_parameters())
    theta = torch.cat([p.detach().reshape(-1) for p in named.values()])

    def objective(flat):
        pieces = flat.split([p.numel() for p in named.values()])
        state = {
            n: piece.view(p.shape)
            for (n, p), piece in zip(named.items(), pieces, strict=True)
        }
        return loss(functional_call(model, state, (X,)), y)

    return torch.func.hessian(objective)(theta)


@pytest.mark.parametrize("name", traps.__all__)
def test_ours_does_not_fall_into_the_trap(name):
    getattr(traps, name).check(OURS[name])


@pytest.mark.parametrize("name", traps.__all__)
def test_the_trap_catches_a_wrong_implementation(name):
    trap = getattr(traps, name)
    wrong = func_hessian if name == "t24_norm_layers" else trap.foil

    with pytest.raises(AssertionError):
        trap.check(wrong)


def test_a_scaled_loss_scales_the_hessian():
    traps.t09_absolute_tolerances.check_hessian(ours.hessian)


def test_a_wrong_scale_is_caught():
    def foil(model, loss, batches):
        H = ours.hessian(model, loss, batches)
        return H / (H.norm() + 1e-6) * H.norm()

    with pytest.raises(AssertionError, match="a loss scaled by"):
        traps.t09_absolute_tolerances.check_hessian(foil)


@st.composite
def splits(draw, total=10):
    """Draw sizes of batches that add up to ``total``."""
    sizes = []
    while sum(sizes) < total:
        sizes.append(draw(st.integers(1, total - sum(sizes))))
    return tuple(sizes)


@settings(max_examples=8)
@given(splits())
def test_any_split_gives_the_full_batch_s_matrix(sizes):
    traps.t01_ragged_batches.check(ours.hessian, splits=(sizes,))
    traps.t02_denominators.check(ours.hessian, splits=(sizes,))


def test_no_eigenvalue_comes_twice_after_120_steps():
    check = traps.t05_ghosts.check

    def top(matrix, num_steps):
        pairs = ours.la.eigsh(
            ours.symmetric(matrix), k=8, basis_size=num_steps, tol=1e-6
        )
        return pairs.eigenvalues

    check(top)


@pytest.mark.parametrize("breaks_at", range(1, 14))
def test_an_error_in_any_forward_pass_leaves_no_trace(breaks_at):
    traps.t13_side_effects.check(ours.every_operator, breaks_at=(breaks_at,))


@pytest.mark.filterwarnings("ignore:the model has custom autograd functions")
def test_an_error_in_a_backward_pass_leaves_no_trace():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return Broken.apply(grad)

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            text = "no second derivative"
            raise RuntimeError(text)

    model = torch.nn.Sequential(torch.nn.Linear(3, 3).double(), torch.nn.Tanh())
    model[1].forward = functools.partial(lambda f, x: f(torch.tanh(x)), Once.apply)
    model.train()
    X, y = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    H = ours.Hessian(ours.Problem(model, torch.nn.CrossEntropyLoss(), [(X, y)]))
    before = traps.t13_side_effects.state_of(model)

    with pytest.raises(RuntimeError, match="second derivative") as caught:
        H @ torch.ones(12, dtype=torch.float64)

    assert traps.t13_side_effects.state_of(model) == before
    assert caught.traceback  # it still holds the frames of the broken pass
