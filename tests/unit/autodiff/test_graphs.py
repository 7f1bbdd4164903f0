"""Kept graphs of one batch, and columns at once, against plain differentiation."""

import pytest
import torch
from torch import nn

from curvescope._core.nodes import once_differentiable
from curvescope.autodiff.columns import pullback
from curvescope.autodiff.graphs import (
    Linearisation,
    SecondDerivative,
    per_sample_outer,
)
from curvescope.autodiff.layout import Layout
from curvescope.autodiff.network import (
    Network,
    call_arguments,
    extract_output,
    preserved_random_state,
)


@pytest.mark.parametrize("vectorised", [False, True])
def test_the_second_derivative_of_a_cubic_is_known(vectorised):
    a = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    graph = SecondDerivative.of((a**3).sum(), (a,))

    (product,) = graph.multiply([torch.eye(3)], vectorised=vectorised)

    assert torch.equal(product, torch.diag(torch.tensor([6.0, 12.0, 18.0])))


@pytest.mark.parametrize("vectorised", [False, True])
def test_both_directions_of_a_linearisation_are_the_jacobian(vectorised):
    a = torch.randn(3, dtype=torch.float64, requires_grad=True)
    unused = torch.randn(2, dtype=torch.float64, requires_grad=True)
    M = torch.randn(4, 3, dtype=torch.float64)
    graph = Linearisation.of(M @ a.sin(), (a, unused))
    J = (M * a.cos()).detach()

    forward = graph.jacobian_product(
        [torch.eye(3, dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64)],
        vectorised=vectorised,
    )
    back, nothing = graph.adjoint_product(
        torch.eye(4, dtype=torch.float64), vectorised=vectorised
    )

    torch.testing.assert_close(forward.T, J)
    torch.testing.assert_close(back, J)
    assert torch.equal(nothing, torch.zeros(4, 2, dtype=torch.float64))


@pytest.mark.parametrize("vectorised", [False, True])
def test_outputs_without_a_graph_count_as_constant(vectorised):
    a = torch.ones(3, requires_grad=True)
    constant = torch.ones(2)

    (product,) = pullback((constant,), (a,), (torch.ones(5, 2),), vectorised=vectorised)

    assert torch.equal(product, torch.zeros(5, 3))


def test_sample_outer_products_are_block_diagonal():
    g = torch.randn(6, 3, 2, dtype=torch.float64)
    U = torch.randn(4, 3, 2, dtype=torch.float64)

    expected = torch.einsum("sno,snp,knp->kno", g, g, U) / 6

    torch.testing.assert_close(per_sample_outer(g)(U), expected)


def test_a_node_that_forbids_a_second_derivative_is_found():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, grad):
            return 2 * grad

    a = torch.ones(3, requires_grad=True)

    def gradient(f):
        return torch.autograd.grad(f(a).pow(3).sum(), a, create_graph=True)

    assert once_differentiable(gradient(Once.apply))
    assert not once_differentiable(gradient(torch.sin))
    assert not once_differentiable((torch.ones(2),))


def test_a_layout_splits_and_joins():
    tensors = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}
    layout = Layout.of(tensors)
    V = torch.randn(5, 10)

    pieces = layout.split(V)

    assert [p.shape for p in pieces] == [(5, 2, 3), (5, 4)]
    assert torch.equal(layout.join(pieces), V)
    assert [(s.name, s.start, s.stop) for s in layout.slices()] == [
        ("a", 0, 6),
        ("b", 6, 10),
    ]


def test_a_layout_of_entries_pads_with_zeros():
    layout = Layout.of(
        {"a": torch.zeros(2, 3), "b": torch.zeros(4)}, entries=torch.tensor([1, 5, 7])
    )
    V = torch.randn(2, 3)

    first, second = layout.split(V)

    assert layout.size == 3
    assert torch.equal(first.reshape(2, -1)[:, [1, 5]], V[:, :2])
    assert torch.equal(second[:, 1], V[:, 2])
    assert float(first.abs().sum() + second.abs().sum()) == pytest.approx(
        float(V.abs().sum())
    )
    assert torch.equal(layout.join([first, second]), V)
    assert [(s.start, s.stop) for s in layout.slices()] == [(0, 2), (2, 3)]


def test_modes_come_back_also_when_the_model_s_own_train_fails():
    class Stubborn(nn.Sequential):
        broken = False

        def train(self, mode=True):
            super().train(mode)
            if self.broken:
                text = "no"
                raise RuntimeError(text)
            return self

    model = Stubborn(nn.Linear(2, 2), nn.Dropout())
    model[1].eval()
    model.broken = True
    network = Network(model, train=False, device=torch.device("cpu"))

    with pytest.raises(RuntimeError, match="no"), network.running():
        pass

    assert [m.training for m in model.modules()] == [True, True, False]


def test_random_streams_come_back_after_an_error():
    before = torch.get_rng_state()

    def broken():
        with preserved_random_state(torch.device("cpu")):
            torch.rand(3)
            text = "x"
            raise KeyError(text)

    with pytest.raises(KeyError):
        broken()

    assert torch.equal(torch.get_rng_state(), before)


def test_inputs_are_passed_as_they_are_meant():
    x = torch.ones(1)

    assert call_arguments(x) == ((x,), {})
    assert call_arguments((x, 2)) == ((x, 2), {})
    assert call_arguments({"a": x}) == ((), {"a": x})
    assert extract_output({"logits": x}) is x
