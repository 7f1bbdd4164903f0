"""The benchmark's command line and the file that it writes."""

import json

import pytest
from benchmarks import run
from benchmarks.runner import Outcome


def outcome(problem, ratio):
    entry = {"problem": problem, "ratio": ratio}
    return Outcome(problems={problem: {"num_params": 1}}, rows=[entry], failed=[entry])


def test_a_second_run_replaces_its_problems_and_leaves_the_others(tmp_path):
    path, facts = tmp_path / "products.json", {"cpu": "x", "threads": 1}

    run.write(path, facts, outcome("gpt", 3.0))
    run.write(path, facts, outcome("mlp", 1.0))
    run.write(path, facts, outcome("gpt", 2.0))

    content = json.loads(path.read_text())
    assert list(content["problems"]) == ["mlp", "gpt"]
    ratios = {row["problem"]: row["ratio"] for row in content["rows"]}
    assert ratios == {"mlp": 1.0, "gpt": 2.0}
    assert len(content["rows"]) == len(content["failed"]) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_results_of_another_environment_are_not_mixed_in(tmp_path):
    path = tmp_path / "products.json"

    run.write(path, {"threads": 1}, outcome("gpt", 3.0))
    run.write(path, {"threads": 2}, outcome("mlp", 1.0))

    assert list(json.loads(path.read_text())["problems"]) == ["mlp"]


def test_processor_time_is_refused_with_several_threads(capsys):
    with pytest.raises(SystemExit):
        run.parse(["--clock", "cpu", "--threads", "2"])

    assert "must come with --threads 1" in capsys.readouterr().err


def test_commands_alone_replace_theirs_and_leave_the_rest(tmp_path):
    path, facts = tmp_path / "exact.json", {"cpu": "x"}
    first = outcome("tanh-920", 9.0)
    first.commands = [{"problem": "sweep", "seconds": 80.0}]
    first.failed.append({"problem": "other-sweep", "reason": "no data"})
    again = Outcome(
        commands=[{"problem": key, "seconds": 60.0} for key in ("sweep", "other-sweep")]
    )

    run.write(path, facts, first, theme="exact")
    run.write(path, facts, again, theme="exact")

    content = json.loads(path.read_text())
    assert content["theme"] == "exact"
    assert [row["ratio"] for row in content["rows"]] == [9.0]
    assert [command["seconds"] for command in content["commands"]] == [60.0, 60.0]
    assert [entry["problem"] for entry in content["failed"]] == ["tanh-920"]


def test_a_suite_brings_its_own_defaults():
    products, exact = run.parse([]), run.parse(["--suite", "exact"])

    assert "resnet20" in products.problems
    assert products.matrices == ("hessian", "ggn")
    assert all(name.startswith("tanh") for name in exact.problems)
    assert exact.matrices == ("hessian", "hessian+ggn")
    assert exact.commands
    assert run.parse(["--suite", "exact", "--problems"]).problems == []


@pytest.mark.parametrize(
    "arguments",
    [("--problems", "tanh-920"), ("--suite", "exact", "--matrices", "ggn")],
)
def test_what_a_suite_has_not_is_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        run.parse(list(arguments))

    assert f"got {arguments[-1]}" in capsys.readouterr().err
