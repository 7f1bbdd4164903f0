"""The tables that a benchmark's JSON becomes."""

import json

import pytest
from benchmarks import report


def row(name, columns, ratio, error=1e-7, **more):
    return {
        "problem": "mlp",
        "matrix": "hessian",
        "columns": columns,
        "implementation": name.lower(),
        "name": name,
        "version": "3.1",
        "relative_error": error,
        "peak_bytes": 5 * 2**20,
        "build_seconds": 1.0,
        "first_product_seconds": 0.5,
        "rounds": 5,
        "ratio": ratio,
        "ratio_min": ratio - 0.1,
        "seconds_gradient": 0.004,
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
            "mlp": {
                "description": "A net",
                "num_params": 1234,
                "num_samples": 512,
                "num_batches": 1,
                "gradient_peak_bytes": 7 * 2**20,
                "conditions": {
                    "cores_busy_with_others": 0.0,
                    "load_average_start": [0.1, 0.1, 0.1],
                },
            }
        },
        "rows": [
            row("Ours", 1, 1.5),
            row("Ours", 8, 1.25, rounds=2),
            row("Peer", 1, 2.0),
            row("Cheat", 1, 0.5, error=31.3),
        ],
        "absent": [{"implementation": "gone", "reason": "no environment"}],
        "failed": [],
        "skipped": [],
    }


def cells(text, name):
    (line,) = [part for part in text.splitlines() if part.startswith(f"| {name}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table_has_ratio_error_memory_and_rounds(run):
    text = report.full(run)

    ours = ["Ours 3.1", "**1.50**", "**1.25** (n=2)", "1.0e-07", "5 / 5", "1.50"]
    assert cells(text, "Ours") == ours
    assert cells(text, "Peer") == ["Peer 3.1", "2.00", "-", "1.0e-07", "5", "1.50"]
    assert "1,234 parameters" in text
    assert "one gradient takes 4 ms and 7 MiB" in text


def test_a_wrong_product_is_never_the_best_and_shows_its_error(run):
    text = report.full(run)
    short = report.short(run)

    assert cells(text, "Cheat")[1:4] == ["0.50", "-", "**3.1e+01**"]
    assert cells(short, "Cheat") == ["Cheat", "0.50 (error 3e+01)"]
    assert cells(short, "Ours") == ["Ours", "**1.50**"]


def test_those_that_the_rounds_do_not_tell_apart_are_all_bold(run):
    run["rows"].append(row("Even", 1, 1.55))

    short = report.short(run)

    assert cells(short, "Ours")[1] == "**1.50**"
    assert cells(short, "Even")[1] == "**1.55**"
    assert cells(short, "Peer")[1] == "2.00"


def test_caption_confesses_a_shared_machine(run):
    assert "shared" not in report.caption(run)

    conditions = run["problems"]["mlp"]["conditions"]
    conditions["cores_busy_with_others"] = 1.3
    conditions["load_average_start"] = [2.4, 1.0, 1.0]
    text = report.caption(run)

    assert "The machine was shared" in text
    assert "up to 1.3 cores busy" in text
    assert "load average up to 2.4" in text


def test_absent_and_skipped_are_listed(run):
    run["skipped"] = [{"problem": "mlp", "matrix": "hessian", "columns": 32}]

    text = report.full(run)

    assert "- gone: no environment" in text
    assert "- 32 columns on mlp (Hessian): not measured" in text


def test_tables_replace_what_stands_between_the_markers(run, tmp_path):
    page = tmp_path / "page.md"
    begin, end = report.markers("benchmarks")
    rest = "<!-- others:begin -->\nothers\n<!-- others:end -->\n"
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n{rest}")

    report.insert(page, "new")
    report.insert(page, "newer")

    assert page.read_text() == f"before\n{begin}\nnewer\n{end}\nafter\n{rest}"


def test_a_page_without_markers_is_refused_and_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing here")

    with pytest.raises(ValueError, match="must have one"):
        report.insert(page, "new")

    assert page.read_text() == "nothing here"


def test_a_run_survives_json(run):
    again = json.loads(json.dumps(run))

    assert report.full(again) == report.full(run)


def test_one_disturbed_round_does_not_make_a_slow_peer_as_fast_as_the_fastest(run):
    seconds = {"gradient_seconds": [1.0, 1.0, 1.0, 1.0, 5.0]}
    slow = row("Peer", 1, 4.0, ratio_min=0.8, product_seconds=[4.0] * 5, **seconds)
    close = row("Other", 1, 1.6, product_seconds=[1.6, 1.4, 1.7, 1.4, 9.0], **seconds)
    run["rows"] = [row("Ours", 1, 1.5), slow, close]

    table = report.full(run)

    assert "**1.50**" in table
    assert "**1.60**" in table
    assert "| 4.00 |" in table
