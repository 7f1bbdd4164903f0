"""The commands, as a user runs them, in process and at toy size."""

import json

import pytest
import torch
from safetensors.torch import save_file

from curvescope import models
from curvescope.cli.main import main
from curvescope.curvature import Hessian
from curvescope.results import Eigenpairs, LayerTable, load

TOY = ["mlp", "--data", "digits", "--num-samples", "40", "--model-arg", "hidden=[3]"]
FEW = ["--num-probes", "3", "--num-steps", "8"]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


def run(*words):
    return main([str(word) for word in words])


def test_analyze_writes_the_whole_run_folder(out, capsys):
    assert run("analyze", *TOY, *FEW, "--k", 4, "--z", 0.01, 0.1, "--out", out) == 0

    for name in ("config.json", "environment.json", "table.csv", "report.html"):
        assert (out / name).is_file(), name
    assert list((out / "figures").glob("*.png"))
    assert list((out / "figures").glob("*.pdf"))
    head = (out / "table.csv").read_text().splitlines()
    assert head[0] == "eigenvalue,relative_residual,converged"
    assert len(head) == 5
    assert json.loads((out / "config.json").read_text())["z"] == [0.01, 0.1]
    printed = capsys.readouterr().out
    assert "accuracy:" in printed
    assert "peak memory:" in printed
    assert str(out / "report.html") in printed
    assert not (out / "checkpoints").exists() or not any(
        (out / "checkpoints").iterdir()
    )


def test_analyze_finds_both_ends_and_every_layer(out):
    run("analyze", *TOY, *FEW, "--k", 4, "--out", out)

    pairs = load(out / "results", "eigenpairs")
    layers = load(out / "results", "layers")
    assert isinstance(pairs, Eigenpairs)
    assert float(pairs.eigenvalues[0]) > 0 > float(pairs.eigenvalues[-1])
    assert bool(pairs.converged.all())
    assert isinstance(layers, LayerTable)
    assert [row.name for row in layers.layers] == ["linear1", "linear2"]


def test_second_call_returns_the_finished_run_without_products(out, monkeypatch):
    command = ("spectrum", *TOY, "--k", 2, "--out", out)
    run(*command)
    first = load(out / "results", "eigenpairs")

    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(Hessian, "_blocks", refuse)

    assert run(*command) == 0
    second = load(out / "results", "eigenpairs")
    assert torch.equal(first.eigenvalues, second.eigenvalues)


@pytest.mark.parametrize("products", [1, 5, 11, 17])
def test_interrupted_run_resumes_to_the_same_answer_at_the_same_cost(
    tmp_path, monkeypatch, products
):
    words = ["spectrum", "mlp", "--data", "digits", "--num-samples", 40, "--k", 3]
    assert run(*words, "--out", tmp_path / "whole") == 0
    whole = load(tmp_path / "whole" / "results", "eigenpairs")
    blocks, count = Hessian._blocks, [0]

    def interrupted(self, graph, take, num, samples):
        count[0] += 1
        if count[0] > products:
            raise KeyboardInterrupt
        return blocks(self, graph, take, num, samples)

    with monkeypatch.context() as patch:
        patch.setattr(Hessian, "_blocks", interrupted)
        assert run(*words, "--out", tmp_path / "broken") == 130
    assert run(*words, "--out", tmp_path / "broken") == 0

    resumed = load(tmp_path / "broken" / "results", "eigenpairs")
    assert torch.equal(resumed.eigenvalues, whole.eigenvalues)
    assert resumed.cost.num_matvecs == whole.cost.num_matvecs


def test_dry_run_prints_the_plan_and_writes_nothing(out, capsys):
    assert run("spectrum", *TOY, "--k", 2, "--dry-run", "--out", out) == 0

    printed = capsys.readouterr().out
    assert "plan of the Hessian" in printed
    assert "eigenpairs" in printed
    assert not out.exists()


def test_an_explained_run_is_the_same_run(out, capsys):
    run("spectrum", *TOY, "--k", 2, "--explain", "--out", out)
    assert "plan of the analysis" in capsys.readouterr().out
    first = load(out / "results", "eigenpairs")

    assert run("spectrum", *TOY, "--k", 2, "--out", out) == 0
    assert "plan of the analysis" not in capsys.readouterr().out
    second = load(out / "results", "eigenpairs")
    assert torch.equal(first.eigenvalues, second.eigenvalues)


def test_folder_of_another_configuration_is_refused(out, capsys):
    run("spectrum", *TOY, "--k", 2, "--out", out)

    assert run("spectrum", *TOY, "--k", 3, "--out", out) == 2

    assert "k: 2 there, 3 now" in capsys.readouterr().err


def test_folder_with_other_files_is_refused(out, capsys):
    out.mkdir()
    (out / "thesis.tex").write_text("precious")

    assert run("spectrum", *TOY, "--out", out) == 2

    assert "holds other files" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_density_and_effdim_have_commands(tmp_path):
    assert run("density", *TOY, *FEW, "--out", tmp_path / "density") == 0
    assert run("effdim", *TOY, *FEW, "--z", 0.1, "--out", tmp_path / "effdim") == 0

    curve = load(tmp_path / "effdim" / "results", "effective_dimension")
    assert 0.1 in curve.z.tolist()


