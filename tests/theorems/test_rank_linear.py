"""Linear networks: published numbers, and every claim against exact arithmetic."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.theorems import draws, oracle

from curvescope import theory

# What the published code stores: 8 x 8 MNIST, 100 images of rank 41, ten classes,
# cross-entropy, two hidden layers of one width.
STORED = {
    4: (312, 88, 184, 216),
    8: (656, 208, 336, 464),
    12: (1032, 351, 369, 639),
    16: (1440, 495, 369, 783),
    20: (1880, 639, 369, 927),
    24: (2352, 783, 369, 1071),
    28: (2856, 927, 369, 1215),
    32: (3392, 1071, 369, 1359),
    36: (3960, 1215, 369, 1503),
}

widths_ = st.lists(st.integers(1, 12), max_size=6)
rank_ = st.integers(0, 15)


@pytest.mark.parametrize(
    ("output_rank", "expected"), [(10, (175, 150, 250)), (9, (165, 145, 245))]
)
def test_formulas_give_the_published_example(output_rank, expected):
    facts = {"input_rank": 25, "output_rank": output_rank}

    functional = theory.functional_rank([5, 10], residual_rank=output_rank)
    ggn = theory.ggn_rank([5, 10], **facts)
    hessian = theory.hessian_rank([5, 10], residual_rank=output_rank, **facts)

    assert (functional, ggn, hessian) == expected


@pytest.mark.parametrize("width", STORED)
def test_formulas_give_all_stored_numbers_of_the_published_width_sweep(width):
    num_params, functional, ggn, hessian = STORED[width]

    predicted = theory.predicted_ranks(
        widths=[64, width, width, 10],
        activation="linear",
        bias=False,
        num_samples=100,
        input_rank=41,
        output_rank=9,
        residual_rank=9,
        shift_invariant=True,
    )

    assert predicted["functional"].value == functional
    assert predicted["ggn"].value == ggn
    assert predicted["hessian"].value == hessian
    assert {p.status for p in predicted.values()} == {"published"}
    sizes = (64, width, width, 10)
    assert num_params == sum(a * b for a, b in itertools.pairwise(sizes))


def test_oracle_agrees_with_automatic_differentiation():
    rng = np.random.default_rng(0)
    x, y = rng.integers(-2, 3, (4, 3)), rng.integers(-2, 3, (4, 2))
    net = oracle.relu_net(rng, [3, 4, 2], x, bias=[True, False])
    net.weights = [np.sign(w) * (1 + np.abs(w) % 3) for w in net.weights]
    net.biases[0] = np.sign(net.biases[0])
    net.slopes = [np.where(x @ net.weights[0].T + net.biases[0] > 0, 1, 0)]
    theta, slope = torch.tensor(theta_of(net)).double(), torch.tensor(net.slopes[0])
    images, labels = torch.tensor(x).double(), torch.tensor(y).double()

    def objective(flat):
        hidden = (images @ flat[:12].view(4, 3).T + flat[12:16]) * slope
        return ((hidden @ flat[16:].view(2, 4).T - labels) ** 2).sum() / 2

    truth = torch.func.jacrev(torch.func.grad(objective))(theta)

    delta = oracle.outputs(net, x) - y
    eye = np.broadcast_to(np.eye(2, dtype=np.int64), (4, 2, 2))
    ours = (net.functional(x, delta) + net.ggn(x, eye)) % oracle.P
    np.testing.assert_array_equal(ours, truth.round().long().numpy() % oracle.P)


def theta_of(net):
    """Flat parameters as they are, not modulo the prime."""
    parts = [net.weights[0].ravel(), net.biases[0], net.weights[1].ravel()]
    return np.concatenate(parts)


@pytest.mark.parametrize("seed", range(3))
def test_every_claim_holds_exactly_for_random_linear_networks(seed):
    wrong, equal = draws.disagreements(draws.linear_case, 100, seed, kind="none")

    assert wrong == []
    assert equal == 300


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "all"])
def test_every_claim_holds_exactly_for_thousands_of_linear_networks(kind):
    wrong, equal = draws.disagreements(draws.linear_case, 3000, 99, kind=kind)

    assert wrong == []
    assert equal == 9000


def test_claims_hold_for_weights_of_any_rank():
    wrong, equal = draws.disagreements(
        draws.linear_case, 150, 7, kind="none", deficient=True
    )

    assert wrong == []
    assert equal >= 150


def test_few_classes_have_the_rank_that_the_published_code_misses():
    rng = np.random.default_rng(3)
    x = oracle.low_rank(rng, 20, 6)
    net = oracle.linear_net(rng, [6, 3, 4, 6])
    delta, curvature = oracle.loss_parts("mse", rng, net, x, classes=2)

    truth = oracle.ranks(net, x, delta, curvature)
    facts = oracle.facts(net, x, delta, "mse")
    predicted = theory.predicted_ranks(activation="linear", **facts)

    assert truth == {"functional": 45, "ggn": 27, "hessian": 51}
    assert {name: p.value for name, p in predicted.items()} == truth
    assert predicted["functional"].status == "fitted"
    ranks = {"input_rank": 6, "output_rank": 6}
    assert theory.published_functional_rank([3, 4], **ranks) == 51
    assert theory.published_hessian_rank([3, 4], **ranks) == 51


def test_a_middle_weight_of_rank_two_has_a_staircase_and_ceilings():
    rng = np.random.default_rng(5)
    x = oracle.low_rank(rng, 30, 12)
    net = oracle.linear_net(rng, [12, 6, 5, 4], weight_ranks=[None, 2, None])
    delta, curvature = oracle.loss_parts("mse", rng, net, x)
    left, right = oracle.factor_ranks(net, x, "mse")

    truth = oracle.ranks(net, x, delta, curvature)
    predicted = theory.predicted_ranks(
        activation="linear",
        left_ranks=left,
        right_ranks=right,
        full_rank_weights=False,
        **oracle.facts(net, x, delta, "mse"),
    )

    assert truth == {"functional": 68, "ggn": 36, "hessian": 84}
    assert str(predicted["ggn"]) == "rank = 36 (derived)"
    assert predicted["functional"].claim == predicted["hessian"].claim == "at_most"
    assert all(p.agrees(truth[name]) for name, p in predicted.items())


def test_two_classes_with_one_output_are_one_output_not_two():
    predicted = theory.predicted_ranks(
        widths=[8, 4, 4, 1],
        activation="linear",
        bias=False,
        num_samples=30,
        input_rank=8,
        output_rank=1,
        residual_rank=1,
    )
    published = theory.published_output_rank(2, cross_entropy=False)

    rng = np.random.default_rng(0)
    x = oracle.low_rank(rng, 30, 8)
    net = oracle.linear_net(rng, [8, 4, 4, 1])
    truth = oracle.ranks(net, x, *oracle.loss_parts("mse", rng, net, x))
    assert {name: p.value for name, p in predicted.items()} == truth
    wrong = theory.published_ggn_rank([4, 4], input_rank=8, output_rank=published)
    assert wrong != truth["ggn"]


def test_without_hidden_layers_the_functional_part_vanishes():
    assert theory.functional_rank([], residual_rank=4) == 0
    assert theory.functional_column_ranks([], residual_rank=4) == (0,)
    assert theory.published_functional_rank([], input_rank=6, output_rank=4) == 16
    facts = {"input_rank": 6, "output_rank": 4, "residual_rank": 4}
    assert theory.hessian_rank([], **facts) == 24


def test_one_output_under_cross_entropy_has_no_rank_at_all():
    facts = {"input_rank": 6, "output_rank": 0, "residual_rank": 0}

    assert theory.ggn_rank([3], input_rank=6, output_rank=0) == 0
    assert theory.hessian_rank([3], **facts) == 0


@given(hidden=widths_, r=rank_, k=rank_)
def test_the_deficiency_is_a_product_over_the_layers(hidden, r, k):
    s = min(r, k)
    rank = theory.hessian_rank(hidden, input_rank=r, output_rank=k, residual_rank=s)
    if not k:
        return
    sizes = (r, *hidden, k)

    deficiency = theory.hessian_deficiency(hidden, input_rank=r, output_rank=k)

    assert rank + deficiency == sum(a * b for a, b in itertools.pairwise(sizes))


@given(hidden=widths_, r=rank_, k=rank_, data=st.data())
def test_the_rank_of_the_sum_lies_between_those_of_its_parts(hidden, r, k, data):
    s = data.draw(st.integers(0, min(r, k) if k else r))
    facts = {"input_rank": r, "output_rank": k}

    functional = theory.functional_rank(hidden, residual_rank=s)
    ggn = theory.ggn_rank(hidden, **facts)
    hessian = theory.hessian_rank(hidden, residual_rank=s, **facts)

    assert abs(functional - ggn) <= hessian <= functional + ggn


@given(hidden=widths_.filter(bool), r=rank_, k=st.integers(1, 15), data=st.data())
def test_ranks_do_not_fall_as_a_network_or_its_data_grow(hidden, r, k, data):
    s = data.draw(st.integers(0, min(r, k)))
    at = data.draw(st.integers(0, len(hidden) - 1))
    wider = [m + (i == at) for i, m in enumerate(hidden)]

    def rank(hidden, r, k, s):
        return theory.hessian_rank(hidden, input_rank=r, output_rank=k, residual_rank=s)

    before = rank(hidden, r, k, s)
    assert before <= rank(wider, r, k, s)
    assert before <= rank(hidden, r + 1, k, s)
    assert before <= rank(hidden, r, k + 1, s)
    if s < min(r, k):
        assert before <= rank(hidden, r, k, s + 1)


@given(hidden=widths_, r=rank_, k=st.integers(1, 15), data=st.data())
def test_a_network_read_backwards_has_the_same_ranks(hidden, r, k, data):
    s = data.draw(st.integers(0, min(r, k)))
    back = hidden[::-1]

    columns = theory.functional_column_ranks(hidden, residual_rank=s)

    assert columns == theory.functional_column_ranks(back, residual_rank=s)[::-1]
    assert sum(columns) == theory.functional_rank(hidden, residual_rank=s)
    there = theory.hessian_rank(hidden, input_rank=r, output_rank=k, residual_rank=s)
    if r:
        here = theory.hessian_rank(back, input_rank=k, output_rank=r, residual_rank=s)
        assert there == here


@given(hidden=widths_, r=rank_, k=rank_)
def test_the_published_formulas_are_ours_where_the_residual_is_full(hidden, r, k):
    facts, s = {"input_rank": r, "output_rank": k}, min(r, k)

    assert theory.published_ggn_rank(hidden, **facts) == theory.ggn_rank(
        hidden, **facts
    )
    if hidden and k:
        ours = theory.hessian_rank(hidden, residual_rank=s, **facts)
        assert theory.published_hessian_rank(hidden, **facts) == ours
        ours = theory.functional_rank(hidden, residual_rank=s)
        assert theory.published_functional_rank(hidden, **facts) == ours


def test_rank_over_the_root_of_the_parameters_tends_to_its_limit():
    size = {"num_hidden": 2, "num_inputs": 64, "num_outputs": 10}

    ratios = [theory.rank_over_root_params(m, **size) for m in (16, 64, 1024, 10**6)]

    assert ratios == sorted(ratios)
    limit = theory.root_params_limit(num_hidden=2, bottleneck=10)
    assert ratios[0] == pytest.approx(28.5, abs=0.05)
    assert ratios[-1] == pytest.approx(limit, rel=1e-3)


def test_a_residual_beyond_the_loss_is_refused():
    with pytest.raises(ValueError, match="`residual_rank` must be at most 3; got 4"):
        theory.hessian_rank([5], input_rank=6, output_rank=3, residual_rank=4)
