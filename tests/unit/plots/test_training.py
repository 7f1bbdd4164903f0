"""Figures of trainings: what is drawn is what was measured."""

import numpy as np
import torch

from curvescope import plots
from curvescope.report.kinds import kind_of
from curvescope.results import Provenance, TrainingResult


def curve(*, networks=1, accuracy=True):
    at = torch.arange(1, 6)
    one = torch.tensor([3.0, 1.0, 0.3, 0.05, 0.01], dtype=torch.float64)
    train = one if networks == 1 else torch.stack([one * k for k in (1, 2, 4)])
    right = torch.exp(-train)
    return TrainingResult(
        at=at,
        learning_rate=torch.full((5,), 0.1, dtype=torch.float64),
        train_loss=train,
        test_loss=train + 1,
        train_accuracy=right if accuracy else None,
        test_accuracy=right / 2 if accuracy else None,
        running_loss=train,
        seeds=tuple(range(networks)),
        of=Provenance(matrix="training", description="MLP, cross_entropy", unit=""),
    )


def test_losses_and_accuracies_are_drawn_where_they_were_measured():
    result = curve()

    loss, accuracy = plots.plot(result).axes

    drawn = {line.get_label(): line.get_xydata() for line in loss.get_lines()}
    np.testing.assert_array_equal(
        drawn["train"], np.c_[result.at.numpy(), result.train_loss.numpy()]
    )
    np.testing.assert_array_equal(
        drawn["test"], np.c_[result.at.numpy(), result.test_loss.numpy()]
    )
    assert loss.get_yscale() == "log"
    assert loss.get_xlabel() == "epochs"
    assert accuracy.get_lines()[0].get_ydata().tolist() == (
        result.train_accuracy.tolist()
    )


def test_of_many_networks_the_median_and_a_band_from_lowest_to_highest_are_drawn():
    result = curve(networks=3, accuracy=False)

    (loss,) = plots.plot(result).axes

    drawn = {line.get_label(): line.get_ydata() for line in loss.get_lines()}
    np.testing.assert_array_equal(
        drawn["train, median of 3"], result.train_loss[1].numpy()
    )
    band = loss.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == float(result.train_loss.min())
    assert band[:, 1].max() == float(result.train_loss.max())


def test_a_network_that_diverged_leaves_the_others_to_be_seen():
    result = curve(networks=3)
    result.train_loss[2, 3:] = torch.nan

    loss = plots.plot(result).axes[0]

    assert np.isfinite(loss.get_lines()[0].get_ydata()).all()


def test_the_page_knows_how_to_present_a_training():
    kind = kind_of(curve(networks=3))

    assert kind.title(curve()) == "Training of MLP"
    assert "over all networks" in kind.reading(curve(networks=3))
    assert "over all networks" not in kind.reading(curve())
