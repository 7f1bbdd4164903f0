"""What the formulas need, against NumPy's ranks and against theory."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import curvescope as cs
from curvescope.exact.facts import facts
from curvescope.exact.linear import kronecker_matrices
from curvescope.exact.network import feed_forward

EPS = np.finfo(float).eps


def rank(matrix):
    """Return NumPy's rank."""
    return int(np.linalg.matrix_rank(torch.as_tensor(matrix).numpy(), tol=1e-9))


def make(
    widths, x, y=None, *, loss="mse", bias=False, activation=nn.Identity, prepare=None
):
    """Return a net in the house's form."""
    modules = []
    for i in range(len(widths) - 1):
        flag = bias if isinstance(bias, bool) else bias[i]
        modules += [nn.Linear(widths[i], widths[i + 1], bias=flag), activation()]
    model = nn.Sequential(*modules[:-1]).double()
    if prepare is not None:
        with torch.no_grad():
            prepare(model)
    if y is None and loss == "cross_entropy":
        y = torch.arange(len(x)) % widths[-1]
    y = torch.randn(len(x), widths[-1]).double() if y is None else y
    return feed_forward(cs.Problem(model, loss, [(x, y)]))


def measured(net):
    """Return residual sum and inputs, straight from the samples."""
    part = next(net.samples(most=10**6))
    return part.gradients, part.inputs


def extended(x):
    """Return [x; 1]."""
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


def low_rank(n, d, r):
    """Return inputs of rank r."""
    return torch.randn(n, r).double() @ torch.randn(r, d).double()


def test_the_published_case_has_the_facts_of_its_formula():
    net = make([25, 5, 10, 10], torch.randn(50, 25).double(), loss="cross_entropy")

    found = facts(net)

    assert found["input_rank"] == 25
    assert found["output_rank"] == 9
    assert found["residual_rank"] == 9
    assert found["bottleneck"] == 5
    assert found["shift_invariant"]
    assert found["left_ranks"] == (5, 9, 9)
    assert found["right_ranks"] == (25, 5, 5)
    assert found["full_rank_weights"]
    assert (found["num_params"], found["num_samples"]) == (275, 50)
    assert all(found["certain"].values())


@settings(max_examples=25)
@given(
    d=st.integers(1, 7),
    r=st.integers(1, 7),
    n=st.integers(1, 12),
    shift=st.sampled_from([0.0, 3.0]),
    bias=st.booleans(),
    seed=st.integers(0, 100),
)
def test_ranks_of_inputs_are_those_of_numpy(d, r, n, shift, bias, seed):
    torch.manual_seed(seed)
    x = low_rank(n, d, r) + shift

    found = facts(make([d, 3, 2], x, bias=bias))

    exact = rank(x), rank(x - x.mean(0))
    assert found["input_rank"] == exact[0]
    assert found["centred_input_rank"] == (exact[1] if bias else None)


def test_constant_and_dead_columns_are_no_directions_of_centred_inputs():
    x = torch.randn(20, 6).double()
    x[:, 1], x[:, 4] = 0.1, 0.0

    plain, biased = facts(make([6, 3, 2], x)), facts(make([6, 3, 2], x, bias=True))

    assert plain["input_rank"] == 5
    assert (biased["input_rank"], biased["centred_input_rank"]) == (5, 4)
    assert all(biased["certain"].values())


@pytest.mark.parametrize("factor", [1e-5, 1e-8, 1e-12])
def test_a_column_of_small_numbers_counts_like_any_other(factor):
    x = torch.randn(20, 6).double()
    x[:, 2] *= factor

    found = facts(make([6, 3, 2], x))

    assert found["input_rank"] == 6
    assert found["residual_rank"] == 2
    assert found["certain"]["input_rank"]


def test_residuals_of_two_classes_and_a_bottleneck_have_a_low_rank():
    x = torch.randn(20, 6).double()
    y = torch.eye(6).double()[torch.arange(20) % 2]

    found = facts(make([6, 3, 4, 6], x, y))

    gradients, inputs = measured(make([6, 3, 4, 6], x, y))
    # Three directions of the outputs, two of the labels.
    assert found["residual_rank"] == rank(gradients.T @ inputs) == 5
    assert found["output_rank"] == 6


