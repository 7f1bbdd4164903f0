"""The ladder: numerical ranks fall, the exact one stays."""

from dataclasses import replace

import numpy as np
import pytest

from curvescope.experiments import PointError
from curvescope.experiments.rank import build_rank_problem
from curvescope.experiments.rank_training import (
    RankInTraining,
    TrainingPoint,
    check_training,
    measure_after_training,
    rank_in_training,
)

SHORT = RankInTraining(epochs=4, every=2, jobs=1)


def point(epoch, **change):
    config = replace(SHORT, **change)
    return TrainingPoint(
        start=config.start(0),
        optimizer=config.optimizer,
        learning_rate=config.learning_rate,
        epoch=epoch,
    )


def descend(problem, rate, steps):
    """Gradient descent of a bias-free linear network's mean loss, by hand."""
    (batch,) = problem.batches()
    X, Y = batch.inputs.numpy(), batch.targets.numpy()
    A, B, C = (p.detach().numpy().copy() for p in problem.model.parameters())
    for _ in range(steps):
        omega = (X @ A.T @ B.T @ C.T - Y).T @ X / len(X)
        gradients = B.T @ C.T @ omega, C.T @ omega @ A.T, omega @ A.T @ B.T
        A, B, C = (W - rate * g for W, g in zip((A, B, C), gradients, strict=True))
    residuals = X @ A.T @ B.T @ C.T - Y
    loss = 0.5 * (residuals**2).sum() / len(X)
    return loss, np.linalg.norm(residuals.T @ X)


def test_training_is_gradient_descent_of_the_mean_loss():
    loss, norm = descend(build_rank_problem(SHORT.start(0)), 0.3, 7)

    value = measure_after_training(point(7))

    assert value["mean_loss"] == pytest.approx(loss, rel=1e-12)
    assert value["residual_norm"] == pytest.approx(norm, rel=1e-12)


def test_a_training_may_go_on_or_begin_again():
    later, earlier = measure_after_training(point(6)), measure_after_training(point(3))
    again = measure_after_training(point(6))

    assert earlier["mean_loss"] > later["mean_loss"]
    assert again["mean_loss"] == later["mean_loss"]


def test_the_numerical_rank_falls_to_that_of_the_ggn_and_the_exact_one_stays():
    config = RankInTraining(every=500, jobs=1)
    sweep = rank_in_training(config)["rank_in_training"]

    assert [record["epoch"] for record in sweep.records] == [*range(0, 2501, 500)]
    ranks = [record["hessian_rank"] for record in sweep.records]
    assert ranks[0] == 104  # q (r + K) + 2 q M - L q^2 of [12, 6, 5, 4]
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[-1] == 48  # q (r + K - q)
    assert {record["ggn_rank"] for record in sweep.records} == {48}
    assert {record["hessian_certified"] for record in sweep.records} == {104}
    assert {record["ggn_certified"] for record in sweep.records} == {48}
    norms = [record["residual_norm"] for record in sweep.records]
    assert norms[0] > 100 > 1e-10 > norms[-1]
    assert any("the exact rank of H is 104 at every epoch" in n for n in sweep.notes)
    for record in sweep.records:
        fallen = record["hessian_rank"] < 104
        assert record["hessian_verdict"] == ("undetermined" if fallen else "certified")


def test_the_last_epoch_is_measured_whatever_the_step():
    sweep = rank_in_training(replace(SHORT, epochs=5))["rank_in_training"]

    assert [record["epoch"] for record in sweep.records] == [0, 2, 4, 5]


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_other_optimizers_train_too(optimizer):
    config = replace(
        SHORT, optimizer=optimizer, learning_rate=0.01, epochs=20, every=20
    )

    first, last = rank_in_training(config)["rank_in_training"].records

    assert last["mean_loss"] < first["mean_loss"]


def test_a_training_that_diverges_names_the_learning_rate():
    config = replace(SHORT, learning_rate=1e6, epochs=50, every=50)

    with pytest.raises(PointError, match=r"epoch=50: .*`learning_rate` must let"):
        rank_in_training(config)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"learning_rate": 0.0}, "`learning_rate` must be above 0"),
        ({"every": 0}, "`every` must be at least 1"),
        ({"epochs": -1}, "`epochs` must be at least 0"),
        ({"seeds": 0}, "`seeds` must be at least 1"),
        ({"optimizer": "sam"}, "`optimizer` must be one of"),
        ({"data": "digits"}, "`dim` must be a square number"),
    ],
)
def test_wrong_configurations_are_refused(change, text):
    with pytest.raises(ValueError, match=text):
        check_training(replace(SHORT, **change))
