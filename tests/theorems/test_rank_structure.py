"""Blocks and block columns of linear networks against exact arithmetic."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.theorems import draws, oracle

from curvescope import theory


def cases(num_cases, seed, *, bias, loss="mse"):
    """Random networks with their residuals and the borders of their layers."""
    rng = np.random.default_rng(seed)
    for _ in range(num_cases):
        widths = draws.architecture(rng)
        x = draws.inputs(rng, widths[0])
        net = oracle.linear_net(rng, widths, bias=bias)
        delta, curvature = draws.residual(rng, net, x, loss)
        borders = np.cumsum([0, *net.sizes()])
        yield net, x, delta, curvature, list(itertools.pairwise(borders))


def table(matrix, spans):
    return tuple(
        tuple(oracle.rank(matrix[a:b, c:d]) for c, d in spans) for a, b in spans
    )


@pytest.mark.parametrize("bias", [False, True])
def test_layer_columns_of_the_functional_part_have_the_predicted_ranks(bias):
    for net, x, delta, _, spans in cases(100, 1, bias=bias):
        matrix = net.functional(x, delta)
        seen = oracle.with_ones(x) if bias else x
        s = oracle.rank(oracle.matmul(delta.T, seen))

        ranks = tuple(oracle.rank(matrix[:, a:b]) for a, b in spans)

        hidden = net.widths[1:-1]
        if bias:
            balanced = not np.any(delta.sum(0) % oracle.P)
            expected = theory.functional_column_ranks_with_bias(
                hidden, residual_rank=s, balanced=balanced
            )
        else:
            expected = theory.functional_column_ranks(hidden, residual_rank=s)
        assert ranks == expected, net.widths


def test_blocks_of_the_functional_part_have_the_predicted_ranks():
    for net, x, delta, _, spans in cases(60, 2, bias=False):
        s = oracle.rank(oracle.matmul(delta.T, x))

        truth = table(net.functional(x, delta), spans)

        hidden = net.widths[1:-1]
        assert truth == theory.functional_block_ranks(hidden, residual_rank=s)


@pytest.mark.parametrize("bias", [False, True])
def test_blocks_of_the_ggn_have_the_predicted_ranks_for_squared_error(bias):
    for net, x, _, curvature, spans in cases(60, 3, bias=bias):
        left, right = oracle.factor_ranks(net, x, "mse")

        truth = table(net.ggn(x, curvature), spans)

        assert truth == theory.ggn_block_ranks(left, right)


def test_blocks_of_the_ggn_lie_between_their_bounds_for_cross_entropy():
    for net, x, _, curvature, spans in cases(60, 4, bias=False, loss="cross_entropy"):
        left, right = oracle.factor_ranks(net, x, "cross_entropy")
        lower = theory.ggn_block_ranks(left, right)

        truth = table(net.ggn(x, curvature), spans)

        for i, k in np.ndindex(len(spans), len(spans)):
            upper = min(lower[i][i], lower[k][k])
            assert lower[i][k] <= truth[i][k] <= upper
            assert i != k or truth[i][k] == lower[i][k]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=6))
def test_the_staircase_area_counts_cells(rectangles):
    cells = {(i, j) for a, b in rectangles for i in range(a) for j in range(b)}

    assert theory.staircase_area(rectangles) == len(cells)


@given(
    hidden=st.lists(st.integers(1, 9), max_size=5),
    r=st.integers(0, 9),
    k=st.integers(0, 9),
    data=st.data(),
)
def test_generic_factors_give_the_generic_ranks(hidden, r, k, data):
    s = data.draw(st.integers(0, min(r, k)))
    left = theory.generic_left_ranks(hidden, output_rank=k)
    right = theory.generic_right_ranks(hidden, input_rank=r)

    ggn = theory.staircase_ggn_rank(left, right)
    ceiling = theory.functional_column_ceiling(
        hidden, residual_rank=s, left_ranks=left, right_ranks=right
    )

    assert ggn == theory.ggn_rank(hidden, input_rank=r, output_rank=k)
    assert ceiling == theory.functional_rank(hidden, residual_rank=s)


@pytest.mark.parametrize(
    ("left", "right", "text"),
    [
        ([1, 2], [3], "match `left_ranks`"),
        ([], [], "not empty"),
        ([2, 1], [3, 3], "`left_ranks` must not fall"),
        ([1, 2], [3, 4], "`right_ranks` must not rise"),
    ],
)
def test_ranks_that_no_network_has_are_refused(left, right, text):
    with pytest.raises(ValueError, match=text):
        theory.staircase_ggn_rank(left, right)
