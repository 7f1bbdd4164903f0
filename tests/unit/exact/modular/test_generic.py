"""The generic-rank oracle against published and derived ranks, and its own promises."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curvescope.exact.modular import PRIMES, generic_ranks

PARTS = ("ggn", "functional", "hessian")


def ranks(widths, **options):
    found = generic_ranks(widths, **options)
    return tuple(found[part] for part in PARTS)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("half_squared_error", (150, 175, 250)),
        ("logcosh", (150, 175, 250)),
        ("cross_entropy", (145, 165, 245)),
    ],
)
def test_the_published_case(loss, expected):
    assert ranks((25, 5, 10, 10), num_samples=50, loss=loss) == expected


def test_a_middle_weight_of_rank_two():
    found = ranks((12, 6, 5, 4), num_samples=60, weight_ranks=(None, 2, None))

    assert found == (36, 68, 84)


def test_residuals_of_rank_five_as_from_labels_in_two_classes():
    assert ranks((6, 3, 4, 6), num_samples=20, residual_rank=5) == (27, 45, 51)


@settings(deadline=None, max_examples=60)
@given(
    widths=st.lists(st.integers(1, 7), min_size=3, max_size=5),
    n=st.integers(1, 12),
    loss=st.sampled_from(["half_squared_error", "cross_entropy", "logcosh"]),
    seed=st.integers(0, 10**6),
)
def test_linear_nets_have_the_ranks_of_the_published_formulas(widths, n, loss, seed):
    # Singh et al. 2021, with s for the rank of sum delta x' (here min(r, k)).
    inputs, *hidden, outputs = widths
    r, k = min(n, inputs), outputs - (loss == "cross_entropy")
    q, s, layers = min(r, k, *hidden), min(r, k), len(hidden) + 1

    ggn = q * (r + k - q)
    functional = 2 * q * sum(hidden) + 2 * q * s - layers * q * q
    hessian = 2 * q * sum(hidden) - layers * q * q + q * (r + k)
    found = ranks(widths, num_samples=n, loss=loss, seed=seed)
    assert found == (ggn, functional, hessian)


@settings(deadline=None, max_examples=20)
@given(
    widths=st.lists(st.integers(1, 5), min_size=3, max_size=4),
    n=st.integers(2, 12),
    seed=st.integers(0, 10**6),
)
def test_bias_adds_the_outputs_to_the_rank_of_the_ggn(widths, n, seed):
    # Derived: k + q (r_c + k - q), r_c the rank of the centred inputs.
    inputs, *hidden, outputs = widths
    centred = min(n - 1, inputs)
    q = min(centred, outputs, *hidden)

    found = generic_ranks(widths, num_samples=n, bias=True, seed=seed)
    assert found["ggn"] == outputs + q * (centred + outputs - q)


@settings(deadline=None, max_examples=20)
@given(
    inputs=st.integers(1, 6),
    rank=st.integers(0, 6),
    outputs=st.integers(1, 4),
    seed=st.integers(0, 10**6),
)
def test_inputs_of_a_given_rank(inputs, rank, outputs, seed):
    rank = min(rank, inputs)

    found = ranks((inputs, outputs), num_samples=9, input_rank=rank, seed=seed)
    assert found == (rank * outputs, 0, rank * outputs)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.parametrize("bias", [False, True])
def test_piecewise_linear_nets_keep_below_their_symmetries(activation, bias):
    # Rescaling a unit and shifting all logits change nothing that the GGN sees.
    widths = (6, 5, 4, 3)
    size = sum((a + bias) * b for a, b in pairwise(widths))
    found = generic_ranks(
        widths, num_samples=90, activation=activation, bias=bias, loss="cross_entropy"
    )

    assert found["ggn"] <= size - (4 + bias) - 9
    assert found["hessian"] <= size - (4 + bias)
    if activation == "leaky_relu":
        assert found == {
            "hessian": size - (4 + bias),
            "ggn": size - (4 + bias) - 9,
            "functional": found["functional"],
        }


def test_one_hidden_relu_layer_has_twice_the_ranks_of_its_units_residuals():
    # 2 sum_j rank Omega_j: with every unit active somewhere, 2 M min(d, K).
    found = generic_ranks((5, 7, 3), num_samples=80, activation="relu")

    assert found["functional"] == 2 * 7 * 3


def test_a_single_output_under_cross_entropy_has_no_curvature():
    assert ranks((3, 4, 1), num_samples=5, loss="cross_entropy") == (0, 0, 0)


def test_the_answer_depends_on_the_seed_only_through_chance():
    found = {
        tuple(generic_ranks((5, 4, 3), num_samples=9, seed=s, prime=p).values())
        for s in range(5)
        for p in PRIMES
    }

    assert len(found) == 1


@pytest.mark.parametrize(
    ("widths", "options", "match"),
    [
        ((3,), {}, "`widths` must name inputs and outputs"),
        ((3, 0), {}, "`widths` must be at least 1"),
        ((3, 2), {"activation": "tanh"}, "`activation` must be one of"),
        ((3, 2), {"loss": "mse"}, "`loss` must be one of"),
        ((3, 2), {"input_rank": 4}, "`input_rank` must be from 0 to 3"),
        ((3, 2), {"residual_rank": 3}, "`residual_rank` must be from 0 to 2"),
        ((3, 2), {"weight_ranks": (1, 1)}, "`weight_ranks` must have one entry"),
        ((3, 2), {"num_samples": 0}, "`num_samples` must be at least 1"),
    ],
)
def test_wrong_arguments_are_refused(widths, options, match):
    with pytest.raises(ValueError, match=match):
        generic_ranks(widths, **{"num_samples": 5, **options})
