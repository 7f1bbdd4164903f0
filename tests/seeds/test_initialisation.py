"""Initial weights and the Hessian's layers: the published notebook's questions, answered."""

import dataclasses
import math
import time

import pytest
import torch

from curvescope.experiments import init_nets
from curvescope.experiments.base import filled
from curvescope.experiments.init_nets import Probe, network, point_of, sets_of
from curvescope.experiments.init_sweep import InitSweep, init_sweep, points_of
from curvescope.experiments.init_training import InitTrainingConfig, init_training

LAYERS = ("linear1_norm", "linear2_norm", "linear3_norm")


def norms(scheme, sd=0.0, seeds=3, **changes):
    """Return the norms of untrained networks on digits, (seeds, layers)."""
    config = filled(InitSweep(num_probe=256, **changes))
    point = point_of(config, scheme=scheme, sd=sd, trained=False)
    point = dataclasses.replace(point, seeds=seeds)
    models = [network(point, seed) for seed in range(seeds)]
    probe = Probe(models[0], sets_of(point).probe)
    rows = [[probe.norms(model)[name] for name in LAYERS] for model in models]
    return torch.tensor(rows, dtype=torch.float64)


def test_the_first_layers_norm_hardly_knows_its_own_sd_until_predictions_are_extreme():
    found = {sd: norms("published", sd).mean(0) for sd in (1e-5, 0.01, 0.3, 3.0, 10.0)}

    small = float(found[1e-5][0])
    assert 0.8 < small < 1.8
    assert float(found[0.01][0]) == pytest.approx(small, rel=0.02)
    assert float(found[0.3][0]) == pytest.approx(small, rel=0.25)
    assert float(found[3.0][0]) < 0.5 * small
    assert float(found[10.0][0]) < 0.2 * small
    # The others see it as the scale of their inputs, or of what comes back.
    for layer in (1, 2):
        assert float(found[0.01][layer] / found[1e-5][layer]) == pytest.approx(
            1e6, rel=0.05
        )


def test_all_layers_vanish_and_explode_with_the_sd_of_all():
    found = {sd: norms("normal", sd).mean(0) for sd in (1e-5, 0.01, 0.1, 0.3, 1.0)}

    # While predictions are uniform every norm goes with the fourth power, 2 (L - 1).
    for layer in range(3):
        slope = math.log(float(found[0.01][layer] / found[1e-5][layer])) / math.log(1e3)
        assert slope == pytest.approx(4.0, abs=2e-3)
    assert float(found[1e-5].max()) < 1e-16
    assert 0.05 < float(found[0.1].min()) <= float(found[0.1].max()) < 0.2
    assert 3.0 < float(found[0.3].min()) <= float(found[0.3].max()) < 15.0
    assert float(found[1.0].min()) > 15.0


def test_he_s_networks_are_balanced_and_uniform_positive_ones_are_not():
    he, uniform = norms("he"), norms("uniform")

    assert float((he.amax(1) / he.amin(1)).mean()) < 4.0
    assert float(he.mean(0).min()) > 1.0
    assert float((uniform.amax(1) / uniform.amin(1)).mean()) > 50.0


def test_the_norm_rises_and_falls_with_fresh_batches_and_only_rises_with_the_same():
    config = InitTrainingConfig(
        sd=(0.01,), seeds=2, steps=800, every=100, num_probe=256, jobs=1
    )
    training = init_training(config)["init_training"]
    fresh, same = (
        training.curve("hessian_norm", sd=0.01, batches=kind).mean(dim=0)
        for kind in ("fresh", "same")
    )

    assert fresh[0] < fresh[1:].max() / 2
    assert fresh[-1] < 0.7 * fresh.max()
    assert training.peak(sd=0.01, batches="fresh") < 400
    # Learning 32 images by heart: up to the end above where it was at first.
    assert same[-1] > 5 * same[0]
    assert same[-1] > 0.8 * same.max()
    assert training.peak(sd=0.01, batches="same") >= 100
    loss, trained = (
        training.curve(name, sd=0.01, batches="same").mean(dim=0)
        for name in ("loss", "trained_loss")
    )
    assert trained[-1] < 0.01
    assert loss[-1] > 0.5


def test_no_layer_of_the_published_network_has_a_curvature_part():
    config = InitSweep(sd=(0.01,), fine=(1.0,), seeds=1, steps=20, every=10, jobs=1)
    training = init_sweep(config)["init_sweep"]

    for record in training.records:
        for layer in training.layers:
            assert record[f"{layer}_curvature_norm"] == 0.0
            assert record[f"{layer}_linearisation_norm"] == record[f"{layer}_norm"] > 0


def test_the_published_network_on_real_mnist_is_measured_in_seconds(data_root):
    if not (data_root / "mnist").is_dir():
        pytest.skip(f"no mnist in {data_root}")
    config = InitSweep(data="mnist", data_root=data_root)
    point = next(iter(points_of(config)[0].values()))
    assert init_nets.num_params(point) == 784 * 30 + 30 + 31 * 30 + 31 * 10
    model = network(point, 0)
    probe = Probe(model, sets_of(point).probe)
    probe.norms(model)

    began = time.process_time()
    found = probe.norms(model)

    # All three layers; the matrix of the first alone would take 4.4 GB in float64.
    assert time.process_time() - began < 1.0
    assert 1.0 < found["linear1_norm"] < 20.0


@pytest.mark.slow
def test_the_sweep_on_real_mnist_takes_less_than_two_minutes_of_processor(
    data_root, tmp_path
):
    if not (data_root / "mnist").is_dir():
        pytest.skip(f"no mnist in {data_root}")
    config = InitSweep(data="mnist", data_root=data_root, jobs=1)
    began = time.process_time()
    results = init_sweep(config, folder=tmp_path)

    # A minute on two cores.
    assert time.process_time() - began < 120.0
    training = results["init_sweep"]
    assert training.sds == (1e-5, 0.01, 1.0)
    for sd in (1e-5, 0.01):
        norm = training.curve("hessian_norm", sd=sd, batches="fresh").median(0).values
        assert norm[-1] < norm.max()
