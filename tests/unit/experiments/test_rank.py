"""From plain values to a problem."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from curvescope import data
from curvescope.experiments import RankPoint, build_rank_problem
from curvescope.experiments.rank import (
    check_point,
    check_points,
    guess_params,
    load_samples,
    measure,
)

REPOSITORY = Path(__file__).resolve().parents[3]
ROOT = Path(
    os.environ.get("CURVESCOPE_TEST_DATA", REPOSITORY / "../shared/data")
).resolve()
DIGITS = RankPoint(data="digits", dim=16, num_samples=30, units=(6, 5))
MIXTURE = RankPoint(
    data="gaussian-mixture", dim=12, classes=4, num_samples=20, units=(6, 5)
)


def root_of(name):
    if not (ROOT / name).exists():
        pytest.skip(f"no real data: {ROOT / name} is absent (CURVESCOPE_TEST_DATA)")
    return ROOT


def arrays(problem):
    (batch,) = problem.batches()
    weights = [p.detach().numpy() for p in problem.model.parameters()]
    return batch.inputs.numpy(), batch.targets.numpy(), weights


def test_all_is_float64_and_the_loss_is_summed():
    problem = build_rank_problem(DIGITS)

    assert problem.dtype == torch.float64
    assert problem.reduction == "sum"
    X, Y, (A, B, C) = arrays(problem)
    assert {a.dtype for a in (X, Y, A, B, C)} == {np.dtype(np.float64)}
    residuals = X @ A.T @ B.T @ C.T - Y
    half = 0.5 * (residuals**2).sum()
    assert problem.evaluate().loss == pytest.approx(half, rel=1e-12)


def test_log_cosh_and_cross_entropy_are_sums_too():
    X, Y, (A, B, C) = arrays(build_rank_problem(replace(DIGITS, loss="logcosh")))
    outputs = X @ A.T @ B.T @ C.T
    problem = build_rank_problem(replace(DIGITS, loss="logcosh"))
    value = np.log(np.cosh(outputs - Y)).sum()
    assert problem.evaluate().loss == pytest.approx(value, rel=1e-12)

    problem = build_rank_problem(replace(DIGITS, loss="cross_entropy"))
    _, labels, _ = arrays(problem)
    assert np.array_equal(np.eye(10)[labels], Y)
    logs = np.log(np.exp(outputs).sum(axis=1)) - outputs[np.arange(30), labels]
    assert problem.evaluate().loss == pytest.approx(logs.sum(), rel=1e-12)


def test_only_samples_of_the_first_classes_are_taken_and_no_target_is_empty():
    point = replace(DIGITS, classes=3, num_samples=40)
    X, Y, weights = arrays(build_rank_problem(point))

    everything = data.load("digits", num_samples=1500)
    images, labels = everything.tensors()
    kept = labels < 3
    assert np.array_equal(Y.argmax(axis=1), labels[kept][:40].numpy())
    expected = data.downscale(images[kept][:40], 16)
    assert np.array_equal(X, expected.numpy())
    assert (Y.sum(axis=1) == 1).all()
    assert weights[-1].shape == (3, 5)


def test_two_classes_have_two_outputs():
    point = replace(DIGITS, classes=2)

    _, Y, weights = arrays(build_rank_problem(point))

    assert Y.shape == (30, 2)
    assert weights[-1].shape == (2, 5)


def test_the_seed_decides_the_weights_and_only_drawn_data():
    X, _, A = arrays(build_rank_problem(DIGITS))
    X2, _, A2 = arrays(build_rank_problem(replace(DIGITS, seed=1)))
    assert np.array_equal(X, X2)
    assert not np.array_equal(A[0], A2[0])

    X, _, _ = arrays(build_rank_problem(MIXTURE))
    X2, _, _ = arrays(build_rank_problem(replace(MIXTURE, seed=1)))
    X3, _, _ = arrays(build_rank_problem(replace(MIXTURE, activation="tanh")))
    assert not np.array_equal(X, X2)
    assert np.array_equal(X, X3)


def test_biases_are_drawn_so_that_the_point_is_generic():
    model = build_rank_problem(replace(DIGITS, bias=True)).model

    biases = [p.detach() for n, p in model.named_parameters() if n.endswith("bias")]
    assert len(biases) == 3
    assert all(bool(bias.all()) for bias in biases)


def test_torchs_own_stream_is_left_alone():
    before = torch.random.get_rng_state()

    build_rank_problem(DIGITS)

    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("units", [(), (3,), (7, 2, 9)])
@pytest.mark.parametrize("channels", ["first", "all"])
def test_the_number_of_parameters_is_known_beforehand(units, bias, channels):
    point = replace(DIGITS, units=units, bias=bias, channels=channels)

    assert guess_params(point) == build_rank_problem(point).num_params


def test_the_first_100_mnist_images_have_rank_41():
    point = RankPoint(data_root=root_of("mnist"))

    inputs, _ = load_samples(point)

    assert inputs.shape == (100, 64)
    assert np.linalg.matrix_rank(inputs.numpy()) == 41


def test_all_colours_of_cifar_make_three_times_the_inputs():
    point = RankPoint(
        data="cifar10", data_root=root_of("cifar10"), dim=25, channels="all"
    )

    inputs, _ = load_samples(replace(point, num_samples=5))

    assert inputs.shape == (5, 75)
    assert guess_params(point) == 75 * 10 + 100 + 100


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"dim": 17}, "`dim` must be a square number; got 17"),
        ({"data": "imagenet"}, "`data` must be one of"),
        ({"units": (4, 0)}, "`units` must be at least 1"),
        ({"classes": 0}, "`classes` must be at least 1"),
        ({"classes": 1, "loss": "cross_entropy"}, "`classes` must be at least 2"),
        ({"num_samples": 0}, "`num_samples` must be at least 1"),
        ({"loss": "hinge"}, "`loss` must be one of"),
        ({"init": "xavier"}, "`init` must be one of"),
        ({"activation": "gelu"}, "`activation` must be one of"),
        ({"resize": "cubic"}, "`resize` must be one of"),
        ({"channels": "red"}, "`channels` must be one of"),
        ({"certify": "maybe"}, "`certify` must be one of"),
        ({"seed": -1}, "`seed` must be at least 0"),
    ],
)
def test_wrong_values_are_refused_without_looking_at_data(change, text, monkeypatch):
    monkeypatch.setattr(data, "load", None)

    with pytest.raises(ValueError, match=text):
        check_point(replace(DIGITS, **change))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_samples": 2000}, "`num_samples` must be at most 1500, the samples of"),
        ({"classes": 11}, "`classes` must be at most 10, the classes of digits"),
        ({"dim": 81}, "`dim` must be at most 64 for images of 8 x 8 pixels"),
    ],
)
def test_what_the_data_do_not_have_is_refused(change, text):
    with pytest.raises(ValueError, match=text):
        check_points([DIGITS, replace(DIGITS, **change)])


def test_a_mixture_may_have_any_dimension():
    check_points([replace(MIXTURE, dim=17, classes=1)])


def test_a_measurement_holds_ranks_facts_and_predictions_as_plain_values():
    record = measure(MIXTURE)

    # r = 12, k = q = s = 4, M = 11, L = 3: section 4 of the published formulas.
    assert record["ggn_rank"] == 4 * (12 + 4 - 4)
    assert record["hessian_rank"] == 2 * 4 * 11 - 3 * 16 + 4 * (12 + 4)
    assert record["functional_rank"] == 2 * 4 * 11 + 2 * 16 - 3 * 16
    for name, rank in (("ggn", 48), ("hessian", 104), ("functional", 72)):
        assert record[f"{name}_predicted"] == rank
        assert record[f"{name}_claim"] == "equal"
        assert record[f"{name}_certified"] == rank
        assert record[f"{name}_verdict"] == "certified"
        assert record[f"{name}_gap"] > 1e3
    assert record["num_params"] == 12 * 6 + 6 * 5 + 5 * 4
    assert record["input_rank"] == 12
    plain = (bool, int, float, str, type(None))
    assert all(isinstance(value, plain) for value in record.values())
