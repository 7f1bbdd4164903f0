"""Traced products: the same numbers as autograd's, before and after every rewriting."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from curvescope.autodiff.simplify import fused, simplified
from curvescope.autodiff.tracing import trace


def _net(kind, width=5):
    torch.manual_seed(width)
    nets = {
        "mlp": lambda: nn.Sequential(
            nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.Tanh(),
            nn.Linear(width, 3),
        ),
        "no bias": lambda: nn.Sequential(
            nn.Linear(4, width, bias=False), nn.GELU(), nn.Linear(width, 3, bias=False)
        ),
        "norm": lambda: nn.Sequential(
            nn.Linear(4, width), nn.LayerNorm(width), nn.Softplus(), nn.Linear(width, 3)
        ),
        "tied": lambda: _Tied(),
        "conv": lambda: nn.Sequential(
            nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, width, 2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(9 * width, 3),
        ),
    }  # fmt: skip
    return nets[kind]().double()


class _Tied(nn.Module):
    """One matrix used twice, once transposed."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3, bias=False)

    def forward(self, x):
        y = torch.sigmoid(self.inner(x))
        return y + torch.sin(y @ self.inner.weight) @ self.inner.weight.T


def _product(net):
    names = [name for name, _ in net.named_parameters()]

    def product(constants, tangents):
        *weights, x, y = constants
        leaves = [w.detach().requires_grad_() for w in weights]
        outputs = functional_call(net, dict(zip(names, leaves, strict=True)), (x,))
        loss = F.cross_entropy(outputs, y, reduction="sum")
        gradient = torch.autograd.grad(loss, leaves, create_graph=True)
        return list(
            torch.autograd.grad(gradient, leaves, tangents, materialize_grads=True)
        )

    return product


def _case(kind, width=5, samples=7):
    net = _net(kind, width)
    weights = [p.detach() for p in net.parameters()]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 4, dtype=torch.float64, generator=generator)
    y = torch.randint(3, (samples,), generator=generator)
    vector = [
        torch.randn(w.shape, dtype=torch.float64, generator=generator) for w in weights
    ]
    return _product(net), [*weights, x, y], vector


KINDS = ("mlp", "no bias", "norm", "tied", "conv")


def _largest_difference(found, expected):
    pairs = zip(found, expected, strict=True)
    return max(float((f - e).abs().max() / (1 + e.abs().max())) for f, e in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_traced_product_and_its_rewritings_equal_autograd_s(kind):
    product, constants, vector = _case(kind)
    expected = product(constants, vector)
    traced = trace(product, constants, vector)
    kept = traced.prepare(*constants)
    simple = simplified(traced.apply)

    for program in (traced.apply, simple, fused(simple)):
        for _ in range(2):  # what is kept must survive a product
            found = program(*vector, *kept)
            assert _largest_difference(found, expected) < 1e-13


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.sampled_from(KINDS))
def test_one_trace_serves_other_weights_and_data_of_its_shapes(width, samples, kind):
    product, constants, vector = _case(kind, width, samples)
    traced = trace(product, constants, vector)
    program = fused(simplified(traced.apply))
    generator = torch.Generator().manual_seed(samples)
    others = [
        torch.randn(c.shape, dtype=c.dtype, generator=generator)
        if c.is_floating_point()
        else torch.randint(3, c.shape, generator=generator)
        for c in constants
    ]

    found = program(*vector, *traced.prepare(*others))

    assert _largest_difference(found, product(others, vector)) < 1e-12


def test_a_dense_net_s_product_is_left_with_its_matrix_products():
    product, constants, vector = _case("mlp")
    program = fused(simplified(trace(product, constants, vector).apply))
    calls = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]

    # Three layers: R-forward 3 + 2, R-backward 2 + 2, to the weights 3 + 2.
    assert sum(name.startswith(("aten.mm", "aten.addmm")) for name in calls) == 14
    assert not any("zeros" in name for name in calls)


def test_what_the_vector_has_no_part_in_is_not_done_again():
    product, constants, vector = _case("mlp")
    traced = trace(product, constants, vector)
    programs = [n for n in traced.apply.graph.nodes if n.op == "call_function"]

    # The forward pass and the first backward pass: tanh itself is among them.
    assert not any(n.target is torch.ops.aten.tanh.default for n in programs)


def test_random_layers_are_refused():
    net = nn.Sequential(nn.Linear(4, 3), nn.Dropout()).train()
    x, y = torch.randn(5, 4), torch.zeros(5, dtype=torch.long)
    weights = [p.detach() for p in net.parameters()]

    with pytest.raises(RuntimeError, match="draws random numbers"):
        trace(_product(net), [*weights, x, y], weights)


def test_branches_on_values_are_refused():
    def product(constants, tangents):
        if float(constants[0].sum()) > 0.0:
            return [2.0 * tangents[0]]
        return [tangents[0]]

    with pytest.raises(RuntimeError, match="could not be traced"):
        trace(product, [torch.ones(3)], [torch.ones(3)])
