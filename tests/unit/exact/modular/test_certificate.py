"""Certified ranks where formulas are known, and where floats mislead."""

import dataclasses

import numpy as np
import pytest
import torch
from tests.unit.exact.modular.nets import (
    PRIME,
    data,
    dense_hessian,
    linear_net,
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
    rank_modulo,
    uncertifiable,
)
from curvescope.exact.modular.certificate import _selected
from curvescope.exact.network import InputMap


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("half_squared_error", (150, 175, 250)),
        ("logcosh", (150, 175, 250)),
        ("cross_entropy", (145, 165, 245)),
    ],
)
def test_the_published_case(loss, expected):
    assert ranks(linear_net((25, 5, 10, 10), loss, 50)) == expected


def test_ranks_are_numpys_on_well_conditioned_nets():
    torch.manual_seed(5)
    for activation, bias, loss in [
        (nn.Tanh, True, "cross_entropy"),
        (nn.ReLU, True, "half_squared_error"),
        (None, True, "cross_entropy"),
    ]:
        widths = (4, 3, 3)
        model = mlp(widths, activation=activation, bias=bias)
        net = net_of(model, loss, data(widths, 40, loss))
        hessian = dense_hessian(net.problem)

        assert ranks(net)[2] == np.linalg.matrix_rank(hessian)


def shrunk_uniform(weight):
    return nn.init.uniform_(weight, 0, 1 / weight.shape[1])


@pytest.mark.parametrize(
    ("widths", "init", "seed", "expected"),
    [
        ((8, *[6] * 9, 3), shrunk_uniform, 0, (24, 252, 267)),
        ((6, *[4] * 20, 3), nn.init.xavier_normal_, 1, (18, 309, 318)),
    ],
    ids=["uniform weights, 9 layers of 6", "Glorot weights, 20 layers of 4"],
)
def test_deep_products_keep_their_rank_where_float64_loses_it(
    widths, init, seed, expected
):
    net = linear_net(widths, "half_squared_error", 60, seed=seed, init=init)

    assert ranks(net) == expected
    assert np.linalg.matrix_rank(dense_hessian(net.problem)) < expected[2]


@pytest.mark.parametrize(
    "spoil", ["column 1e-7", "column 1e-8", "mean 1e6", "fit 1e-13"]
)
def test_badly_scaled_data_and_residuals_keep_their_ranks(spoil):
    torch.manual_seed(6)
    widths = (12, 6, 5, 4)
    model = mlp(widths)
    X, Y = data(widths, 60, "half_squared_error")
    if spoil.startswith("column"):
        X[:, 3] *= float(spoil.split()[1])
    elif spoil == "mean 1e6":
        X += 1e6
    else:
        with torch.no_grad():
            Y = model(X) + 1e-13 * torch.randn(60, 4, dtype=torch.float64)
    net = net_of(model, "half_squared_error", (X, Y))

    assert ranks(net) == (48, 72, 104)
    assert np.linalg.matrix_rank(dense_hessian(net.problem)) < 104


def test_labels_in_two_classes_lower_the_functional_rank():
    torch.manual_seed(7)
    widths = (6, 3, 4, 6)
    X, _ = data(widths, 20, "half_squared_error")
    Y = nn.functional.one_hot(torch.randint(0, 2, (20,)), 6).double()

    assert ranks(net_of(mlp(widths), "half_squared_error", (X, Y))) == (27, 45, 51)


def test_a_weight_of_exact_rank_two_is_seen():
    torch.manual_seed(8)
    widths = (12, 6, 5, 4)
    model = mlp(widths)
    with torch.no_grad():
        thin, wide = torch.randint(-5, 6, (5, 2)), torch.randint(-5, 6, (2, 6))
        model[1].weight.copy_((thin @ wide).double())

    net = net_of(model, "half_squared_error", data(widths, 60, "half_squared_error"))
    assert ranks(net) == (36, 68, 84)


def test_a_rounded_product_has_full_exact_rank():
    torch.manual_seed(9)
    X = torch.randn(30, 4, dtype=torch.float64) @ torch.randn(4, 9, dtype=torch.float64)
    _, Y = data((9, 3), 30, "half_squared_error")

    net = net_of(mlp((9, 3)), "half_squared_error", (X, Y))
    assert np.linalg.matrix_rank(X) == 4
    assert ranks(net) == (27, 0, 27)


def test_binary_cross_entropy_takes_weights():
    torch.manual_seed(11)
    widths = (4, 3, 2)
    loss = cs.losses.BCEWithLogits(
        weight=torch.tensor([1.0, 0.0], dtype=torch.float64),
        pos_weight=torch.tensor([3.0, 1.0], dtype=torch.float64),
    )

    both = ranks(net_of(mlp(widths), "bce_with_logits", data(widths, 20, "mse")))
    one = ranks(net_of(mlp(widths), loss, data(widths, 20, "mse")))

    # A weight of zero leaves one output: q = 1 in the published formulas, not 2.
    assert both == (8, 12, 16)
    assert one == (4, 6, 9)


