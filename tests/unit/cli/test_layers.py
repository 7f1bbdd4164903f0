"""``curvescope layers``, in process and at toy size."""

import json

import pytest

from curvescope.cli.main import main
from curvescope.results import BlockNorms, LayerTable, load

WORDS = [
    "layers", "mlp", "--model-arg", "hidden=[5]", "--data", "digits",
    "--num-samples", "40", "--dtype", "float64",
]  # fmt: skip


def test_layers_and_the_blocks_between_them_are_a_run(tmp_path, capsys):
    words = [*WORDS, "--blocks", "--out", str(tmp_path / "run")]

    code = main(words)

    printed = capsys.readouterr().out
    assert code == 0
    table = load(tmp_path / "run" / "results", "layers")
    norms = load(tmp_path / "run" / "results", "block_norms")
    assert isinstance(table, LayerTable)
    assert isinstance(norms, BlockNorms)
    assert all(row.method == "kronecker" for row in table.layers)
    own = [row.frobenius_norm for row in table.layers]
    assert norms.norms["hessian"].diagonal().tolist() == pytest.approx(own, rel=1e-10)
    assert str(table) in printed
    assert (tmp_path / "run" / "figures" / "layers.png").exists()
    assert (tmp_path / "run" / "figures" / "block_norms.pdf").exists()
    assert (tmp_path / "run" / "block_norms.csv").exists()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["blocks"] is True

    again = main(words)

    assert again == 0
    assert str(table) in capsys.readouterr().out


def test_a_run_that_was_cut_off_keeps_its_table(tmp_path, capsys):
    words = [*WORDS, "--out", str(tmp_path / "run")]
    assert main(words) == 0
    (tmp_path / "run" / "report.html").unlink()
    first = capsys.readouterr().out

    assert main(words) == 0

    seconds = [line for line in first.splitlines() if line.startswith("cost:")]
    assert seconds[0] in capsys.readouterr().out  # it was not measured again


def test_groups_are_words(tmp_path, capsys):
    groups = ["--groups", "all=*", "weights=*.weight,nothing"]

    bad = main([*WORDS, *groups, "--out", str(tmp_path / "bad")])
    code = main([*WORDS, *groups[:2], "biases=*.bias", "--out", str(tmp_path / "run")])

    assert bad == 2
    assert "`groups` must find parameters for 'weights'" in capsys.readouterr().err
    assert code == 0
    table = load(tmp_path / "run" / "results", "layers")
    assert [(r.name, r.num_params) for r in table.layers] == [
        ("all", 385),
        ("biases", 15),
    ]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--groups", "first"], "`--groups` must be NAME=GLOB"),
        (["--matrix", "ggn"], "`--matrix` must be left out; got ggn"),
    ],
)
def test_wrong_options_are_refused(words, text, tmp_path, capsys):
    assert main([*WORDS, *words, "--out", str(tmp_path / "run")]) == 2

    assert text in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
