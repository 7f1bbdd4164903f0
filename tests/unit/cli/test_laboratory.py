"""``curvescope experiment`` for the effective-dimension laboratory; plans and presets."""

import csv
import json

import pytest

from curvescope.cli.main import main
from curvescope.experiments import experiment, names
from curvescope.experiments.base import Plan, PlannedRuns, decisive, filled
from curvescope.experiments.random_features import RandomFeatures

TOYS = {
    "random-features": ["--num-samples", 10, "--max-features", 25],
    "posterior-contraction": ["--num-observations", "2,5", "--draws", 1, "--jobs", 1],
    "generalisation-measures": [
        "--widths", "3,4", "--depths", 1, "--weight-decays", 0, "--seeds", 1,
        "--steps", 40, "--num-samples", 20, "--jobs", 1,
    ],
}  # fmt: skip
PLANNED = [name for name in names() if experiment(name).plan is not None]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


def run(*words):
    return main([str(word) for word in words])


@pytest.mark.parametrize("name", TOYS)
def test_every_experiment_leaves_table_figures_and_page(name, out, capsys):
    words = ["experiment", name, *TOYS[name], "--out", out]

    assert run(*words) == 0

    results = json.loads((out / "report.json").read_text())["results"]
    for result in results:
        assert (out / "figures" / f"{result}.png").is_file()
    assert (out / "report.html").is_file()
    printed = capsys.readouterr().out
    # The same command returns what is there, and so does its preset spelled out.
    assert run(*words, "--preset", "small") == 0
    assert capsys.readouterr().out == printed


def test_the_table_of_random_features_has_the_published_columns(out):
    run("experiment", "random-features", *TOYS["random-features"], "--out", out)

    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert list(rows[0]) == [
        "num_features",
        "undetermined_dimension",
        "effective_dimension",
        "train_error",
        "test_error",
    ]
    assert [int(row["num_features"]) for row in rows] == list(range(5, 26, 2))


@pytest.mark.parametrize("name", PLANNED)
def test_a_dry_run_prints_the_plan_and_leaves_nothing(name, out, capsys):
    words = ["experiment", name, "--preset", "paper", "--dry-run", "--out", out]
    assert run(*words) == 0

    printed = capsys.readouterr().out
    made = experiment(name).plan(filled(experiment(name).config(preset="paper")))
    assert printed.strip() == str(made)
    assert "num_params" in printed
    assert f"{made.runs} runs" in printed
    assert made.hours > 0.0
    assert not out.exists()


def test_a_plan_is_not_asked_of_wrong_configurations_or_of_experiments_without(
    out, capsys
):
    words = ["experiment", "random-features", "--draws", 0, "--dry-run", "--out", out]
    assert run(*words) == 2
    assert "`draws` must be at least 1" in capsys.readouterr().err
    words = ["experiment", "rank-vs-width", "--data", "digits", "--dim", 16]
    assert run(*words, "--dry-run", "--out", out) == 2
    error = capsys.readouterr().err
    assert "`--dry-run` must be asked of an experiment with a plan" in error
    assert "random-features" in error
    assert not out.exists()


def test_a_plan_adds_up():
    rows = (
        PlannedRuns(what="a", runs=2, num_params=10, num_matvecs=3, hours=1.5),
        PlannedRuns(what="b", runs=3, num_params=20, hours=0.5),
    )
    made = Plan(rows=rows, basis="an abacus")
    assert (made.runs, made.hours) == (5, 2.0)
    text = str(made)
    assert "5 runs, 6 matrix products, about 2 hours (an abacus)" in text
    assert "num_matvecs" in text
    assert "num_steps" not in text


def test_a_preset_fills_only_what_was_not_asked_for():
    config = filled(RandomFeatures(num_samples=7))
    assert (config.num_samples, config.max_features) == (7, 399)
    assert decisive(RandomFeatures(num_samples=7))["max_features"] == 399


def test_presets_of_both_models_differ():
    config = experiment("posterior-contraction").config
    assert filled(config(model="linear")).z == 5.0
    assert filled(config(model="net")).z == 1.0
    assert filled(config(model="net", z=2.0)).z == 2.0
