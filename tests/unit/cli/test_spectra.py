"""The published two steps: eigenvalues into a file, the effective dimension out of it."""

import inspect
import json

import numpy as np
import pytest
import torch

from curvescope import exact
from curvescope.cli import runs
from curvescope.cli.main import main, parse
from curvescope.cli.options import ProblemOptions
from curvescope.cli.problems import build_problem
from curvescope.models import names
from curvescope.results import load

TOY = ["mlp", "--data", "digits", "--num-samples", "40", "--model-arg", "hidden=[3]"]


def run(*words):
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def spectrum(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    assert run("spectrum", *TOY, "--k", 6, "--which", "LA", "--out", out) == 0
    return out


def test_spectrum_leaves_eigenvalues_that_the_published_snippet_reads(spectrum):
    pairs = load(spectrum / "results", "eigenpairs")

    with np.load(spectrum / "eigenvalues.npz", allow_pickle=False) as archive:
        x = archive["pos_evals"]
        everything = archive["eigenvalues"]

    x = x[x != 1.0]
    values = pairs.eigenvalues.numpy()
    np.testing.assert_array_equal(everything, values)
    assert np.sum(x / (x + 1e-3)) == pytest.approx(np.sum(values / (values + 1e-3)))


def test_the_second_call_leaves_the_file_as_it_is(spectrum):
    before = (spectrum / "eigenvalues.npz").read_bytes()

    assert run("spectrum", *TOY, "--k", 6, "--which", "LA", "--out", spectrum) == 0

    assert (spectrum / "eigenvalues.npz").read_bytes() == before


def test_effdim_of_a_file_prints_both_bounds_and_can_leave_a_page(
    spectrum, tmp_path, capsys
):
    file, out = spectrum / "eigenvalues.npz", tmp_path / "page"
    pairs = load(spectrum / "results", "eigenpairs")
    values = pairs.eigenvalues.clamp_min(0.0)
    expected = float((values / (values + 1e-3)).sum())

    assert run("effdim", file, "--z", "1e-3", "--out", out) == 0

    printed = capsys.readouterr().out
    assert f"a lower bound from 6 of {pairs.of.num_params} eigenvalues" in printed
    assert f"{expected:.6g}" in printed
    found = load(out / "results", "effective_dimension")
    smallest = float(values.min())
    rest = (pairs.of.num_params - 6) * smallest / (smallest + 1e-3)
    assert float(found.upper_bounds) == pytest.approx(expected + rest)
    assert (out / "report.html").is_file()
    assert json.loads((out / "config.json").read_text())["z"] == [1e-3]
    assert run("effdim", file, "--z", "1e-2", "--out", out) == 2
    assert "configuration" in capsys.readouterr().err


def test_the_bounds_hold_for_the_dense_hessian(spectrum, capsys):
    assert run("effdim", spectrum / "eigenvalues.npz", "--z", "1e-4", "1e-2") == 0

    printed = capsys.readouterr().out.splitlines()
    rows = [
        line.split() for line in printed if line.split()[:1] in (["0.0001"], ["0.01"])
    ]
    assert len(rows) == 2
    for z, value, low, high, _ in (map(float, row) for row in rows):
        assert value == low < high
        assert z in (1e-4, 1e-2)


def test_a_published_file_gives_a_lower_bound_and_with_the_dimension_an_estimate(
    tmp_path, capsys
):
    T = np.diag([3.0, 2.0, -1.0]) + np.diag([0.5, 0.5], 1) + np.diag([0.5, 0.5], -1)
    values = np.linalg.eigvalsh(T)
    path = tmp_path / "width_1.npz"
    np.savez(path, pos_evals=np.where(values < 0, 1.0, values), pos_bases=T)

    assert run("effdim", path, "--z", 1, "--dimension", 50) == 0

    printed = capsys.readouterr().out
    assert "1 of 3 stored values are exactly 1" in printed
    assert "lower_bound" in printed
    assert "slq" in printed


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["absent.npz"], "no file"),
        (["FILE", "--z", "-1"], "`z` must be above 0"),
        (["FILE", "--dimension", "1"], "dimension"),
    ],
)
def test_bad_input_is_one_clear_line(words, text, spectrum, tmp_path, capsys):
    file = spectrum / "eigenvalues.npz"
    words = [file if word == "FILE" else word for word in words]

    assert run("effdim", *words) == 2

    error = capsys.readouterr().err.strip()
    assert text in error
    assert len(error.splitlines()) == 1


