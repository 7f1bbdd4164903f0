"""Norms of untrained networks and along trainings: against dense autodiff and torch."""

import csv
import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, jacrev

from curvescope.cli.main import main
from curvescope.experiments import experiment, init_nets
from curvescope.experiments.base import decisive, filled
from curvescope.experiments.init_nets import Probe, network, point_of, sets_of
from curvescope.experiments.init_sweep import InitSweep, init_sweep, points_of
from curvescope.experiments.init_training import InitTrainingConfig, init_training
from curvescope.plots import plot
from curvescope.results import load

TOY = {
    "hidden": (5, 4),
    "seeds": 2,
    "steps": 6,
    "every": 3,
    "num_probe": 40,
    "num_train": 60,
    "batch_size": 8,
    "jobs": 1,
}


def toy_point(**changes):
    config = filled(InitSweep(**TOY))
    point = point_of(config, scheme="published", sd=0.3)
    return dataclasses.replace(point, **changes)


def dense_norms(model, images, labels):
    """Return each kernel's Hessian norm by dense autodiff in float64."""
    model = model.double()
    state = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weight, name):
        outputs = functional_call(model, {**state, name: weight}, (images.double(),))
        return F.cross_entropy(outputs, labels)

    return [
        float(jacrev(torch.func.grad(loss))(value, name).norm())
        for name, value in state.items()
        if name.endswith("weight")
    ]


def test_recorded_norms_are_those_of_dense_hessians_of_the_kernels():
    point = toy_point()
    images, labels = sets_of(point).probe
    records = [r for r in init_nets.measure(point)["records"] if r["iteration"] == 0]

    for record in records:
        model = network(point, record["seed"])
        expected = dense_norms(model, images, labels)
        found = [record[f"linear{k}_norm"] for k in (1, 2, 3)]
        assert found == pytest.approx(expected, rel=1e-10)
        assert record["linear1_curvature_norm"] == 0.0
        loss = F.cross_entropy(model(images.double()), labels)
        assert record["loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_the_norm_along_the_training_is_that_of_the_present_weights():
    point = toy_point(batches="same", seeds=1)
    images, labels = sets_of(point).probe
    records = init_nets.measure(point)["records"]
    X, y = init_nets._drawn(point, 0, sets_of(point))
    model = network(point, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=point.learning_rate)

    for record in records:
        assert record["iteration"] == 3 * records.index(record)
        copied = network(point, 0)
        copied.load_state_dict(model.state_dict())
        expected = dense_norms(copied, images, labels)
        assert record["linear1_norm"] == pytest.approx(expected[0], rel=1e-4)
        loss = F.cross_entropy(model(X), y).item()
        assert record["trained_loss"] == pytest.approx(loss, rel=1e-4)
        for _ in range(point.every):
            optimizer.zero_grad()
            F.cross_entropy(model(X), y).backward()
            optimizer.step()


def test_fresh_batches_differ_from_step_to_step_and_the_same_ones_do_not():
    fresh, same = toy_point(), toy_point(batches="same")
    sets = sets_of(fresh)
    assert len(init_nets._drawn(fresh, 0, sets)[1]) == 60
    chosen = [init_nets._drawn(same, seed, sets)[0] for seed in (0, 1)]
    assert all(len(images) == same.batch_size for images in chosen)
    assert not torch.equal(*chosen)
    # Each of them is a training image.
    rows = {tuple(row) for row in sets.train[0].tolist()}
    assert all(tuple(row) in rows for row in chosen[0].tolist())


def test_a_probe_measures_every_network_by_its_own_weights_and_leaves_it():
    point = toy_point()
    models = [network(point, seed) for seed in (0, 1)]
    before = [p.clone() for m in models for p in m.parameters()]
    probe = Probe(models[0], sets_of(point).probe)

    norms = [probe.norms(model) for model in (*models, models[0])]

    assert norms[0] == norms[2] != norms[1]
    after = [p for m in models for p in m.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.dtype == torch.float32 for p in after)


def test_only_the_first_layer_varies_or_all_of_them():
    weights = {}
    for vary in ("layer1", "all"):
        trained, _ = points_of(InitSweep(vary=vary, sd=(1e-3, 0.5), **TOY))
        nets = [network(trained[sd], 0) for sd in (1e-3, 0.5)]
        weights[vary] = [[p.norm().item() for p in n.parameters()] for n in nets]
    for vary, moved in (("layer1", (0,)), ("all", (0, 2, 4))):
        small, large = weights[vary]
        for place in (0, 2, 4):
            ratio = large[place] / small[place]
            expected = 500.0 if place in moved else 1.0
            assert ratio == pytest.approx(expected, rel=1e-5)
        assert [small[place] for place in (1, 3, 5)] == [0.0, 0.0, 0.0]


def test_the_published_layers_after_the_first_are_glorot_uniform():
    point = toy_point(hidden=(400, 300), sd=0.05)
    first, second, third = (
        p.detach() for p in network(point, 0).parameters() if p.ndim == 2
    )
    assert float(first.std()) == pytest.approx(0.05, rel=0.02)
    for weight in (second, third):
        half = math.sqrt(6.0 / sum(weight.shape))
        assert float(weight.abs().max()) <= half
        assert float(weight.std()) == pytest.approx(half / math.sqrt(3), rel=0.03)


def test_the_sweep_has_all_sds_and_its_summary_is_the_group_by():
    results = init_sweep(InitSweep(sd=(0.01, 1.0), fine=(0.1, 1.0), **TOY))
    training, scan = results["init_sweep"], results["untrained"]

    assert training.sds == (0.01, 1.0)
    assert scan.sds == (0.01, 0.1, 1.0)
    assert training.iterations == (0, 3, 6)
    columns = ["sd", "batches", "seed", "iteration", "loss", "hessian_norm"]
    assert list(training.rows()[0])[:6] == columns
    (row,) = (r for r in results["summary"].rows() if r["sd"] == 1.0)
    values = [r["hessian_norm"] for r in training.rows() if r["sd"] == 1.0]
    assert len(values) == 6
    mean = sum(values) / 6
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / 5)
    assert row["hessian_norm"] == pytest.approx(mean)
    assert row["hessian_norm_sd"] == pytest.approx(deviation)
    # Before the training both results tell the same of the same networks.
    start = training.curve("hessian_norm", sd=1.0, batches="fresh")[:, 0]
    assert torch.equal(start, scan.values("linear1_norm")[2])