def test_a_selection_has_the_ranks_of_its_rows_and_columns():
    torch.manual_seed(12)
    widths = (6, 4, 3)
    model, pair = mlp(widths, bias=True), data(widths, 30, "mse")
    for params in ("weights", ["0.*"], ["1.weight"], ["0.bias"]):
        net = net_of(model, "mse", pair, params=params)
        names = [name for name, _ in model.named_parameters()]
        slices = {s.name: s for s in cs.Problem(model, "mse", pair).layout.slices()}
        kept = [
            i
            for name in names
            if name in net.problem.layout.names
            for i in range(slices[name].start, slices[name].stop)
        ]
        hessian = dense_hessian(net.problem)[np.ix_(kept, kept)]

        assert len(_selected(net)) == len(kept)
        assert ranks(net)[2] == np.linalg.matrix_rank(hessian)
        assert ranks(net) == ranks(net, compress=False)


def test_weight_decay_fills_the_rank_of_hessian_and_ggn_only():
    torch.manual_seed(13)
    widths = (5, 3, 2)
    pair = data(widths, 4, "mse")
    free = ranks(net_of(mlp(widths), "mse", pair))
    decayed = ranks(net_of(mlp(widths), "mse", pair, weight_decay=1e-12))

    assert free[0] < 21
    assert decayed == (21, free[1], 21)


def test_weight_decay_that_cancels_an_eigenvalue_exactly_is_seen():
    # One weight of curvature -1: f = w2 w1 x, loss sum (f - y)^2 / 2 at w = 0, y = 1.
    model = mlp((1, 1, 1))
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    one = torch.ones(2, 1, dtype=torch.float64)

    # H = mean of [[0, -1], [-1, 0]] + decay I: singular for decay 1.
    net = net_of(model, "half_squared_error", (one, one), weight_decay=1.0)
    assert ranks(net) == (2, 2, 1)
    net = net_of(model, "half_squared_error", (one, one), weight_decay=0.5)
    assert ranks(net) == (2, 2, 2)


def test_float32_problems_are_certified_at_their_own_values():
    torch.manual_seed(14)
    model = mlp((6, 4, 3)).float()
    X, Y = data((6, 4, 3), 20, "mse")

    net = net_of(model, "mse", (X.float(), Y.float()))
    assert ranks(net) == (18, 24, 33)


def test_batches_are_added_up():
    torch.manual_seed(15)
    widths = (6, 4, 3)
    model, (X, y) = mlp(widths, activation=nn.GELU), data(widths, 9, "cross_entropy")

    whole = ranks(net_of(model, "cross_entropy", (X, y)))
    parts = [(X[:2], y[:2]), (X[2:], y[2:])]
    assert ranks(net_of(model, "cross_entropy", parts)) == whole


def test_only_the_parts_that_are_asked_for_are_eliminated():
    net = linear_net((4, 3, 2), "mse", 9)

    certificate = certified_ranks(net, parts=("ggn",), primes=PRIMES)

    assert dict(certificate.ranks) == {"ggn": 8}
    assert certificate.ranks_by_prime == {"ggn": (8, 8, 8)}
    assert certificate.primes == PRIMES


def test_primes_that_disagree_are_reported_and_the_largest_rank_counts():
    model = mlp((2, 1))
    X = torch.tensor([[1.0, 0.0], [0.0, float(PRIME)]], dtype=torch.float64)
    net = net_of(model, "mse", (X, torch.zeros(2, 1, dtype=torch.float64)))

    certificate = certified_ranks(net)

    assert certificate.ranks_by_prime["ggn"] == (1, 2)
    assert certificate.ranks["ggn"] == 2
    assert not certificate.agreed


def test_losses_without_polynomials_have_no_certificate_but_a_reason():
    net = net_of(mlp((3, 2)), nn.HuberLoss(), data((3, 2), 5, "mse"))

    assert "loss" in uncertifiable(net)
    assert certified_ranks(net) is None
    assert uncertifiable(linear_net((3, 2), "mse", 5)) is None


def test_inputs_in_fewer_coordinates_count_as_rounded_there():
    torch.manual_seed(17)
    X = torch.randn(30, 4, dtype=torch.float64) @ torch.randn(4, 9, dtype=torch.float64)
    _, Y = data((9, 3), 30, "mse")
    net = net_of(mlp((9, 3)), "mse", (X, Y))
    basis = torch.linalg.svd(X)[2][:4].T
    change = InputMap(shift=torch.zeros(9, dtype=torch.float64), matrix=basis)
    (layer,) = net.layers
    mapped = dataclasses.replace(
        net,
        layers=(dataclasses.replace(layer, weight=layer.weight @ basis),),
        input_maps=(change,),
    )

    assert ranks(net) == (27, 0, 27)
    assert ranks(mapped) == (12, 0, 12)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"parts": ("fisher",)}, "`parts` must be one of"),
        ({"parts": ()}, "`parts` must name at least one"),
        ({"primes": ()}, "`primes` must name at least one"),
        ({"primes": (8,)}, "`prime` must be an odd prime"),
    ],
)
def test_wrong_arguments_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        certified_ranks(linear_net((3, 2), "mse", 5), **options)


@pytest.mark.slow
def test_the_largest_width_of_the_published_sweep():
    net = linear_net((64, 56, 56, 10), "cross_entropy", 100)

    assert ranks(net) == (576, 1935, 2430)


def test_rank_modulo_of_a_float_matrix_is_no_certificate_of_its_real_rank():
    # The GGN rounded to float64 has full rank modulo a prime: it must not be rounded.
    net = linear_net((6, 4, 3), "mse", 20)
    hessian = dense_hessian(net.problem)

    assert rank_modulo(PrimeField(PRIME).dyadic(hessian), PRIME) > ranks(net)[2]
