"""``curvescope rank`` and ``curvescope experiment``, in process and at toy size."""

import json

import pytest

from curvescope.cli.main import _split_lists, main
from curvescope.experiments import experiment, names
from curvescope.results import BlockPicture, RankReport, RankSweep, load

POINT = ["--data", "digits", "--dim", 16, "--units", "5,4", "--num-samples", 30]
SWEEP = {
    "rank-vs-samples": ["--units", "3", "--num-samples", "20,30"],
    "rank-vs-width": ["--widths", "2,3", "--num-samples", 20],
    "rank-vs-depth": ["--depths", "1,2", "--width", 3, "--num-samples", 20],
    "rank-in-training": ["--epochs", 2, "--every", 1, "--classes", 4],
    "rank-spectra": ["--units", "3", "--num-samples", 20, "--activations", "linear"],
}
SMALL = ["--data", "digits", "--dim", 16, "--jobs", 1]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


def run(*words):
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    """A finished run of `rank`, which tests must leave as it is."""
    folder = tmp_path_factory.mktemp("ranked") / "run"
    assert run("rank", *POINT, "--out", folder) == 0
    return folder


def test_rank_writes_the_whole_run_folder(ranked):
    for name in ("config.json", "environment.json", "table.csv", "report.html"):
        assert (ranked / name).is_file(), name
    assert json.loads((ranked / "config.json").read_text())["units"] == [5, 4]
    assert len(list((ranked / "figures").glob("*.png"))) >= 2
    assert isinstance(load(ranked / "results", "blocks"), BlockPicture)


def test_rank_prints_facts_ranks_and_predictions_and_computes_once(
    ranked, capsys, monkeypatch
):
    monkeypatch.setattr("curvescope.cli.rank.rank_results", None)
    assert run("rank", *POINT, "--out", ranked) == 0

    printed = capsys.readouterr().out
    out = ranked
    report = load(out / "results", "rank_report")
    assert isinstance(report, RankReport)
    r = report.facts["input_rank"]
    assert f"r, rank of the inputs' covariance: {r}\n" in printed
    assert "q = min(r, k, hidden widths): 4\n" in printed
    assert "P, parameters: 140\n" in printed
    assert "K, outputs: 10\n" in printed
    assert "n, samples: 30\n" in printed
    assert f"ggn: rank {4 * (r + 10 - 4)} (certified" in printed
    assert f"ggn rank = {4 * (r + 10 - 4)} (published)" in printed
    assert "measured as predicted: yes" in printed


def test_another_configuration_needs_another_folder(ranked, capsys):
    assert run("rank", *POINT, "--seed", 1, "--out", ranked) == 2
    assert "seed: 0 there, 1 now" in capsys.readouterr().err
    assert run("experiment", "rank-vs-width", *SMALL, "--out", ranked) == 2
    assert "of the same command" in capsys.readouterr().err


@pytest.mark.parametrize("name", SWEEP)
def test_every_experiment_gives_table_figure_and_page(name, out, capsys, monkeypatch):
    words = ["experiment", name, *SMALL, *SWEEP[name], "--out", out]

    assert run(*words) == 0

    assert (out / "table.csv").is_file()
    assert (out / "report.html").is_file()
    assert list((out / "figures").glob("*.png"))
    config = json.loads((out / "config.json").read_text())
    assert config["command"] == f"experiment {name}"
    assert "jobs" not in config
    printed = capsys.readouterr().out
    assert "report: " in printed
    # A second call, with any number of jobs, returns it.
    monkeypatch.setattr("curvescope.experiments.sweep._here", None)
    again = [
        4 if word == 1 and words[i - 1] == "--jobs" else word
        for i, word in enumerate(words)
    ]
    assert run(*again) == 0
    assert capsys.readouterr().out == printed


def test_the_table_of_a_sweep_has_ranks_beside_predictions(out, capsys):
    run("experiment", "rank-vs-width", *SMALL, *SWEEP["rank-vs-width"], "--out", out)

    sweep = load(out / "results", "rank_sweep")
    assert isinstance(sweep, RankSweep)
    printed = capsys.readouterr().out
    for record in sweep.records:
        for name in ("hessian", "ggn", "functional"):
            assert record[f"{name}_rank"] == record[f"{name}_predicted"]
            assert (
                f"{record[f'{name}_rank']} = {record[f'{name}_predicted']}" in printed
            )
    header = (out / "table.csv").read_text().splitlines()[0]
    assert header.startswith("width,seed,num_params")


def test_an_interrupted_experiment_goes_on_with_its_points(out, monkeypatch):
    words = ["experiment", "rank-vs-width", *SMALL, *SWEEP["rank-vs-width"]]

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("curvescope.cli.experiment.report", interrupt)
        assert run(*words, "--out", out) == 130
    assert len(list((out / "points").glob("*.json"))) == 2
    monkeypatch.setattr("curvescope.experiments.sweep._here", None)

    assert run(*words, "--out", out) == 0
    assert (out / "report.html").is_file()


@pytest.mark.parametrize("name", SWEEP)
def test_a_wrong_configuration_leaves_no_folder(name, out, capsys):
    assert run("experiment", name, "--data", "digits", "--dim", 15, "--out", out) == 2

    error = capsys.readouterr().err
    assert "error: `dim` must be a square number; got 15. Take 9 or 16." in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--dim", 15], "`dim` must be a square number"),
        (["--num-samples", 2000], "`num_samples` must be at most 1500"),
        (["--classes", 11], "`classes` must be at most 10"),
        (["--units", 0], "`units` must be at least 1"),
        (["--seed", -1], "`seed` must be at least 0"),
    ],
)
def test_wrong_ranks_leave_no_folder(words, text, out, capsys):
    assert run("rank", *POINT, *words, "--out", out) == 2

    assert text in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["rank", "--loss", "hinge"],
        ["rank", "--units", "5;10"],
        ["experiment"],
        ["experiment", "rank-vs-colour"],
        ["experiment", "rank-vs-width", "--widths", "wide"],
    ],
)
def test_words_that_mean_nothing_exit_with_two(words, capsys):
    with pytest.raises(SystemExit) as exit_:
        run(*words)

    assert exit_.value.code == 2


def test_absent_data_are_named(out, tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        text = "no network"
        raise OSError(text)

    monkeypatch.setattr("curvescope.data.sets._fetch_split", refuse)
    assert run("rank", "--data-root", tmp_path, "--out", out) == 2
    assert "no network" in capsys.readouterr().err
    assert not out.exists()


def test_lists_of_numbers_may_have_commas():
    words = ["--units", "5,10", "--widths=4,8", "--model-arg", "hidden=[8,8]", "a=1,2"]

    assert _split_lists(words) == [
        "--units", "5", "10", "--widths", "4", "8", "--model-arg", "hidden=[8,8]", "a=1,2"
    ]  # fmt: skip


def test_every_experiment_is_a_command_with_help(capsys):
    for name in names():
        with pytest.raises(SystemExit) as exit_:
            run("experiment", name, "--help")
        assert exit_.value.code == 0
        shown = capsys.readouterr().out
        assert experiment(name).summary.split()[0] in shown
        assert "--out" in shown
