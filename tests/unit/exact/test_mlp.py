"""The closed form against reverse-over-reverse."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.unit.exact.truth import (
    CROSS_ENTROPY,
    LOSSES,
    PARTS,
    assert_matrices,
    mlp,
    truth,
)
from torch import nn

from curvescope.exact import mlp as closed_form
from curvescope.exact.mlp import mlp_matrices
from curvescope.exact.network import feed_forward
from curvescope.problem import Problem

ACTIVATIONS = (
    nn.Identity,
    nn.ReLU,
    nn.LeakyReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.ELU,
    nn.GELU,
    nn.Softplus,
    nn.SiLU,
)
DEPTHS = ((4, 3), (4, 5, 3), (4, 3, 5, 3), (4, 5, 2, 4, 3))


def check(model, case, *, num_samples=7, batch_size=3, tolerance=1e-12):
    inputs = torch.randn(num_samples, 4, dtype=torch.float64)
    targets = case.targets(num_samples)
    problem = Problem(
        model, case.loss, (inputs, targets), batch_size=batch_size, reduction="sum"
    )
    net = feed_forward(problem)

    found = mlp_matrices(net, problem.layout, PARTS)

    expected = truth(model, case.total, inputs, targets)
    assert_matrices(found, expected, tolerance=tolerance)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.__name__)
@pytest.mark.parametrize("widths", DEPTHS, ids=lambda w: f"{len(w) - 2}-hidden")
def test_every_activation_and_depth_agrees_with_autodiff(activation, widths):
    for bias in (True, False):
        check(mlp(widths, activation, bias=bias), CROSS_ENTROPY)


@pytest.mark.parametrize("case", LOSSES, ids=lambda c: c.id)
@pytest.mark.parametrize("widths", [(4, 3), (4, 3, 5, 3)], ids=["linear", "deep"])
def test_every_loss_agrees_with_autodiff(case, widths):
    check(mlp(widths, nn.Tanh), case)


@pytest.mark.parametrize("bias", [(True, False, True), (False, True, False)])
def test_a_bias_may_be_on_some_layers_only(bias):
    check(mlp((4, 3, 2, 3), nn.SiLU, bias=bias), CROSS_ENTROPY)


def test_one_unit_wide_layers_and_one_input_agree_with_autodiff():
    model = mlp((4, 1, 1, 3), nn.Softplus)

    check(model, CROSS_ENTROPY)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_small_tiles_and_chunks_give_the_same_matrices(monkeypatch, activation):
    monkeypatch.setattr(closed_form, "_TILE_BYTES", 64)
    monkeypatch.setattr(closed_form, "_MOST_SAMPLES", 2)
    monkeypatch.setattr(closed_form, "_MIRROR", 7)

    check(mlp((4, 3, 5, 4, 3), activation), CROSS_ENTROPY, batch_size=5)


def test_batches_of_one_are_joined_into_chunks(monkeypatch):
    problem = Problem(
        mlp((4, 3, 3)),
        "mse",
        (torch.randn(9, 4).double(), torch.randn(9, 3).double()),
        batch_size=1,
    )
    net = feed_forward(problem)
    sizes = [len(inputs) for inputs, _, _ in closed_form._chunks(net, 4)]

    assert sizes == [4, 4, 1]


def test_the_functional_hessian_keeps_its_digits_beside_a_large_ggn():
    # Residuals of 1e-9: a difference H - G would keep 7 digits of F.
    model = mlp((4, 5, 3))
    inputs = torch.randn(6, 4, dtype=torch.float64)
    targets = model(inputs).detach() + 1e-9 * torch.randn(6, 3, dtype=torch.float64)
    problem = Problem(model, "half_squared_error", (inputs, targets), reduction="sum")

    found = mlp_matrices(feed_forward(problem), problem.layout, ("functional",))

    expected = truth(model, LOSSES[0].total, inputs, targets)["functional"]
    off = (found["functional"] - expected).abs().max() / expected.abs().max()
    assert 1e-10 < expected.abs().max() < 1e-7
    assert off <= 1e-12


@settings(max_examples=25)
@given(data=st.data())
def test_random_architectures_agree_with_autodiff(data):
    hidden = data.draw(st.lists(st.integers(1, 6), max_size=4))
    activation = data.draw(st.sampled_from(ACTIVATIONS))
    bias = data.draw(st.lists(st.booleans(), min_size=5, max_size=5))
    torch.manual_seed(data.draw(st.integers(0, 2**20)))
    case = data.draw(st.sampled_from(LOSSES))
    widths = (4, *hidden, 3)
    num_samples = data.draw(st.integers(1, 8))
    # Of one sample its only target may be ignored: there is no such mean.
    assume(num_samples > 1 or (case.targets(1) != -100).any())

    check(
        mlp(widths, activation, bias=bias[: len(widths) - 1]),
        case,
        num_samples=num_samples,
        batch_size=data.draw(st.integers(1, 4)),
    )
