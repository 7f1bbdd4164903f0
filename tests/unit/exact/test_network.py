"""Which models are feed-forward nets, and what a net knows of its samples."""

import pytest
import torch
from tests.unit.exact.truth import LOSSES, mlp
from torch import nn

from curvescope.exact.network import feed_forward, semidefinite_factor
from curvescope.problem import Problem


class ResidualBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return x + torch.tanh(self.inner(x))


class Doubled(nn.Linear):
    def forward(self, x):
        return 2.0 * super().forward(x)


def _shared():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer)


def _hooked():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    model[1].register_forward_hook(lambda module, args, output: output + 1.0)
    return model


def _tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    return model


def _parametrized():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    nn.utils.parametrizations.weight_norm(model[0])
    return model


def _patched():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    original = model[0].forward
    model[0].forward = lambda x: original(x) + 1.0
    return model


def problem_of(model, *, shape=(6, 4), dtype=torch.float64, **options):
    model = model.to(dtype)
    inputs = torch.randn(*shape, dtype=dtype)
    with torch.no_grad():
        targets = torch.randn_like(model(inputs))
    return Problem(model, "mse", (inputs, targets), **options)


def test_nested_sequentials_flatten_dropout_and_identity_are_seen_through():
    model = nn.Sequential(
        nn.Flatten(),
        nn.Sequential(nn.Linear(4, 5), nn.Identity(), nn.Tanh()),
        nn.Dropout(0.5),
        nn.Linear(5, 2, bias=False),
        nn.Linear(2, 3),
    )

    net = feed_forward(problem_of(model, shape=(6, 2, 2)))

    assert net.widths == (4, 5, 2, 3)
    assert [a.name for a in net.activations] == ["tanh", "linear"]
    assert [layer.name for layer in net.layers] == ["1.0", "3", "4"]
    assert [layer.bias is None for layer in net.layers] == [False, True, False]
    assert not net.has_bias
    assert not net.is_linear
    assert net.num_params == sum(p.numel() for p in model.parameters())


def test_a_single_linear_layer_is_a_linear_net():
    net = feed_forward(problem_of(nn.Linear(4, 3)))

    assert net.is_linear
    assert net.widths == (4, 3)


@pytest.mark.parametrize(
    "make",
    [
        ResidualBlock,
        _shared,
        _hooked,
        _tied,
        _parametrized,
        _patched,
        lambda: Doubled(4, 3),
        lambda: nn.Sequential(Doubled(4, 3)),
        lambda: nn.Sequential(nn.Tanh(), nn.Linear(4, 3)),
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()),
        lambda: nn.Sequential(
            nn.Linear(4, 3), nn.Tanh(), nn.Sigmoid(), nn.Linear(3, 3)
        ),
        lambda: nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 3)),
        lambda: nn.Sequential(nn.Linear(4, 3), nn.PReLU(), nn.Linear(3, 3)),
    ],
)
def test_other_models_are_no_feed_forward_net(make):
    assert feed_forward(problem_of(make())) is None


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 1, 4)])
def test_inputs_that_are_no_rows_are_left_to_autodiff(shape):
    assert feed_forward(problem_of(mlp((4, 3, 2)), shape=shape)) is None


def test_a_single_sample_without_its_dimension_is_left_to_autodiff():
    sample = (torch.randn(4).double(), torch.randn(2).double())
    problem = Problem(mlp((4, 3, 2)), "mse", [sample], check=False)

    assert feed_forward(problem) is None


def test_single_precision_is_promoted():
    net = feed_forward(problem_of(mlp((4, 3, 2)), dtype=torch.float32))

    assert net.problem.dtype == torch.float64
    assert all(layer.weight.dtype == torch.float64 for layer in net.layers)


@pytest.mark.parametrize("case", LOSSES, ids=lambda c: c.id)
def test_samples_carry_the_loss_sums_derivatives_by_the_outputs(case):
    model = mlp((4, 5, 3))
    inputs = torch.randn(7, 4, dtype=torch.float64)
    targets = case.targets(7)
    net = feed_forward(Problem(model, case.loss, (inputs, targets), batch_size=4))

    parts = list(net.samples(most=3))

    outputs = model(inputs).detach()
    gradient = torch.func.grad(lambda f: case.total(f, targets))(outputs)
    second = torch.func.jacrev(torch.func.grad(lambda f: case.total(f, targets)))
    blocks = second(outputs).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    ours = torch.cat([net.output_hessians(part) for part in parts])
    factors = torch.cat([net.output_factors(part) for part in parts])
    assert [len(part) for part in parts] == [3, 1, 3]
    torch.testing.assert_close(torch.cat([p.outputs for p in parts]), outputs)
    torch.testing.assert_close(torch.cat([p.gradients for p in parts]), gradient)
    torch.testing.assert_close(ours, blocks, atol=1e-14, rtol=1e-13)
    square = factors.transpose(1, 2) @ factors
    torch.testing.assert_close(square, blocks, atol=1e-14, rtol=1e-13)


def test_a_semidefinite_factor_has_the_matrix_rank():
    rows = torch.randn(5, 2, 4, dtype=torch.float64)
    matrices = rows.transpose(1, 2) @ rows

    factor = semidefinite_factor(matrices)

    torch.testing.assert_close(factor.transpose(1, 2) @ factor, matrices)
    assert [int(r) for r in torch.linalg.matrix_rank(factor)] == [2] * 5


def test_an_indefinite_matrix_has_no_factor():
    assert semidefinite_factor(torch.diag(torch.tensor([1.0, -1e-3]))[None]) is None