@pytest.mark.parametrize(
    ("loss", "curved"),
    [("mse", 4), ("logcosh", 4), ("cross_entropy", 3), ("bce_with_logits", 4)],
)
def test_output_rank_is_that_of_the_summed_output_hessian(loss, curved):
    x = torch.randn(9, 5).double()
    y = torch.rand(9, 4).double() if loss != "cross_entropy" else None

    found = facts(make([5, 4, 4], x, y, loss=loss))

    assert found["output_rank"] == curved
    assert found["shift_invariant"] == (loss == "cross_entropy")


def test_a_wrapped_cross_entropy_is_as_invariant_as_the_named_one():
    def by_hand(outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, reduction="sum")

    x = torch.randn(9, 5).double()
    loss = cs.Loss(by_hand, reduction="sum")

    found = facts(make([5, 4, 4], x, torch.arange(9) % 4, loss=loss))

    assert found["shift_invariant"]
    assert (found["output_rank"], found["residual_rank"]) == (3, 3)
    assert found["certain"]["output_rank"]


def test_a_loss_that_is_linear_in_the_outputs_has_output_rank_zero():
    def linear(outputs, targets):
        return (outputs * targets).sum()

    x = torch.randn(9, 5).double()
    found = facts(make([5, 4, 3], x, loss=cs.Loss(linear, reduction="sum")))

    assert (found["output_rank"], found["residual_rank"]) == (0, 3)
    assert not found["shift_invariant"]


def test_saturated_cross_entropy_still_ignores_shifts():
    x = torch.randn(30, 5).double()

    def large(model):
        model[-1].weight.mul_(40)

    found = facts(make([5, 4, 4], x, loss="cross_entropy", prepare=large))

    assert found["shift_invariant"]
    assert found["output_rank"] == 3


def test_weights_of_low_rank_give_the_staircase_its_ranks():
    x = torch.randn(60, 12).double()

    def flat(model):
        left = torch.randint(-3, 4, (5, 2)).double()
        model[2].weight.copy_(left @ torch.randint(-3, 4, (2, 6)).double())

    net = make([12, 6, 5, 4], x, prepare=flat)

    found = facts(net)

    assert found["weight_ranks"] == (6, 2, 4)
    assert not found["full_rank_weights"]
    assert (found["left_ranks"], found["right_ranks"]) == ((2, 4, 4), (12, 6, 2))
    a, b = (0, *found["left_ranks"]), found["right_ranks"]
    staircase = sum((a[i + 1] - a[i]) * b[i] for i in range(3))
    assert staircase == rank(kronecker_matrices(net, ["ggn"])["ggn"]) == 36


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_the_staircase_with_biases_has_the_rank_of_the_ggn(loss):
    def flat(model):
        model[2].weight[:, 1:] = model[2].weight[:, :1]

    net = make([6, 5, 4, 3], low_rank(30, 6, 3) + 2, loss=loss, bias=True, prepare=flat)

    found = facts(net)

    a, b = (0, *found["left_ranks"]), found["right_ranks"]
    staircase = sum((a[i + 1] - a[i]) * b[i] for i in range(3))
    assert staircase == rank(kronecker_matrices(net, ["ggn"])["ggn"])


def test_full_weights_whose_product_is_zero_are_not_generic():
    def orthogonal(model):
        first, second = torch.zeros(4, 2), torch.zeros(2, 4)
        first[0, 0] = first[1, 1] = second[0, 2] = second[1, 3] = 1.0
        model[2].weight.copy_(first)
        model[4].weight.copy_(second)

    found = facts(make([5, 2, 4, 2, 3], torch.randn(9, 5).double(), prepare=orthogonal))

    assert found["weight_ranks"] == (2, 2, 2, 2)
    assert not found["full_rank_weights"]
    assert found["left_ranks"] == (0, 2, 2, 3)