def write_npz(path, **content):
    np.savez(path, **content)


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (lambda path: path.write_bytes(b""), "be an .npz file"),
        (
            lambda path: write_npz(path, format="curvescope eigenvalues 1"),
            "hold all that `write_spectrum` writes",
        ),
        (lambda path: write_npz(path, pos_evals=["a", "b"]), "real numbers"),
        (
            lambda path: write_npz(path, pos_evals=[2.0, 1.0], pos_bases=[["a"]]),
            "real numbers",
        ),
    ],
)
def test_a_broken_file_is_named_in_one_line(write, text, tmp_path, capsys):
    path = tmp_path / "broken.npz"
    write(path)

    assert run("effdim", path, "--z", "1") == 2

    error = capsys.readouterr().err.strip()
    assert text in error
    assert "broken.npz" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("content", ["[1]", "{bad", "3", b"\xff\xfe"])
def test_a_folder_with_a_broken_configuration_is_named_in_one_line(
    content, spectrum, tmp_path, capsys
):
    file, out = spectrum / "eigenvalues.npz", tmp_path / "page"
    out.mkdir()
    raw = content if isinstance(content, bytes) else content.encode()
    (out / "config.json").write_bytes(raw)

    assert run("effdim", file, "--z", "1", "--out", out) == 2

    error = capsys.readouterr().err.strip()
    assert "`--out` must be a folder whose config.json a run has written" in error
    assert str(out) in error
    assert len(error.splitlines()) == 1


def test_a_folder_that_nobody_can_make_is_named_with_its_option(
    spectrum, tmp_path, capsys
):
    file = spectrum / "eigenvalues.npz"
    blocked = tmp_path / "file"
    blocked.write_text("no folder")

    for out in (blocked / "below", "/proc/no-such-folder"):
        assert run("effdim", file, "--z", "1", "--out", out) == 2
        error = capsys.readouterr().err.strip()
        assert "`--out` must be a folder that can be written" in error
        assert str(out) in error


def test_a_folder_is_only_tried_and_not_left_behind(tmp_path):
    path = tmp_path / "a" / "b"
    assert runs.open_folder(path, {"command": "x"}) is False
    assert not (tmp_path / "a").exists()


def test_help_names_every_built_in_model():
    field = ProblemOptions.__dataclass_fields__["model"]
    assert field.name == "model"
    source = inspect.getsource(ProblemOptions).split('"""')[3]
    words = source.replace(",", " ").replace(".", " ").split()
    assert set(names()) <= set(words), set(names()) - set(words)


def test_a_model_still_goes_the_other_way(tmp_path):
    out = tmp_path / "run"

    words = [*TOY, "--num-probes", 3, "--num-steps", 8, "--top", 0, "--out", out]
    assert run("effdim", *words) == 0

    assert not (out / "eigenvalues.npz").exists()
    found = load(out / "results", "effective_dimension")
    assert found.upper_bounds is None
    assert found.bounds is None


@pytest.mark.parametrize("matrix", ["ggn", "hessian"])
def test_one_command_puts_the_estimate_between_certified_bounds(
    matrix, tmp_path, capsys
):
    out = tmp_path / "run"
    words = [*TOY, "--num-probes", 3, "--num-steps", 8, "--matrix", matrix]

    assert run("effdim", *words, "--z", "1e-3", "0.1", "--top", 5, "--out", out) == 0

    head, *rows = (out / "table.csv").read_text().splitlines()
    assert head == (
        "z,effective_dimension,low_95,high_95,standard_error,step_error,"
        "lower_bound,upper_bound"
    )
    dense = dense_eigenvalues(matrix)
    for z, _, low, high, _, _, below, above in (
        map(float, row.split(",")) for row in rows
    ):
        truth = float((dense / (dense + z)).sum())
        # Products are of float32: the bounds allow for it, the truth is of float64.
        assert below <= truth * (1 + 1e-4) + 1e-3
        assert truth <= above * (1 + 1e-4) + 1e-3
        assert below <= high
        assert low <= above
    printed = capsys.readouterr().out
    assert "checked: at all" in printed
    assert "5 certified eigenpairs" in printed
    found = load(out / "results", "effective_dimension")
    assert found.bounds.num_pairs == 5
    assert found.bracketed == (matrix == "ggn")
    assert found.bounds.upper_from == ("sum" if matrix == "ggn" else "number")
    assert (out / "eigenvalues.npz").is_file()
    assert not (out / "checkpoints").exists()
    assert "the lower bound" in (out / "report.html").read_text().lower()


def dense_eigenvalues(matrix):
    """All eigenvalues of the toy's matrix, dense in float64, negative ones as 0."""
    problem = build_problem(parse(["effdim", *TOY]).problem).problem
    A = {"ggn": exact.ggn, "hessian": exact.hessian}[matrix](problem).matrix
    return torch.linalg.eigvalsh(A).clamp_min(0.0)
