"""Facts of the stored numbers, against NumPy's ranks, Fractions and structure."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import curvescope as cs
from curvescope.exact.facts import facts
from curvescope.exact.modular import certified_ranks, exact_facts
from curvescope.exact.network import feed_forward

SAME = ("input_rank", "centred_input_rank", "output_rank", "residual_rank", "balanced",
        "shift_invariant", "weight_ranks", "full_rank_weights", "left_ranks",
        "right_ranks", "unit_input_ranks", "unit_residual_ranks", "flat_samples",
        "definite_curvature")  # fmt: skip


def mlp(widths, *, bias=False, activation=nn.Identity):
    modules = []
    for a, b in itertools.pairwise(widths):
        modules += [nn.Linear(a, b, bias=bias), activation()]
    return nn.Sequential(*modules[:-1]).double()


def net_of(model, loss, inputs, targets):
    return feed_forward(cs.Problem(model, loss, (inputs, targets)))


def rank_of_fractions(rows):
    """Rank by elimination in rational arithmetic."""
    rows = [[Fraction(float(v)) for v in row] for row in rows]
    rank = 0
    for column in range(len(rows[0])):
        pivot = next((r for r in rows[rank:] if r[column]), None)
        if pivot is None:
            continue
        rows.remove(pivot)
        rows.insert(rank, pivot)
        for i in range(rank + 1, len(rows)):
            factor = rows[i][column] / pivot[column]
            rows[i] = [a - factor * b for a, b in zip(rows[i], pivot, strict=True)]
        rank += 1
    return rank


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    hidden=st.lists(st.integers(1, 5), max_size=3),
    bias=st.booleans(),
    loss=st.sampled_from(["mse", "cross_entropy", "logcosh", "bce_with_logits"]),
    activation=st.sampled_from([nn.Identity, nn.ReLU, nn.Tanh]),
)
def test_without_rounding_both_arithmetics_find_the_same(
    seed, hidden, bias, loss, activation
):
    torch.manual_seed(seed)
    d, n, K = 1 + seed % 5, 1 + seed % 11, 1 + seed % 4
    model = mlp([d, *hidden, K], bias=bias, activation=activation)
    labels = torch.randint(K, (n,))
    one_hot = nn.functional.one_hot(labels, K).double()
    targets = {"cross_entropy": labels, "bce_with_logits": one_hot}
    net = net_of(
        model, loss, torch.randn(n, d).double(), targets.get(loss, torch.randn(n, K).double())
    )  # fmt: skip

    ours, measured = exact_facts(net), facts(net)

    if all(measured["certain"].values()):
        assert {k: ours[k] for k in SAME} == {k: measured[k] for k in SAME}


@pytest.mark.parametrize("n", [3, 5])
def test_centred_inputs_have_the_rank_of_their_rounded_numbers(n):
    torch.manual_seed(0)
    X = torch.randn(n, 6).double()
    X = X - X.mean(0)
    net = net_of(mlp([6, 4, 3], bias=True), "mse", X, torch.randn(n, 3).double())

    ours = exact_facts(net)

    assert facts(net)["input_rank"] == n - 1
    assert ours["input_rank"] == rank_of_fractions(X.tolist()) == n
    with_one = [[*row, 1.0] for row in X.tolist()]
    assert ours["centred_input_rank"] == rank_of_fractions(with_one) - 1


def test_a_product_of_weights_that_vanishes_is_found():
    torch.manual_seed(0)
    model = mlp([3, 4, 4, 2])
    with torch.no_grad():
        model[0].weight.copy_(
            torch.tensor([[1, 2, 3], [4, 5, 6], [0, 0, 0], [0, 0, 0]])
        )
        model[2].weight[:, :2] = 0.0
    net = net_of(model, "mse", torch.randn(9, 3).double(), torch.randn(9, 2).double())

    for found in (exact_facts(net), facts(net)):
        assert found["weight_ranks"] == (2, 2, 2)
        assert found["right_ranks"] == (3, 2, 0)
        assert found["left_ranks"] == (2, 2, 2)
        assert not found["full_rank_weights"]


def test_weights_that_add_one_number_to_all_logits_leave_nothing():
    torch.manual_seed(0)
    model = mlp([3, 4, 2])
    with torch.no_grad():
        model[2].weight[1] = model[2].weight[0]
    X, y = torch.randn(9, 3).double(), torch.arange(9) % 2

    for found in (
        f(net_of(model, "cross_entropy", X, y)) for f in (exact_facts, facts)
    ):
        assert found["left_ranks"] == (0, 1)


@pytest.mark.parametrize("loss", ["logcosh", "bce_with_logits"])
def test_saturated_samples_keep_their_curvature_in_exact_arithmetic(loss):
    model = nn.Sequential(nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 1.0]]))
    X = torch.tensor([[1.0, 0.0], [40.0, 60.0]]).double()  # tanh(100) is 1 in float64
    net = net_of(model, loss, X, torch.zeros(2, 1).double())

    measured, ours = facts(net), exact_facts(net)

    assert (measured["flat_samples"], measured["definite_curvature"]) == (1, False)
    assert (ours["flat_samples"], ours["definite_curvature"]) == (0, True)
    assert certified_ranks(net).ranks["ggn"] == 2


def test_saturated_samples_do_not_matter_where_the_others_span_the_inputs():
    torch.manual_seed(0)
    X = torch.randn(9, 2).double()
    X[0] = 1e5
    net = net_of(mlp([2, 3], bias=False), "logcosh", X, torch.zeros(9, 3).double())

    for found in (facts(net), exact_facts(net)):  # cosh(1e4) overflows, too
        assert (found["flat_samples"], found["definite_curvature"]) == (1, True)


def test_class_weights_of_zero_flatten_their_samples():
    torch.manual_seed(0)
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1.0, 0.0]).double())
    X, y = torch.randn(4, 4).double(), torch.tensor([0, 1, 2, 2])
    net = net_of(mlp([4, 5, 3]), loss, X, y)

    for found in (facts(net), exact_facts(net)):
        assert (found["flat_samples"], found["definite_curvature"]) == (2, False)
        assert (found["input_rank"], found["output_rank"]) == (4, 2)


def test_balanced_up_to_rounding_is_not_balanced_exactly():
    torch.manual_seed(0)
    model, X = mlp([3, 4, 2], bias=True), torch.randn(9, 3).double()
    Y = torch.randn(9, 2).double()
    with torch.no_grad():
        Y += (model(X) - Y).mean(0)
    net = net_of(model, "mse", X, Y)

    assert facts(net)["balanced"]
    assert not exact_facts(net)["balanced"]
    assert np.isclose(next(net.samples(most=9)).gradients.sum(0).abs().max(), 0)


def test_a_loss_without_a_certificate_has_no_exact_facts():
    X, Y = torch.randn(9, 3).double(), torch.randn(9, 2).double()

    assert exact_facts(net_of(mlp([3, 2]), nn.HuberLoss(), X, Y)) is None