def test_a_training_that_diverges_is_told_and_disturbs_nothing():
    config = InitTrainingConfig(sd=(0.1, 50.0), learning_rate=1e30, **TOY)
    training = init_training(config)["init_training"]

    assert any("diverged" in note for note in training.notes)
    last = [r for r in training.records if r["iteration"] > 0]
    assert {r["loss"] for r in last} == {None}
    assert {r["hessian_norm"] for r in last} == {None}
    assert all(r["hessian_norm"] > 0 for r in training.records if not r["iteration"])
    plot(training)


def test_both_kinds_of_batches_start_from_the_same_networks(tmp_path):
    training = init_training(InitTrainingConfig(sd=(0.1,), **TOY))["init_training"]

    assert training.batches == ("fresh", "same")
    norms = {
        k: training.curve("hessian_norm", sd=0.1, batches=k) for k in ("fresh", "same")
    }
    assert torch.equal(norms["fresh"][:, 0], norms["same"][:, 0])
    assert not torch.equal(norms["fresh"][:, 1], norms["same"][:, 1])
    training.save(tmp_path, "it")
    kept = load(tmp_path, "it")
    assert kept.rows() == training.rows()
    assert str(kept) == str(training)


@pytest.mark.parametrize("name", ["init-sweep", "init-training", "init-compare"])
def test_a_sweep_goes_on_in_its_folder(name, tmp_path):
    row = experiment(name)
    axis = "schemes" if name == "init-compare" else "sd"
    first, more = (
        (("he",), ("he", "lecun")) if axis == "schemes" else ((0.1,), (0.1, 1.0))
    )
    extra = {"fine": (0.2,)} if name == "init-sweep" else {}
    row.run(row.config(**{axis: first}, **extra, **TOY), folder=tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("points/*.json")}
    assert kept

    row.run(row.config(**{axis: more}, **extra, **TOY), folder=tmp_path)

    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list(tmp_path.glob("points/*.json"))) > len(kept)


