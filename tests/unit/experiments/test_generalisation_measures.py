"""Measures of trained networks: closed forms, and the family at toy size."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from curvescope import models
from curvescope.experiments.generalisation_measures import (
    MEASURES,
    GeneralisationMeasures,
    generalisation_measures,
    plan,
)
from curvescope.experiments.norms import path_norm, sharpness, spectral_complexity

TOY = {
    "widths": (4, 5),
    "depths": (1,),
    "weight_decays": (0.0, 0.01),
    "seeds": 2,
    "steps": 150,
    "num_samples": 25,
    "small_train_loss": 10.0,
    "jobs": 1,
}


@pytest.fixture
def net():
    generator = torch.Generator().manual_seed(3)
    sizes = {"in_features": 3, "hidden": (4, 2), "num_classes": 2}
    return models.build("mlp", generator=generator, activation="relu", **sizes)


def test_the_path_norm_is_the_sum_over_all_paths(net):
    """By going along every path from every input, and from every bias."""
    W1, b1, W2, b2, W3, b3 = (p.detach().double().numpy() for p in net.parameters())
    total = 0.0
    for k in range(2):
        total += b3[k] ** 2
        for j in range(2):
            total += (W3[k, j] * b2[j]) ** 2
            for i in range(4):
                total += (W3[k, j] * W2[j, i] * b1[i]) ** 2
                for d in range(3):
                    total += (W3[k, j] * W2[j, i] * W1[i, d]) ** 2
    assert path_norm(net, 3) == pytest.approx(math.sqrt(total), rel=1e-12)


def test_the_path_norm_does_not_see_weights_moved_between_layers(net):
    before = path_norm(net, 3)
    layers = [module for module in net if isinstance(module, nn.Linear)]
    with torch.no_grad():
        layers[0].weight.mul_(4.0)
        layers[0].bias.mul_(4.0)
        layers[1].weight.div_(4.0)
    assert path_norm(net, 3) == pytest.approx(before, rel=1e-6)


def test_the_spectral_complexity_is_that_of_numpy(net):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(40, 3, generator=generator)
    y = net(X).argmax(dim=1)
    outputs = net(X).detach().double().numpy()
    own = outputs[np.arange(40), y]
    margin = np.quantile(own - outputs[np.arange(40), 1 - y], 0.1)
    matrices = [p.detach().double().numpy() for p in net.parameters() if p.ndim == 2]
    product = math.prod(np.linalg.norm(W, 2) for W in matrices)
    ratios = sum((np.linalg.norm(W) / np.linalg.norm(W, 2)) ** 2 for W in matrices)

    found = spectral_complexity(net, X, y)

    assert found == pytest.approx(product * math.sqrt(ratios) / margin, rel=1e-6)
    assert math.isnan(spectral_complexity(net, X, 1 - y))


def test_sharpness_is_that_of_a_single_threshold():
    """sign(w + sigma e) of w = 1 is wrong with probability Phi(-1 / sigma)."""
    net = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[-0.5], [0.5]]))
    X, y = torch.ones(1, 1), torch.ones(1, dtype=torch.int64)
    # The difference of both weights is N(1, 2 sigma^2): wrong for a tenth of the draws
    # where 1 / (sqrt(2) sigma) = 1.2816.
    wanted = 2.0 * 1.2816**2

    found = sharpness(net, X, y, num_draws=20_000)

    assert found == pytest.approx(wanted, rel=0.05)


def test_sharpness_grows_as_the_weights_shrink(net):
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(50, 3, generator=generator)
    y = net(X).argmax(dim=1)
    plain = sharpness(net, X, y)
    aware = sharpness(net, X, y, magnitude_aware=True)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(0.5)

    # A noise half as large does the same to weights half as large.
    assert sharpness(net, X, y) > 2.0 * plain
    smaller = sharpness(net, X, y, magnitude_aware=True)
    assert smaller == pytest.approx(aware, rel=0.15)


def test_sharpness_of_what_no_noise_changes_is_no_number():
    net = nn.Linear(1, 1, bias=False)
    X, y = torch.ones(4, 1), torch.zeros(4, dtype=torch.int64)
    assert math.isnan(sharpness(net, X, y))


@pytest.fixture(scope="module")
def family():
    return generalisation_measures(GeneralisationMeasures(**TOY))


def test_every_network_has_every_measure(family):
    records = family["comparison"].records
    assert len(records) == 8
    for record in records:
        assert {*MEASURES, "test_loss", "train_loss", "test_error"} <= set(record)
        gap = record["test_loss"] - record["train_loss"]
        assert record["loss_gap"] == pytest.approx(gap)
    first = records[0]
    assert first["num_params"] == 65 * first["width"] + (first["width"] + 1) * 10


def test_correlations_are_told_for_all_and_for_each_training(family):
    table = family["correlations"].correlations
    among = {row.among for row in table}
    assert among == {"train loss below 10", "weight decay 0", "weight decay 0.01"}
    assert len(table) == 3 * len(MEASURES)
    assert all(row.num_points in (4, 8) for row in table if "margin" not in row.measure)


def test_finished_networks_are_not_trained_again(tmp_path, monkeypatch):
    config = GeneralisationMeasures(**{**TOY, "widths": (4,), "seeds": 1})
    first = generalisation_measures(config, folder=tmp_path)
    module = "curvescope.experiments.generalisation_measures"
    monkeypatch.setattr(f"{module}.train_many", None)

    again = generalisation_measures(config, folder=tmp_path)

    # As text, in which what is no number is equal to itself.
    assert str(again["comparison"].records) == str(first["comparison"].records)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"widths": ()}, "`widths` must hold at least one number"),
        ({"depths": (0,)}, "`depths` must be at least 1"),
        ({"weight_decays": (-1.0,)}, "`weight_decays` must be"),
        ({"label_noise": 1.5}, "`label_noise` must be from 0 to 1"),
        ({"num_samples": 5000}, "`num_samples` must be at most"),
        ({"z": 0.0}, "`z` must be"),
    ],
)
def test_a_wrong_configuration_is_refused(change, text):
    with pytest.raises(ValueError, match=text):
        generalisation_measures(GeneralisationMeasures(**{**TOY, **change}))


def test_the_plan_counts_the_family():
    made = plan(GeneralisationMeasures(preset="paper"))
    assert made.runs == 12 * 5 * 3 * 5
    assert made.rows[0].num_params == 784 * 4 + 4 + 50
