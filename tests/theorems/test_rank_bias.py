"""Linear networks with biases: no published numbers, hence exact arithmetic alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.theorems import draws, oracle

from curvescope import theory

widths_ = st.lists(st.integers(1, 12), max_size=6)
rank_ = st.integers(0, 15)


@pytest.mark.parametrize("seed", range(3))
def test_every_claim_holds_exactly_with_biases_in_all_layers(seed):
    wrong, equal = draws.disagreements(draws.linear_case, 120, seed, kind="all")

    assert wrong == []
    assert equal == 360


def test_ceilings_hold_with_biases_in_some_layers():
    wrong, equal = draws.disagreements(draws.linear_case, 120, 11, kind="some")

    assert wrong == []
    assert 0 < equal < 360


def test_claims_hold_for_weights_of_any_rank_with_biases():
    wrong, equal = draws.disagreements(
        draws.linear_case, 120, 12, kind="all", deficient=True
    )

    assert wrong == []
    assert equal >= 120


def test_residuals_that_sum_to_zero_hide_the_biases_from_the_functional_part():
    rng = np.random.default_rng(0)
    x = oracle.low_rank(rng, 20, 6)
    net = oracle.linear_net(rng, [6, 4, 5, 3], bias=True)
    delta, curvature = oracle.loss_parts("logcosh", rng, net, x)
    delta[0] = -delta[1:].sum(0) % oracle.P
    curvature = np.broadcast_to(np.eye(3, dtype=np.int64), curvature.shape)

    truth = oracle.ranks(net, x, delta, curvature)
    facts = oracle.facts(net, x, delta, "logcosh")
    predicted = theory.predicted_ranks(activation="linear", **facts)
    unaware = theory.predicted_ranks(
        activation="linear", **{**facts, "balanced": False}
    )

    assert facts["balanced"]
    assert {name: p.value for name, p in predicted.items()} == truth
    assert truth["functional"] == theory.functional_rank([4, 5], residual_rank=3)
    assert unaware["functional"].value > truth["functional"]


def test_the_place_of_the_bottleneck_matters():
    wide_after = theory.functional_rank_with_bias([2, 7], residual_rank=6)
    wide_before = theory.functional_rank_with_bias([7, 2], residual_rank=6)

    assert (wide_after, wide_before) == (60, 50)


@given(s=st.integers(0, 8), extra=st.lists(st.integers(0, 5), min_size=1, max_size=5))
def test_wide_networks_have_the_short_form(s, extra):
    hidden = [max(s, 1) + e for e in extra]

    rank = theory.functional_rank_with_bias(hidden, residual_rank=s)

    assert rank == 2 * s * sum(hidden) - (len(hidden) - 1) * s * (s - 1)


@given(hidden=widths_, r=rank_, k=rank_)
def test_the_ggn_is_the_staircase_of_inputs_beside_ones(hidden, r, k):
    left = theory.generic_left_ranks(hidden, output_rank=k)
    right = theory.generic_right_ranks(hidden, input_rank=r)

    rank = theory.ggn_rank_with_bias(hidden, centred_input_rank=r, output_rank=k)

    assert rank == theory.staircase_ggn_rank(left, [b + 1 for b in right])


@given(hidden=widths_, r=rank_, k=rank_, data=st.data())
def test_the_rank_of_the_sum_lies_between_those_of_its_parts(hidden, r, k, data):
    s = data.draw(st.integers(0, min(r + 1, k) if k else r + 1))
    facts = {"centred_input_rank": r, "output_rank": k}

    functional = theory.functional_rank_with_bias(hidden, residual_rank=s)
    ggn = theory.ggn_rank_with_bias(hidden, **facts)
    hessian = theory.hessian_rank_with_bias(hidden, residual_rank=s, **facts)

    assert abs(functional - ggn) <= hessian <= functional + ggn


@given(hidden=widths_, s=rank_, data=st.data())
def test_biases_add_columns_and_never_take_rank_away(hidden, s, data):
    without = theory.functional_column_ranks(hidden, residual_rank=s)

    with_biases = theory.functional_column_ranks_with_bias(hidden, residual_rank=s)

    assert all(a <= b for a, b in zip(without, with_biases, strict=True))
    if hidden:
        at = data.draw(st.integers(0, len(hidden) - 1))
        wider = [m + (i == at) for i, m in enumerate(hidden)]
        more = theory.functional_rank_with_bias(wider, residual_rank=s)
        assert sum(with_biases) <= more
