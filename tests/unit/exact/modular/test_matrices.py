"""Matrices modulo a prime against elementary arithmetic, entry by entry."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.exact.modular import elementary
from tests.unit.exact.modular.nets import (
    ACTIVATIONS,
    LOSSES,
    PRIME,
    data,
    mlp,
    net_of,
    ranks,
)
from torch import nn

import curvescope as cs
from curvescope.exact.modular import (
    PRIMES,
    PrimeField,
    certified_ranks,
    elimination_size,
)
from curvescope.exact.modular.layered import layered_matrices
from curvescope.exact.modular.linear import linear_matrices
from curvescope.exact.modular.residues import residues_of


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "mse"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_entry_is_that_of_elementary_arithmetic(name, loss, bias):
    torch.manual_seed(1)
    widths = (2, 2, 1, 2) if name == "tanh" else (1, 2, 2)
    model = mlp(widths, activation=ACTIVATIONS[name], bias=bias)
    X, Y = data(widths, 3, loss)
    net = net_of(model, loss, (X, Y))
    field = PrimeField(PRIME)

    found = layered_matrices(residues_of(net, list(net.samples(most=3)), field))

    expected = elementary.matrices(model, loss, X, Y, PRIME)
    rows = _rows_of_layers(model)
    for ours, theirs in zip(found, expected, strict=True):
        theirs = np.array(theirs, dtype=object)[np.ix_(rows, rows)]
        assert (np.mod(ours.astype(np.int64), PRIME) == np.mod(theirs, PRIME)).all()


def _rows_of_layers(model):
    """Return where the rows of ``[W | b]`` are in the model's parameter vector."""
    rows, start = [], 0
    for linear in (m for m in model if isinstance(m, nn.Linear)):
        outputs, inputs = linear.weight.shape
        for a in range(outputs):
            rows += range(start + a * inputs, start + (a + 1) * inputs)
            if linear.bias is not None:
                rows.append(start + outputs * inputs + a)
        start += outputs * (inputs + (linear.bias is not None))
    return rows


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
def test_the_linear_form_is_the_general_one(loss, bias):
    torch.manual_seed(2)
    widths = (5, 4, 3, 4)
    net = net_of(mlp(widths, bias=bias), loss, data(widths, 7, loss))
    residues = residues_of(net, list(net.samples(most=7)), PrimeField(PRIME))

    general = layered_matrices(residues)
    special = linear_matrices(residues, layers=range(3), compress=False)

    for a, b in zip(general, special, strict=True):
        assert (a == b).all()


@settings(deadline=None, max_examples=40)
@given(
    widths=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    loss=st.sampled_from(LOSSES),
    biases=st.lists(st.booleans(), min_size=4, max_size=4),
    n=st.integers(1, 12),
    seed=st.integers(0, 10**6),
)
def test_compression_keeps_the_ranks(widths, loss, biases, n, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(
        *(
            nn.Linear(widths[i], widths[i + 1], bias=biases[i]).double()
            for i in range(len(widths) - 1)
        )
    )
    net = net_of(model, loss, data(widths, n, loss))

    compressed = certified_ranks(net, primes=PRIMES[:1])
    whole = certified_ranks(net, primes=PRIMES[:1], compress=False)

    assert compressed.ranks == whole.ranks
    assert compressed.size <= elimination_size(net) <= whole.size == net.num_params


@pytest.mark.parametrize("activation", [None, nn.ReLU], ids=["linear", "relu"])
def test_ranks_are_those_over_the_rationals_where_floats_fail(activation):
    # Columns at 1e-9 and 1e-60 of the others: no float64 rank can see them.
    torch.manual_seed(3)
    widths = (3, 2, 2)
    model = mlp(widths, activation=activation)
    X, Y = data(widths, 6, "half_squared_error")
    X *= torch.tensor([1.0, 1e-9, 1e-60], dtype=torch.float64)
    net = net_of(model, "half_squared_error", (X, Y))

    huge = 2**4423 - 1  # a prime that no minor here is a multiple of, by its sheer size
    ggn, functional = elementary.matrices(model, "half_squared_error", X, Y, huge)
    exact = tuple(
        _rank_modulo_huge(m, huge) for m in (ggn, functional, np.add(ggn, functional))
    )

    assert ranks(net) == exact


def _rank_modulo_huge(matrix, prime):
    """Eliminate with Python integers modulo a prime of thousands of bits."""
    rows = [[int(v) % prime for v in row] for row in matrix]
    rank = 0
    for column in range(len(rows)):
        pivot = next((r for r in range(rank, len(rows)) if rows[r][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        inverse = pow(rows[rank][column], -1, prime)
        for r in range(rank + 1, len(rows)):
            factor = rows[r][column] * inverse
            rows[r] = [
                (a - factor * b) % prime
                for a, b in zip(rows[r], rows[rank], strict=True)
            ]
        rank += 1
    return rank


def test_cross_entropy_options_keep_probabilities_and_targets_exact():
    weight = torch.tensor([0.3, 2.0, 5.0, 0.7], dtype=torch.float64)
    loss = cs.losses.CrossEntropy(weight=weight, ignore_index=3, label_smoothing=0.1)
    torch.manual_seed(10)
    widths = (7, 5, 4)
    X, y = data(widths, 30, "cross_entropy")
    soft = torch.randn(30, 4, dtype=torch.float64).softmax(-1)

    plain = ranks(net_of(mlp(widths), "cross_entropy", (X, y)))
    smoothed = cs.losses.CrossEntropy(weight=weight, label_smoothing=0.1)
    for options, targets in ((loss, y), (smoothed, soft)):
        net = net_of(mlp(widths), options, (X, targets))
        assert ranks(net) == ranks(net, compress=False) == plain
        residues = residues_of(net, list(net.samples(most=30)), PrimeField(PRIME))
        assert not residues.field.reduce_(residues.gradients.sum(1)).any()
        assert not residues.field.reduce_(residues.curvatures.sum(2)).any()


def test_cross_entropy_gradients_are_exact_with_all_options():
    weight = torch.tensor([0.3, 2.0, 5.0], dtype=torch.float64)
    loss = cs.losses.CrossEntropy(weight=weight, ignore_index=1, label_smoothing=0.1)
    torch.manual_seed(16)
    X, y = torch.randn(4, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    net = net_of(mlp((2, 3)), loss, (X, y))
    (samples,) = net.samples(most=4)

    residues = residues_of(net, [samples], PrimeField(PRIME))

    exact = [
        _cross_entropy_gradient(p, int(label), weight, Fraction(0.1), ignored=1)
        for p, label in zip(torch.softmax(samples.outputs, -1), y, strict=True)
    ]
    expected = [[elementary.residue(v, PRIME) for v in row] for row in exact]
    assert (np.mod(residues.gradients, PRIME) == np.array(expected)).all()
    floats = torch.tensor([[float(v) for v in row] for row in exact]).double()
    torch.testing.assert_close(samples.gradients, floats)


def _cross_entropy_gradient(floats, label, weight, smoothing, *, ignored):
    if label == ignored:
        return [Fraction(0)] * 3
    t = [
        ((1 - smoothing) * (k == label) + smoothing / 3) * Fraction(float(weight[k]))
        for k in range(3)
    ]
    p = elementary.probabilities(floats)
    return [sum(t) * p[k] - t[k] for k in range(3)]
