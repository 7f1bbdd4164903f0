"""Trainings from several initialisations, and the uncertainty of their order."""

import math

import numpy as np
import pytest
import torch

from curvescope.cli.main import main
from curvescope.experiments import experiment
from curvescope.experiments.init_compare import (
    SCHEMES,
    InitCompare,
    init_compare,
    ordered,
    points_of,
    reached,
)
from curvescope.experiments.init_nets import network, sets_of
from curvescope.plots import plot
from curvescope.results import InitRanking, load

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


@pytest.fixture(scope="module")
def results():
    return init_compare(InitCompare(**TOY))


def test_every_scheme_is_trained_and_measured_before(results):
    found = results["init_compare"]
    assert found.schemes == SCHEMES
    assert found.iterations == (0, 3, 6)
    assert len(found.records) == len(SCHEMES) * 2 * 3
    assert all(r["train_loss"] > 0.0 for r in found.records)
    assert {row["scheme"] for row in results["ranking"].table} == set(SCHEMES)


def test_balanced_networks_have_equal_norms_and_he_s_outputs(results):
    found = results["init_compare"]
    assert found.spread("balanced") == pytest.approx(1.0, abs=0.02)
    assert found.spread("he") > 1.05

    points = points_of(InitCompare(**TOY))
    images, _ = sets_of(points["he"]).probe
    outputs = [network(points[name], 0)(images) for name in ("he", "balanced")]
    assert torch.allclose(*outputs, atol=1e-5)


def test_schemes_of_one_seed_are_one_draw_in_several_scales():
    points = points_of(InitCompare(**TOY))
    weights = {
        name: network(points[name], 1)[1].weight.detach()
        for name in ("he", "lecun", "glorot", "normal")
    }
    for name, sd in (
        ("he", math.sqrt(2 / 64)),
        ("lecun", 1 / 8),
        ("glorot", math.sqrt(2 / 69)),
    ):
        assert torch.allclose(weights[name] / sd, weights["normal"] / 0.1, rtol=1e-5)


def test_what_is_compared_is_at_the_end_or_the_mean_over_the_training(results):
    found = results["init_compare"]
    row = [r for r in found.records if r["scheme"] == "he" and r["seed"] == 1]
    assert reached(found, "test_loss")["he"][1] == row[-1]["test_loss"]
    mean = sum(r["train_loss"] for r in row) / 3
    assert reached(found, "mean_train_loss")["he"][1] == pytest.approx(mean)
    error = 1 - row[-1]["test_accuracy"]
    assert reached(found, "test_error")["he"][1] == pytest.approx(error)


def test_differences_are_paired_so_that_common_noise_cancels():
    noise = np.random.default_rng(0).standard_normal(10)
    values = {"a": list(5 + noise), "b": list(5.1 + noise)}

    first, second = ordered(values)

    assert (first["scheme"], second["scheme"]) == ("a", "b")
    assert second["difference"] == pytest.approx(0.1)
    assert second["difference_low"] == pytest.approx(0.1)
    # The means alone could not tell them apart.
    assert first["high"] > second["low"]
    assert (first["rank_low"], first["rank_high"]) == (1, 1)
    assert (second["rank_low"], second["rank_high"]) == (2, 2)


def test_intervals_of_the_mean_cover_it_as_often_as_they_say():
    generator = np.random.default_rng(1)
    hit = 0
    for _ in range(400):
        (row,) = ordered({"a": list(generator.standard_normal(5))})
        hit += row["low"] <= 0.0 <= row["high"]
    # Four standard deviations of a binomial around 95 % of 400.
    assert abs(hit - 380) <= 4 * math.sqrt(400 * 0.95 * 0.05)


def test_ranks_of_equal_schemes_are_uncertain():
    generator = np.random.default_rng(2)
    values = {name: list(generator.standard_normal(8)) for name in "abcd"}
    rows = ordered(values)
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["rank_high"] > 1
    assert rows[-1]["rank_low"] < 4
    assert all(row["rank_low"] <= row["rank"] <= row["rank_high"] for row in rows)


def test_a_scheme_that_diverges_comes_last_without_an_interval():
    rows = ordered({"lost": [math.inf, 1.0], "kept": [2.0, 2.1]})
    assert [row["scheme"] for row in rows] == ["kept", "lost"]
    assert rows[1]["diverged"] == 1
    assert rows[1]["mean"] is rows[1]["low"] is rows[1]["difference_low"] is None
    ranking = InitRanking(
        quantity="last test loss", confidence=0.95, table=tuple(rows), num_seeds=2
    )
    texts = [t.get_text() for axes in plot(ranking).axes for t in axes.texts]
    assert texts == ["1 of 2 diverged"] * 2
    assert ranking.headline() == "lowest last test loss: kept (2.05)"


def test_one_seed_has_an_order_but_no_interval():
    rows = ordered({"a": [1.0], "b": [2.0]})
    assert [row["low"] for row in rows] == [None, None]
    assert rows[1]["difference"] == 1.0


def test_a_scheme_far_behind_is_written_at_the_edge():
    values = {"a": [1.0, 1.1], "b": [1.1, 1.3], "c": [30.0, 31.0]}
    ranking = InitRanking(
        quantity="last test loss",
        confidence=0.95,
        table=tuple(ordered(values)),
        num_seeds=2,
    )
    figure = plot(ranking)
    assert [t.get_text() for t in figure.axes[0].texts] == ["30.5 \u2192"]
    assert figure.axes[0].get_xlim()[1] < 5.0


def test_results_survive_their_files_and_have_figures(results, tmp_path):
    for name, result in results.items():
        result.save(tmp_path, name)
        kept = load(tmp_path, name)
        assert kept.rows() == result.rows()
        assert str(kept) == str(result)
    figure = plot(results["init_compare"])
    assert len(figure.axes) == 4
    assert len(figure.axes[3].lines) == len(SCHEMES)
    drawn = dict(zip(SCHEMES, figure.axes[3].lines, strict=True))["balanced"]
    norms = results["init_compare"].norms("balanced").mean(dim=0)
    assert drawn.get_ydata() == pytest.approx(norms.numpy())


def test_the_command_compares_chosen_schemes(tmp_path, capsys):
    out = tmp_path / "run"
    words = [
        "experiment", "init-compare", "--schemes", "he", "balanced", "--hidden", "5,4",
        "--seeds", "2", "--steps", "4", "--every", "2", "--num-probe", "30",
        "--num-train", "50", "--batch-size", "8", "--jobs", "1", "--out", str(out),
    ]  # fmt: skip

    assert main(words) == 0

    assert "lowest last test loss" in capsys.readouterr().out
    assert (out / "figures" / "init_compare.png").is_file()
    assert (out / "figures" / "ranking.png").is_file()
    assert "differences are paired by seed" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"schemes": ()}, "`schemes` must hold at least one name"),
        ({"schemes": ("he", "he")}, "`schemes` must have no repetition"),
        ({"schemes": ("best",)}, "`schemes` must be one of"),
        ({"sd": 0.0}, "`sd` must be above 0"),
        ({"quantity": "beauty"}, "`quantity` must be one of"),
    ],
)
def test_a_wrong_configuration_says_what_is_wrong(changes, text):
    with pytest.raises(ValueError, match="must") as caught:
        experiment("init-compare").check(InitCompare(**changes))
    assert text in str(caught.value)