def test_the_command_leaves_the_published_table_two_panels_and_a_page(tmp_path, capsys):
    out = tmp_path / "run"
    words = [
        "experiment", "init-sweep", "--hidden", "5,4", "--sd", "0.01,1", "--fine", "0.1",
        "--seeds", "1", "--steps", "4", "--every", "2", "--num-probe", "30",
        "--num-train", "50", "--batch-size", "8", "--jobs", "1",
    ]  # fmt: skip

    assert main([*words, "--out", str(out)]) == 0

    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert [(r["sd"], r["iteration"]) for r in rows] == [
        (sd, step) for sd in ("0.01", "1.0") for step in ("0", "2", "4")
    ]
    assert {"loss", "hessian_norm", "linear2_curvature_norm"} <= set(rows[0])
    assert json.loads((out / "report.json").read_text())["results"] == [
        "init_sweep", "summary", "untrained",
    ]  # fmt: skip
    for name in ("init_sweep", "untrained"):
        assert (out / "figures" / f"{name}.png").is_file()
    assert (out / "summary.csv").is_file()
    page = (out / "report.html").read_text()
    assert "Untrained networks against" in page
    assert "64-5-4-10 relu" in page
    printed = capsys.readouterr().out
    assert main([*words, "--out", str(out)]) == 0
    assert capsys.readouterr().out == printed


def test_the_figure_has_a_loss_and_a_norm_panel_for_each_kind_of_batches():
    training = init_training(InitTrainingConfig(sd=(0.1, 1.0), **TOY))["init_training"]

    figure = plot(training)

    assert len(figure.axes) == 4
    losses, _, norms, _ = figure.axes
    # One line a deviation; of the same batch the loss on it besides, dashed.
    assert [len(axes.lines) for axes in figure.axes] == [2, 4, 2, 2]
    assert losses.get_ylabel().startswith("loss")
    assert "Hessian norm" in norms.get_ylabel()
    drawn = norms.lines[0].get_ydata()
    curve = training.curve("hessian_norm", sd=0.1, batches="fresh")
    assert drawn == pytest.approx(curve.numpy().mean(axis=0))  # the median of two
    narrow = plot(training, size=(3.4, 9.0))
    assert len({axes.get_position().x0 for axes in narrow.axes}) == 1


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"sd": ()}, "`sd` must hold at least one number"),
        ({"sd": (0.1, 0.1)}, "`sd` must have no repetition"),
        ({"fine": (-1.0,)}, "`fine` must be above 0"),
        ({"vary": "layer2"}, "`vary` must be one of"),
        ({"batches": "old"}, "`batches` must be one of"),
        ({"activation": "cosine"}, "`activation` must be one of"),
        ({"hidden": ()}, "`hidden` must hold at least one number"),
        ({"num_probe": 2000}, "`num_probe` must be at most 1500"),
        ({"learning_rate": 0.0}, "`learning_rate` must be above 0"),
    ],
)
def test_a_wrong_configuration_says_what_is_wrong(changes, text):
    with pytest.raises(ValueError, match="must") as caught:
        experiment("init-sweep").check(InitSweep(**changes))
    assert text in str(caught.value)


def test_absent_data_are_an_error_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr("curvescope.data.sets._fetch_split", lambda *a: None)
    config = InitSweep(data="mnist", data_root=tmp_path)
    with pytest.raises(FileNotFoundError, match="mnist"):
        experiment("init-sweep").check(config)


@pytest.mark.parametrize("name", ["init-sweep", "init-training", "init-compare"])
def test_the_plan_counts_the_published_networks(name):
    row = experiment(name)
    config = filled(row.config(preset="paper"))
    made = row.plan(config)
    assert {r.num_params for r in made.rows} == {785 * 30 + 31 * 30 + 31 * 10}
    assert all(r.runs == config.seeds for r in made.rows)
    assert made.hours > 0.0
    assert decisive(config)["data"] == "mnist"
