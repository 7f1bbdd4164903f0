"""Certified ranks against exact elementary arithmetic, and where floats mislead."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.exact.modular import elementary
from torch import nn

import curvescope as cs
from curvescope.exact.modular import (
    PRIMES,
    PrimeField,
    certified_ranks,
    elimination_size,
    rank_modulo,
    uncertifiable,
)
from curvescope.exact.modular.certificate import _selected
from curvescope.exact.modular.layered import layered_matrices
from curvescope.exact.modular.linear import linear_matrices
from curvescope.exact.modular.residues import residues_of
from curvescope.exact.network import InputMap, feed_forward

PRIME = PRIMES[0]
LOSSES = ("half_squared_error", "mse", "logcosh", "bce_with_logits", "cross_entropy")
ACTIVATIONS = {
    "linear": None,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
}


def mlp(widths, *, activation=None, bias=False, init=nn.init.xavier_normal_):
    modules = []
    for index in range(len(widths) - 1):
        linear = nn.Linear(widths[index], widths[index + 1], bias=bias)
        linear = linear.double()
        init(linear.weight)
        modules.append(linear)
        if activation is not None and index < len(widths) - 2:
            modules.append(activation())
    return nn.Sequential(*modules)


def data(widths, n, loss, *, rank=None):
    X = torch.randn(n, rank or widths[0], dtype=torch.float64)
    if rank is not None:
        # Small integers, so that the product has exactly this rank.
        X = (X * 8).round() @ torch.randint(-4, 5, (rank, widths[0])).double()
    y = torch.randint(0, widths[-1], (n,))
    if loss == "cross_entropy":
        return X, y
    return X, nn.functional.one_hot(y, widths[-1]).double()


def net_of(model, loss, pair, **options):
    return feed_forward(cs.Problem(model, loss, pair, **options))


def ranks(net, **options):
    """Return the ranks of GGN, functional Hessian and Hessian; the primes must agree."""
    certificate = certified_ranks(net, **options)
    assert certificate.agreed
    return tuple(certificate.ranks[part] for part in ("ggn", "functional", "hessian"))


def linear_net(widths, loss, n, *, seed=0, init=nn.init.xavier_normal_):
    torch.manual_seed(seed)
    return net_of(mlp(widths, init=init), loss, data(widths, n, loss))


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
        hessian = _dense_hessian(net.problem)

        assert ranks(net)[2] == np.linalg.matrix_rank(hessian)


def _dense_hessian(problem):
    """Return the loss sum's Hessian by torch's autodiff of the plain model."""
    model = problem.model
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def total(theta):
        pieces = theta.split([s.numel() for s in shapes])
        named = {n: p.view(s) for n, p, s in zip(names, pieces, shapes, strict=True)}
        return sum(
            problem.loss.total(
                torch.func.functional_call(model, named, (b.inputs,)), b.targets
            )
            for b in problem.batches()
        )

    return torch.func.jacrev(torch.func.grad(total))(flat).numpy()


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
    assert np.linalg.matrix_rank(_dense_hessian(net.problem)) < expected[2]


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
    assert np.linalg.matrix_rank(_dense_hessian(net.problem)) < 104


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
        hessian = _dense_hessian(net.problem)[np.ix_(kept, kept)]

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


def test_inputs_in_other_coordinates_are_not_the_stored_ones():
    net = linear_net((3, 2), "mse", 5)
    unit = InputMap(shift=torch.zeros(3).double(), matrix=torch.eye(3).double())
    mapped = dataclasses.replace(net, input_maps=(unit,))

    assert "inputs" in uncertifiable(mapped)
    assert certified_ranks(mapped) is None


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
    hessian = _dense_hessian(net.problem)

    assert rank_modulo(PrimeField(PRIME).dyadic(hessian), PRIME) > ranks(net)[2]