def test_deep_products_keep_ranks_that_their_singular_values_lose():
    torch.manual_seed(1)

    def uniform(model):
        for layer in model[::2]:
            layer.weight.copy_(torch.rand_like(layer.weight) / layer.weight.shape[1])

    net = make([12, *[6] * 19, 4], torch.randn(60, 12).double(), prepare=uniform)
    product = torch.eye(12).double()
    for layer in net.layers:
        product = layer.weight @ product
    assert int(np.linalg.matrix_rank(product.numpy())) < 4

    found = facts(net)

    assert found["left_ranks"] == (4,) * 20
    assert found["right_ranks"] == (12, *[6] * 19)
    assert found["full_rank_weights"]


def test_biases_on_some_layers_have_no_staircase():
    x = torch.randn(9, 4).double()

    found = facts(make([4, 3, 2], x, bias=(False, True)))

    gradients, inputs = measured(make([4, 3, 2], x, bias=(False, True)))
    assert found["left_ranks"] is None
    assert found["biases"] == (False, True)
    assert found["residual_rank"] == rank(gradients.T @ extended(inputs))
    assert (found["input_rank"], found["centred_input_rank"]) == (4, 4)


@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("slope", [0.0, 0.1], ids=["relu", "leaky"])
def test_units_have_the_ranks_of_what_switches_them_on(slope, bias):
    x = low_rank(12, 5, 4)

    def dead(model):
        model[0].weight[2] = 0.0
        if bias:
            model[0].bias[2] = -1.0

    activation = (lambda: nn.LeakyReLU(slope)) if slope else nn.ReLU
    net = make([5, 6, 3], x, bias=bias, activation=activation, prepare=dead)
    gradients, inputs = measured(net)
    seen = extended(inputs) if bias else inputs

    found = facts(net)

    z = net.forward(inputs)[0]
    slopes = torch.where(z > 0, 1.0, slope).double()
    assert found["unit_input_ranks"] == tuple(rank(s[:, None] * seen) for s in slopes.T)
    assert found["unit_residual_ranks"] == tuple(
        rank(gradients.T @ (s[:, None] * seen)) for s in slopes.T
    )
    assert found["dead_units"] == (0 if slope else 1)
    assert found["activation_kind"] == "homogeneous"
    assert found["left_ranks"] is None


def test_smooth_and_deep_nets_have_no_ranks_of_units():
    x = torch.randn(9, 4).double()

    smooth = facts(make([4, 3, 2], x, activation=nn.Tanh))
    deep = facts(make([4, 3, 3, 2], x, activation=nn.ReLU))

    assert smooth["activation_kind"] == "smooth"
    assert smooth["unit_input_ranks"] is deep["unit_residual_ranks"] is None
    assert smooth["dead_units"] == 0
    assert smooth["activation"] == "tanh"


def test_many_samples_are_read_in_chunks(monkeypatch):
    x, y = low_rank(200, 5, 3), torch.randn(200, 2).double()
    net = make([5, 4, 2], x, y, bias=True, activation=nn.ReLU)
    whole = facts(net)

    monkeypatch.setattr("curvescope.exact.linear_maps._CHUNK_ENTRIES", 100)

    chunked = facts(net)
    for name in (
        "input_rank",
        "centred_input_rank",
        "residual_rank",
        "unit_input_ranks",
    ):
        assert chunked[name] == whole[name]
    assert (chunked["input_rank"], chunked["centred_input_rank"]) == (3, 3)


def test_a_rank_at_the_edge_of_rounding_is_not_certain():
    x = torch.randn(20, 4).double()
    x[:, 3] = x[:, 2] * (1 + 1e-13 * torch.randn(20).double())

    found = facts(make([4, 3, 2], x))

    assert not found["certain"]["input_rank"]


def test_directions_at_the_rounding_of_a_large_mean_are_not_certain():
    x = torch.randn(20, 1).double() @ torch.randn(1, 4).double() + 1e5

    found = facts(make([4, 3, 2], x, bias=True))

    # The stored numbers do have more directions than were meant.
    assert found["centred_input_rank"] > 1
    assert not found["certain"]["centred_input_rank"]
