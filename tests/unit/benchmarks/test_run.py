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
