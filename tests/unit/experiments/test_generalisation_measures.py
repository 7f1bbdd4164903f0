"""Measures of trained networks: closed forms, and the family at toy size."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from curvescope import models
from curvescope.experiments.conv_measures import CONV_MEASURES
from curvescope.experiments.generalisation_measures import (
    MEASURES,
    GeneralisationMeasures,
    generalisation_measures,
    plan,
)
from curvescope.experiments.norms import (
    path_norm,
    sharpness,
    spectral_complexity,
    without_batch_norm,
)

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
    module = "curvescope.experiments.measured_family"
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


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"data": "mnist"}, "`data` must be"),
        ({"label_noise": 0.1}, "`label_noise` must be 0.0 in the published setting"),
        ({"weight_decays": (0.0,)}, "`weight_decays` must be"),
        ({"steps": 5}, "`steps` must be None in the published setting"),
        ({"num_probes": 1}, "`num_probes` must be at least 2"),
    ],
)
def test_the_published_setting_is_not_changed_by_halves(change, text):
    config = GeneralisationMeasures(preset="paper", **change)
    with pytest.raises(ValueError, match=text):
        generalisation_measures(config)


def test_the_plan_of_the_small_family_counts_it():
    made = plan(GeneralisationMeasures(seeds=3))
    assert made.runs == 7 * 3 * 2 * 3
    assert made.rows[0].num_params == 65 * 4 + 50


# Published numbers of parameters, depths 0 to 8.
NARROWEST = [620, 1332, 3332, 9636, 9792, 10392, 12744, 12900, 13500]


def test_the_published_family_is_planned_with_its_numbers():
    made = plan(GeneralisationMeasures(preset="paper"))
    sizes = [row.num_params for row in made.rows]
    assert made.runs == len(sizes) == 144
    # Depth by depth, 16 widths each.
    assert sizes[::16] == NARROWEST
    assert sizes[15] == 8420
    assert sizes[-1] == 2_564_580
    assert {row.num_steps for row in made.rows} == {200 * 391}
    assert {row.num_matvecs for row in made.rows} == {400}
    fewer = plan(GeneralisationMeasures(preset="paper", epochs=1, num_steps=1))
    assert 0.0 < fewer.hours < made.hours / 50.0


def conv():
    """Two blocks with moments as after a training."""
    generator = torch.Generator().manual_seed(2)
    net = models.build("convnet", generator=generator, init_channels=2, depth=1)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                for t in (module.weight, module.bias, module.running_mean):
                    t.copy_(torch.randn(t.shape, generator=generator))
                module.running_var.copy_(torch.rand(t.shape, generator=generator) + 0.5)
    return net.eval()


def test_a_network_without_its_batch_norms_is_the_same_function():
    net = conv()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    bare = without_batch_norm(net)

    torch.testing.assert_close(bare(images), net(images), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in bare.modules())
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    alone = nn.Sequential(nn.BatchNorm2d(3)).eval()
    with pytest.raises(ValueError, match="each batch norm right after a convolution"):
        without_batch_norm(alone)


def test_the_path_norm_of_a_convolution_is_that_of_its_sums():
    """Inside the image every output is the sum of all squared weights, and the bias."""
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)).eval()
    norm = net[1]
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, -0.5]))
        norm.bias.copy_(torch.tensor([0.3, -1.0]))
        norm.running_mean.copy_(torch.tensor([0.7, 0.1]))
        norm.running_var.copy_(torch.tensor([4.0, 0.25]))
    W, b = (p.detach().double().numpy() for p in net[0].parameters())
    total = 0.0
    for k, (gain, shift, mean, var) in enumerate(
        [(2.0, 0.3, 0.7, 4.0), (-0.5, -1.0, 0.1, 0.25)]
    ):
        scale = gain / math.sqrt(var + norm.eps)
        total += (scale**2) * (W[k] ** 2).sum() + ((b[k] - mean) * scale + shift) ** 2
    assert path_norm(net, (3, 3, 3)) == pytest.approx(math.sqrt(total), rel=1e-6)


def test_sharpness_in_batches_is_that_of_all_at_once():
    net = conv()
    images = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    labels = net(images).argmax(dim=1)
    for aware in (False, True):
        whole = sharpness(net, images, labels, magnitude_aware=aware, num_draws=5)
        parts = sharpness(
            net, images, labels, magnitude_aware=aware, num_draws=5, batch_size=5
        )
        assert parts == pytest.approx(whole, rel=1e-6)
        assert math.isfinite(whole)


@pytest.mark.slow
def test_the_first_published_network_is_measured_on_real_images(tmp_path, monkeypatch):
    root = Path(os.environ.get("CURVESCOPE_TEST_DATA", "../shared/data"))
    if not (root / "cifar100").is_dir():
        pytest.skip(f"no folder {root / 'cifar100'}")
    config = GeneralisationMeasures(
        preset="paper", data_root=root, widths=(4,), depths=(0, 1), epochs=2,
        num_samples=256, num_probes=2, num_steps=3, small_train_loss=10.0,
    )  # fmt: skip

    found = generalisation_measures(config, folder=tmp_path)

    records = found["comparison"].records
    assert [record["num_params"] for record in records] == NARROWEST[:2]
    for record in records:
        assert {*CONV_MEASURES, "loss_gap", "test_error"} <= set(record)
        # Four steps: about as good as chance, the shallowest somewhat worse.
        assert abs(record["train_loss"] - math.log(100)) < 2.0
        low, high = (record[f"effective_dimension_{end}"] for end in ("low", "high"))
        assert low <= record["effective_dimension"] <= high
        assert record["path_norm"] > 0.0
    assert {row.measure for row in found["correlations"].correlations}
    monkeypatch.setattr("curvescope.experiments.conv_nets.train", None)
    again = generalisation_measures(config, folder=tmp_path)
    assert str(again["comparison"].records) == str(records)
