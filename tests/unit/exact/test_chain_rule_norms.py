"""Norms of own blocks: memory, both ways to them, and the published recursion."""

import pytest
import torch
import torch.nn.functional as F
from tests.unit.exact.chain_rule_truth import (
    assert_blocks,
    cross_entropy_sum,
    labelled,
    mlp,
)
from torch import nn

import curvescope.exact.chain_rule.norms as norms_room
from curvescope.curvature import GGN, FunctionalHessian, Hessian
from curvescope.exact import own_blocks
from curvescope.problem import Problem
from curvescope.testing.traps.t20_memory_tests import peak_growth


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(5)


def published_net(*, activation, samples, side=28):
    widths = (side * side, 30, 30, 10)
    model = nn.Sequential(nn.Flatten(), *mlp(activation, widths=widths))
    data = (torch.rand(samples, side, side).double(), torch.randint(0, 10, (samples,)))
    return Problem(model, "cross_entropy", data)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_the_published_layer_takes_megabytes_where_its_block_has_gigabytes(activation):
    own_blocks(
        published_net(activation=activation, samples=8)
    )  # loads what is loaded once
    problem = published_net(activation=activation, samples=1024)
    size = 785 * 30
    found = []

    def measure():
        block = own_blocks(problem, layers=["1"])["1"]
        found.append((block.frobenius_norms(), block.traces(), block.num_params))

    grown = peak_growth(measure)

    norms, traces, num_params = found[0]
    assert num_params == size
    assert grown < 64 * 2**20 < 8 * size**2 / 64
    # Probes of the operators, which know nothing of the chain rule.
    for kind, norm, trace in zip(
        (Hessian, GGN, FunctionalHessian), norms, traces, strict=True
    ):
        if norm == 0.0:
            assert activation is nn.ReLU
            assert kind is FunctionalHessian
            continue
        Z = torch.randn(size, 24).double()
        Y = kind(problem).block("1.*") @ Z
        squares, quadratic = (Y * Y).sum(0), (Z * Y).sum(0)
        error = 24**-0.5
        assert abs(norm**2 - float(squares.mean())) < 4 * error * float(squares.std())
        assert abs(trace - float(quadratic.mean())) < 4 * error * float(quadratic.std())


def test_the_norm_of_the_published_layer_is_that_of_the_matrix_on_a_smaller_image():
    problem = published_net(activation=nn.Tanh, samples=40, side=4)

    assert_blocks(problem, cross_entropy_sum, layers=["1"])


def test_all_ways_to_the_norm_agree(monkeypatch):
    A, X = torch.randn(60, 4, 5).double(), torch.randn(60, 6).double()
    F_ = torch.randn(60, 5, 5).double()
    F_ = F_ + F_.transpose(1, 2)

    def middle(start, stop):
        return A[start:stop].transpose(1, 2) @ A[start:stop], F_[start:stop]

    pairs = norms_room._by_pairs(middle, X, 5, zero=False)
    entries = norms_room._by_entries(middle, X, 5, zero=False)

    outer = torch.einsum("ni,nj->nij", X, X)
    G, C = (torch.einsum("nab,nij->aibj", M, outer) for M in middle(0, 60))
    truth = [float((B**2).sum()) for B in (G + C, G, C)]
    assert list(pairs) == pytest.approx(truth, rel=1e-13)
    assert list(entries) == pytest.approx(truth, rel=1e-13)
    monkeypatch.setattr(norms_room, "_KEPT_BYTES", 8 * 3 * 15 * 2 * 7)
    in_chunks = norms_room._by_pairs(middle, X, 5, zero=False)
    assert list(in_chunks) == pytest.approx(truth, rel=1e-13)


def recursion(model, x, y):
    """Return the norms of every layer's block by the recursion of the chain rule.

    H_u = D W' H_u W D + diag(phi'' W' g) from the last layer to the first, without any
    second derivative of a network.
    """
    weights = [m for m in model if isinstance(m, nn.Linear)]
    inputs, pre = [x], []
    for place, layer in enumerate(weights):
        pre.append(layer(inputs[-1]).detach())
        if place < len(weights) - 1:
            inputs.append(torch.tanh(pre[-1]))
    p = torch.softmax(pre[-1], 1)
    H = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    G, g = H.clone(), p - F.one_hot(y, p.shape[1])
    found = []
    for place in range(len(weights) - 1, -1, -1):
        ones = torch.ones(len(x), 1).double()
        extended = torch.cat([inputs[place], ones], 1)
        gram = (extended @ extended.T) ** 2
        parts = [
            float(((M.flatten(1) @ M.flatten(1).T) * gram).sum()) ** 0.5 / len(x)
            for M in (H, G, H - G)
        ]
        found.append(parts)
        if place:
            W = weights[place].weight.detach()
            t = torch.tanh(pre[place - 1])
            slope, bend = 1 - t**2, -2 * t * (1 - t**2)
            WD = W * slope[:, None, :]
            H = WD.transpose(1, 2) @ H @ WD + torch.diag_embed(bend * (g @ W))
            G = WD.transpose(1, 2) @ G @ WD
            g = (g @ W) * slope
    return found[::-1]


def test_blocks_are_those_of_the_recursion_from_the_last_layer_to_the_first():
    model = mlp(nn.Tanh, widths=(5, 7, 6, 4, 3))
    x, y = labelled(20)

    blocks = own_blocks(Problem(model, "cross_entropy", (x, y)))

    for block, truth in zip(blocks.values(), recursion(model, x, y), strict=True):
        found = list(block.frobenius_norms())
        assert found == pytest.approx(truth, rel=1e-12, abs=1e-14)
