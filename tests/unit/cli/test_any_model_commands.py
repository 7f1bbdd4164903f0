"""``curvescope experiment loss-surface`` and ``homogeneity``: one model, one folder."""

import json

import pytest
import torch

from curvescope.analysis.displacement import Displacements
from curvescope.cli.main import main
from curvescope.cli.positional import without_option
from curvescope.models import build
from curvescope.results import Homogeneity, LossSurface, load

NAMES = ("loss-surface", "homogeneity")
COMMON = ["--data", "digits", "--model-arg", "hidden=[3]", "--num-samples", 20]
MORE = {
    "loss-surface": ["--num-points", 4],
    "homogeneity": ["--step-lengths", 0.1, 1.0, "--num-draws", 2],
}


def write(path, seed=0):
    model = build("mlp", hidden=(3,), generator=torch.Generator().manual_seed(seed))
    torch.save(model.state_dict(), path)


@pytest.fixture
def run(tmp_path):
    write(tmp_path / "weights.pt")

    def run(name, *words, out="run"):
        first = ["experiment", name, "mlp", "--weights", tmp_path / "weights.pt"]
        given = [*first, *COMMON, *MORE[name], *words, "--out", tmp_path / out]
        return main([str(word) for word in given])

    return run


@pytest.mark.parametrize("name", NAMES)
def test_a_finished_folder_is_returned_and_nothing_evaluated(
    name, run, tmp_path, capsys, monkeypatch
):
    assert run(name) == 0
    first = capsys.readouterr().out
    page = (tmp_path / "run/report.html").read_text()
    assert "20 right" in page or "of 20" in page  # what shows that the parts agree
    monkeypatch.setattr(Displacements, "evaluate", None)

    assert run(name) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize("name", NAMES)
def test_other_weights_under_the_same_name_are_refused(name, run, tmp_path, capsys):
    assert run(name) == 0
    write(tmp_path / "weights.pt", seed=1)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run/*")}

    assert run(name) == 2

    assert "other weights, data or code under the same names" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run/*")} == files


def test_other_test_images_are_another_run(run, tmp_path, capsys):
    assert run("homogeneity", "--test-samples", 10) == 0
    assert run("homogeneity", "--test-samples", 11) == 2
    assert "test_samples: 10 there, 11 now" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_command_goes_on_and_leaves_whole_files(
    name, run, tmp_path, capsys, monkeypatch
):
    assert run(name, out="whole") == 0
    evaluate, calls = Displacements.evaluate, []

    def interrupted(self, *arguments, **options):
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Displacements, "evaluate", interrupted)
        assert run(name) == 130
    assert "goes on from here" in capsys.readouterr().err
    folder = tmp_path / "run"
    assert not (folder / "report.html").exists()
    for path in folder.rglob("*"):
        assert path.is_dir() or path.suffix in (".json", ".safetensors"), path
        if path.suffix == ".json":
            json.loads(path.read_text())
    monkeypatch.setattr(Displacements, "evaluate", interrupted)

    assert run(name) == 0

    rows = 4 if name == "loss-surface" else 6
    assert len(calls) == rows + 1  # none twice but the one that was interrupted
    kind = LossSurface if name == "loss-surface" else Homogeneity
    found, whole = (
        load(tmp_path / out / "results", name.replace("-", "_"))
        for out in ("run", "whole")
    )
    assert isinstance(found, kind)
    assert found.rows() == whole.rows()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("words", [["--model", "lenet"], ["lenet"], ["--model=lenet"]])
def test_the_model_stands_first_or_behind_its_option(name, words, capsys):
    assert main(["experiment", name, *words, "--data", "mnist", "--dry-run"]) in (0, 2)

    captured = capsys.readouterr()
    if "No such file" not in captured.err and "mnist" not in captured.err:
        assert "lenet: " in captured.out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["experiment", "homogeneity", "--seed", "1", "--model", "a"], "a --seed 1"),
        (["experiment", "homogeneity", "--model=a", "--seed", "1"], "a --seed 1"),
        (["experiment", "homogeneity", "a", "--seed", "1"], "a --seed 1"),
        (["experiment", "homogeneity", "--model"], "--model"),
    ],
)
def test_an_option_becomes_a_position(words, expected):
    assert without_option(words)[2:] == expected.split()


def test_other_commands_keep_their_option():
    words = ["experiment", "posterior-contraction", "--model", "net"]
    assert without_option(words) == words
    assert without_option(["analyze", "--model", "x"]) == ["analyze", "--model", "x"]


def test_the_preset_s_own_network_is_trained_first(tmp_path, capsys):
    words = ["--num-points", "3", "--directions", "random", "--num-samples", "100"]
    words += ["--epochs", "40", "--out", str(tmp_path / "run")]
    assert main(["experiment", "loss-surface", *words]) == 0

    surface = load(tmp_path / "run/results", "loss_surface")
    training = load(tmp_path / "run/results", "training")
    final = float(training.final("train_loss"))
    assert surface.loss == pytest.approx(final, rel=1e-5)
    assert surface.loss < 0.9 * float(training.train_loss[0])
    assert not any("untrained" in note for note in surface.notes)
    checks = json.loads((tmp_path / "run/report.json").read_text())["checks"]
    assert checks["weights"] == "random, then trained for 40 epochs"
    assert float(checks["loss"].split()[0]) == pytest.approx(surface.loss, rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_dry_run_counts_passes_and_products_and_writes_nothing(
    name, run, tmp_path, capsys
):
    assert run(name, "--dry-run") == 0

    printed = capsys.readouterr().out
    # 64 pixels, 3 hidden neurons, 10 classes.
    assert " 235 " in printed
    passes = 16 if name == "loss-surface" else 3 * 2 * 3
    assert f"{passes} forward passes" in printed
    products = 2 if name == "loss-surface" else 6
    assert f"1 runs, {products} matrix products" in printed
    assert "hours" in printed
    assert not (tmp_path / "run").exists()
