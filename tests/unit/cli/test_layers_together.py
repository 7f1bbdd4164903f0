"""``curvescope layers --k``: all layers in one sweep, as a run."""

import pytest

from curvescope.cli.main import main
from curvescope.results import LayerSpectra, load

WORDS = [
    "layers", "mlp", "--model-arg", "hidden=[5]", "--data", "digits",
    "--num-samples", "40", "--dtype", "float64",
]  # fmt: skip


def test_all_layers_in_one_sweep_are_a_run(tmp_path, capsys):
    words = [*WORDS, "--k", "2", "--density", "--num-steps", "8", "--num-probes", "2"]
    words += ["--matrix", "ggn", "--out", str(tmp_path / "run")]

    code = main(words)

    printed = capsys.readouterr().out
    assert code == 0
    spectra = load(tmp_path / "run" / "results", "layer_spectra")
    assert isinstance(spectra, LayerSpectra)
    assert spectra.of.matrix == "GGN"
    assert [len(row.eigenvalues) for row in spectra.layers] == [2, 2]
    assert set(spectra.densities) == {row.name for row in spectra.layers}
    assert str(spectra) in printed
    assert (tmp_path / "run" / "figures" / "layer_spectra.png").exists()
    table = (tmp_path / "run" / "table.csv").read_text()
    assert "top_eigenvalue" in table
    assert not (tmp_path / "run" / "results" / "layers.json").exists()

    again = main(words)

    assert again == 0
    assert str(spectra) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--k", "1", "--method", "exact"], "--method"),
        (["--matrix", "ggn"], "--matrix"),
        (["--matrix", "ggn", "--k", "1", "--blocks"], "--matrix"),
    ],
)
def test_options_that_exclude_each_other_are_named(words, option, tmp_path, capsys):
    code = main([*WORDS, *words, "--out", str(tmp_path / "run")])

    assert code != 0
    assert option in capsys.readouterr().err
