"""Derivatives of activations against autograd through torch's own modules."""

import pytest
import torch
from torch import nn

from curvescope.exact.activations import activation_of

MODULES = (
    nn.Identity(),
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.LeakyReLU(0.2),
    nn.Tanh(),
    nn.Sigmoid(),
    nn.ELU(1.5),
    nn.ELU(inplace=True),
    nn.GELU(),
    nn.GELU(approximate="tanh"),
    nn.Softplus(2.0),
    nn.SiLU(),
    nn.SELU(),
    nn.CELU(0.7),
    nn.Mish(),
    nn.LogSigmoid(),
    nn.Softsign(),
    nn.Tanhshrink(),
    nn.Hardtanh(),
    nn.Hardswish(),
    nn.Hardsigmoid(),
    nn.ReLU6(),
)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_value_slope_and_bend_are_the_modules_own(module):
    activation = activation_of(module)
    z = torch.linspace(-8.0, 8.0, 401, dtype=torch.float64)[:-1] + 0.003

    leaf = z.clone().requires_grad_()
    value = module(leaf.clone())
    linear = isinstance(module, (nn.Hardtanh, nn.Hardsigmoid))  # in pieces
    (slope,) = torch.autograd.grad(value.sum(), leaf, create_graph=not linear)
    bend = torch.zeros_like(z)
    if slope.requires_grad:
        (bend,) = torch.autograd.grad(
            slope.sum(), leaf, allow_unused=True, materialize_grads=True
        )
    ours = torch.zeros_like(z) if activation.bend is None else activation.bend(z)

    torch.testing.assert_close(activation.value(z), value.detach())
    torch.testing.assert_close(activation.slope(z), slope.detach(), atol=1e-15, rtol=0)
    torch.testing.assert_close(ours, bend, atol=1e-14, rtol=1e-13)
    assert activation.slope(z).dtype == torch.float64


def test_the_leaky_slope_is_a_float64_number():
    activation = activation_of(nn.LeakyReLU(0.01))

    assert float(activation.slope(torch.tensor([-1.0], dtype=torch.float64))) == 0.01


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_homogeneous_activations_are_exactly_those_that_scale(module):
    activation = activation_of(module)
    z = torch.linspace(-4.0, 4.0, 81, dtype=torch.float64)
    scales = torch.allclose(activation.value(3.0 * z), 3.0 * activation.value(z))

    assert activation.homogeneous == scales


@pytest.mark.parametrize(
    "module", [nn.PReLU(), nn.Softmax(-1), nn.LayerNorm(3), nn.GLU()], ids=str
)
def test_what_is_not_elementwise_or_has_parameters_is_no_activation(module):
    assert activation_of(module) is None


def test_a_subclass_of_an_activation_is_not_taken_for_it():
    class Shifted(nn.Tanh):
        def forward(self, x):
            return super().forward(x) + 1.0

    assert activation_of(Shifted()) is None
