"""The published two steps: eigenvalues into a file, the effective dimension out of it."""

import json

import numpy as np
import pytest

from curvescope.cli.main import main
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
    for z, value, _, low, high in (map(float, row) for row in rows):
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


def test_a_model_still_goes_the_other_way(tmp_path):
    out = tmp_path / "run"

    assert run("effdim", *TOY, "--num-probes", 3, "--num-steps", 8, "--out", out) == 0

    assert not (out / "eigenvalues.npz").exists()
    assert load(out / "results", "effective_dimension").upper_bounds is None
