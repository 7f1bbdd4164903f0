"""The commands before training: a run folder, a page, and the same answer again."""

import pytest

from curvescope.cli.main import BAD_INPUT, main
from curvescope.results import InitialisationReport, StepSize, load

PROBLEM = [
    "mlp",
    "--data",
    "digits",
    "--num-samples",
    "12",
    "--model-arg",
    "hidden=[4]",
]


def test_initialisation_writes_a_run_folder_and_returns_it(tmp_path, capsys):
    words = ["initialisation", *PROBLEM, "--out", str(tmp_path / "run")]
    words += ["--candidates", "he", "balanced", "0.01", "--num-seeds", "1"]

    assert main(words) == 0
    first = capsys.readouterr().out
    page = tmp_path / "run" / "report.html"
    written = page.stat().st_mtime_ns
    assert main(words) == 0
    again = capsys.readouterr().out

    found = load(tmp_path / "run" / "results", "initialisation")
    assert isinstance(found, InitialisationReport)
    assert found.candidates == ("given", "he", "balanced", "normal 0.01")
    assert str(found) in first
    assert str(found) in again
    assert page.stat().st_mtime_ns == written
    assert (tmp_path / "run" / "figures" / "initialisation.png").exists()
    assert len((tmp_path / "run" / "table.csv").read_text().splitlines()) == 1 + 8


def test_step_size_writes_a_run_folder(tmp_path, capsys):
    words = ["step-size", *PROBLEM, "--num-points", "5", "--out", str(tmp_path / "run")]

    assert main(words) == 0

    found = load(tmp_path / "run" / "results", "step_size")
    assert isinstance(found, StepSize)
    assert len(found.losses) == 5
    assert "2 / sharpness" in (tmp_path / "run" / "report.html").read_text()
    assert "step size" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--candidates", "xavier"], "`scheme` must be one of"),
        (["--candidates", "-1"], "names or numbers from 0"),
        (["--num-seeds", "0"], "`--num-seeds` must be at least 1"),
    ],
)
def test_wrong_options_are_refused(words, text, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]

    assert main(["initialisation", *PROBLEM, *out, *words]) == BAD_INPUT

    assert text in capsys.readouterr().err