@pytest.mark.parametrize("matrix", ["ggn", "functional"])
def test_other_matrices_can_be_asked_for(out, matrix):
    assert run("spectrum", *TOY, "--k", 2, "--matrix", matrix, "--out", out) == 0


def test_plot_and_report_redraw_without_computing(out, monkeypatch):
    run("spectrum", *TOY, "--k", 2, "--out", out)
    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    for figure in (out / "figures").iterdir():
        figure.unlink()

    assert run("report", out) == 0
    assert (out / "report.html").read_bytes() == page
    assert run("plot", out) == 0
    assert list((out / "figures").glob("*.png"))


def test_weights_and_parameter_selection_are_honoured(out, tmp_path):
    net = models.build("mlp", hidden=[3])
    save_file(net.state_dict(), tmp_path / "w.safetensors")

    code = run(
        "spectrum", *TOY, "--weights", tmp_path / "w.safetensors", "--params", "linear2",
        "--k", 2, "--eigenvectors", "--out", out,
    )  # fmt: skip

    pairs = load(out / "results", "eigenpairs")
    assert code == 0
    assert pairs.of.num_params == 40
    assert pairs.eigenvectors.shape == (40, 2)


def test_users_own_files_give_model_and_data(out, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def model(width=2):\n"
        "    return torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Linear(width, 2))\n"
        "def data():\n"
        "    g = torch.Generator().manual_seed(0)\n"
        "    return [(torch.randn(5, 3, generator=g), torch.tensor([0, 1, 0, 1, 1]))]\n"
    )
    mine = tmp_path / "mine.py"

    code = run(
        "spectrum", f"{mine}:model", "--data", f"{mine}:data", "--model-arg", "width=4",
        "--k", 2, "--dtype", "float64", "--out", out,
    )  # fmt: skip

    assert code == 0
    assert load(out / "results", "eigenpairs").of.num_params == 26


BAD = {
    "missing weights": (["--weights", "nowhere.safetensors"], "nowhere.safetensors"),
    "unknown data": (["--data", "digitz"], "digitz"),
    "too many samples": (["--num-samples", "99999"], "99999"),
    "no samples": (["--num-samples", "0"], "at least 1"),
    "unknown loss": (["--loss", "hinge"], "hinge"),
    "unfit loss": (["--loss", "mse"], "targets"),
    "unknown model argument": (["--model-arg", "depth=3"], "depth"),
    "malformed model argument": (["--model-arg", "depth"], "KEY=VALUE"),
    "no such parameters": (["--params", "conv*"], "conv"),
    "too many eigenpairs": (["--k", "100000"], "at most"),
    "wrong normalisation": (["--normalize", "mars"], "mars"),
    "no such device": (["--device", "cuda:7"], "device"),
    "not this many batches": (["--batch-size", "0"], "batch_size"),
    "negative decay": (["--weight-decay", "-1"], "weight_decay"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_input_is_one_clear_line_exit_code_2_and_no_folder(case, out, capsys):
    if case == "no such device" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    words, telling = BAD[case]

    assert run("spectrum", "mlp", "--data", "digits", *words, "--out", out) == 2

    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert telling in error
    assert "Traceback" not in error
    assert not out.exists()


def test_weights_of_another_architecture_are_refused(out, tmp_path, capsys):
    save_file(models.build("mlp", hidden=[7]).state_dict(), tmp_path / "w.safetensors")

    assert (
        run("spectrum", *TOY, "--weights", tmp_path / "w.safetensors", "--out", out)
        == 2
    )

    assert "error: " in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    "words", [["spectrum", "mlp", "--data", "digits", "--zz"], ["nonsense"], []]
)
def test_unknown_options_and_commands_exit_with_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        run(*words)

    assert stop.value.code == 2
    capsys.readouterr()


def test_wrong_z_is_refused_before_anything_is_computed(out, capsys):
    assert run("effdim", *TOY, "--z", -1, "--out", out) == 2

    assert "`z` must be above 0" in capsys.readouterr().err


def test_weights_that_changed_under_the_same_name_are_refused(out, tmp_path, capsys):
    path = tmp_path / "w.safetensors"
    net = models.build("mlp", hidden=[3])
    save_file(net.state_dict(), path)
    command = ("spectrum", *TOY, "--weights", path, "--k", 2, "--out", out)
    run(*command)
    page = (out / "report.html").read_bytes()
    save_file({n: t * 0.5 for n, t in net.state_dict().items()}, path)

    assert run(*command) == 2

    assert "other weights, data or code" in capsys.readouterr().err
    assert (out / "report.html").read_bytes() == page


def test_folder_of_another_command_is_refused_in_one_line(out, capsys):
    run("spectrum", *TOY, "--k", 2, "--out", out)

    assert run("density", *TOY, *FEW, "--out", out) == 2

    assert "got spectrum there, density now" in capsys.readouterr().err
