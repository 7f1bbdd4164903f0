"""The tables of whole matrices."""

import pytest
from benchmarks import assembly_report

CONDITIONS = {"cores_busy_with_others": 0.0, "load_average_start": [0.1, 0.1, 0.1]}


def row(key, seconds, ratio, error=1e-15, matrix="hessian", **more):
    return {
        "problem": "net",
        "matrix": matrix,
        "implementation": key,
        "name": key,
        "version": "3.1",
        "block": None,
        "build_seconds": 1.0,
        "first_seconds": 0.5,
        "peak_bytes": 5 * 2**20,
        "relative_error": error,
        "rounds": 5,
        "all_seconds": [seconds],
        "seconds": seconds,
        "ratio": ratio,
        **more,
    }


@pytest.fixture
def run():
    return {
        "date": "2030-01-02",
        "environment": {
            "cpu": "Some CPU",
            "cores": 2,
            "threads": 2,
            "torch": "2.13.0",
            "clock": "wall",
        },
        "problems": {
            "net": {
                "description": "A net",
                "num_params": 1234,
                "num_samples": 500,
                "conditions": CONDITIONS,
            }
        },
        "rows": [
            row("curvescope", 0.0523, 1.0),
            row("peer", 1.25, 24.0, block=64, rounds=2),
            row("cheat", 0.01, 0.2, error=0.05),
            row("peer", 2.5, 30.0, matrix="hessian+ggn"),
        ],
        "commands": [
            {
                "problem": "sweep",
                "description": "`sweep`",
                "seconds": 61.25,
                "peak_bytes": 2**30,
                "conditions": CONDITIONS,
            }
        ],
        "absent": [{"implementation": "gone", "reason": "no environment"}],
        "failed": [
            {
                "implementation": "big",
                "problem": "net",
                "matrix": "hessian",
                "reason": "40 GiB",
            },
            {"problem": "other", "description": "`other sweep`", "reason": "no data"},
        ],
        "skipped": [],
    }


def cells(text, name):
    lines = [part for part in text.splitlines() if part.startswith(f"| {name}")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_table_has_time_ratio_error_memory_first_call_and_block(run):
    text = assembly_report.full(run)

    (ours,) = cells(text, "curvescope")
    assert ours == ["curvescope 3.1", "**52.3**", "1 x", "1e-15", "5", "1.50", "-"]
    alone, both = cells(text, "peer")
    assert alone == ["peer 3.1", "1,250 (n=2)", "24 x", "1e-15", "5", "1.50", "64"]
    assert both[2] == "30 x"
    assert "1,234 parameters, 500 samples" in text
    assert "float64: medians" in text


def test_a_wrong_matrix_is_never_the_fastest_and_shows_its_error(run):
    (full,) = cells(assembly_report.full(run), "cheat")
    (short,) = cells(assembly_report.short(run), "cheat")

    assert full[1] == "10"
    assert full[3] == "**5e-02**"
    assert short == ["cheat", "0.2 x (error 0.05)", "-"]


def test_short_table_has_our_milliseconds_and_the_others_ratios(run):
    text = assembly_report.short(run)

    assert cells(text, "curvescope") == [["curvescope", "52.3", "-"]]
    assert cells(text, "peer") == [["peer", "24 x", "30 x"]]
    assert "Hessian and GGN, P = 1234, n = 500" in text


def test_commands_and_what_is_missing_are_listed(run):
    text = assembly_report.full(run)

    assert cells(text, "`sweep`") == [["`sweep`", "61.2", "1024"]]
    assert "- big on net (Hessian): 40 GiB" in text
    assert "- `other sweep`: no data" in text
    assert "- gone: no environment" in text


def test_a_disturbed_command_is_confessed_too(run):
    run["commands"][0]["conditions"] = {**CONDITIONS, "cores_busy_with_others": 1.2}

    assert "The machine was shared" in assembly_report.full(run)
