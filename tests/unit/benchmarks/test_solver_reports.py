"""The tables of whole algorithms, the targets, and where they go."""

import json

import pytest
from benchmarks import density_report, layers_report, publish, report, top_report
from benchmarks.suites import SUITES, density, layers, many, products, top
from benchmarks.suites.suite import at_least, at_most

CONDITIONS = {"cores_busy_with_others": 0.0, "load_average_start": [0.1, 0.1, 0.1]}


def row(key, seconds, *, problem="resnet20-256", **more):
    return {
        "problem": problem,
        "matrix": "hessian",
        "implementation": key,
        "name": key,
        "version": "3.1",
        "settings": {},
        "rounds": 5,
        "all_seconds": [seconds],
        "seconds": seconds,
        "gradients": seconds / 0.5,
        "products": 28,
        "passes": 28,
        "peak_bytes": 5 * 2**20,
        "ratio": seconds / 10.0,
        **more,
    }


def verdict(**more):
    return {
        "values": [5.0, 4.0],
        "right": 10,
        "largest_error": 1e-6,
        "duplicates": 0,
        "wrong_but_claimed": None,
        "worst_residual": 5e-4,
        **more,
    }


def run(*rows, problem="resnet20-256", failed=(), **facts):
    return {
        "theme": "top",
        "date": "2030-01-02",
        "environment": {
            "cpu": "Some CPU",
            "cores": 2,
            "threads": 2,
            "torch": "2.13.0",
            "clock": "wall",
        },
        "problems": {
            problem: {
                "description": "A net",
                "num_params": 1234,
                "num_samples": 256,
                "num_batches": 2,
                "conditions": CONDITIONS,
                **facts,
            }
        },
        "rows": list(rows),
        "failed": list(failed),
        "absent": [{"implementation": "gone", "reason": "no environment"}],
        "skipped": [],
    }


def cells(text, name):
    lines = [part for part in text.splitlines() if part.startswith(f"| {name}")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture
def tops():
    ghost = verdict(right=1, duplicates=9, wrong_but_claimed=4, worst_residual=0.3)
    return run(
        row("curvescope", 10.0, verdict=verdict(), products=30),
        row("slow", 40.0, verdict=verdict(), rounds=1),
        row("loose", 5.0, verdict=verdict(worst_residual=0.02)),
        row("ghosts", 6.0, verdict=ghost),
        row("eigsh-curvlinops", 32.0, verdict=verdict(), products=31),
        failed=[{"implementation": "new", "problem": "p", "reason": "no such option"}],
        exact_values=[5.0, 4.0],
        exact_residuals=[1e-5, 1e-6],
    )


def test_wrong_values_are_shown_and_never_the_fastest(tops):
    text = top_report.full(tops)

    assert cells(text, "curvescope")[0][1:3] == ["**10**", "1"]
    assert cells(text, "loose")[0][1] == "5"
    assert cells(text, "loose")[0][7] == "**2.0e-02**"
    assert cells(text, "ghosts")[0][9:] == ["**1**", "**9** (4)"]
    assert cells(text, "slow")[0][1:3] == ["40 (n=1)", "4 x"]
    assert "- ghosts: 5, 4" in text
    assert "- loose: 5, 4" not in text  # its values are right
    assert "Exact: 5, 4 (residuals up to 1e-05)" in text
    assert "- new on p: no such option" in text


def test_the_short_table_is_sorted_and_has_the_errors(tops):
    text = top_report.short(tops)

    names = [line.split("|")[1].strip() for line in text.splitlines() if "|" in line]
    assert names[2:] == ["loose", "ghosts", "curvescope", "eigsh-curvlinops", "slow"]
    assert cells(text, "ghosts")[0][-2:] == ["**3.0e-01**", "**1**"]


def test_a_targets_peer_is_the_fastest_that_is_right(tops):
    reached = {entry.what: entry for entry in top.targets(tops)}

    faster = [e for what, e in reached.items() if what.endswith("peer that reaches it")]
    assert [entry.reached for entry in faster] == ["3.2 x", None]  # nothing compiled
    assert [entry.met for entry in faster] == [True, None]
    few = [entry for what, entry in reached.items() if what.endswith(": products")]
    assert (few[0].reached, few[0].met) == ("30", True)


@pytest.fixture
def densities():
    rows = []
    for key, factor in (("curvescope", 1.0), ("pyhessian", 6.0)):
        for probes, seconds, error in ((1, 0.1, 4e-3), (8, 0.5, 1e-3)):
            settings = {"num_probes": probes, "num_steps": 50}
            errors = [error, error, 99.0]  # one bad seed
            rows.append(
                row(
                    key,
                    factor * seconds,
                    problem=density.SMALL,
                    settings=settings,
                    ratio=factor,
                    all_verdicts=[{"error": e} for e in errors],
                )
            )
    return run(*rows, problem=density.SMALL, smallest=-0.1, largest=1.0)


def test_an_errors_time_is_of_the_cheapest_setting_that_reaches_it(densities):
    text = density_report.full(densities)

    best, *curve = cells(text, "pyhessian")
    assert best[1:5] == ["600 (6 x)", "1 x 50", "3,000 (6 x)", "8 x 50"]
    assert best[5:9] == ["3,000 (6 x)", "1.0e-03", "28", "28"]
    assert curve == []
    assert cells(text, "8 x 50")[0][1:] == ["500, 1.0e-03", "3,000, 1.0e-03"]
    assert cells(density_report.short(densities), "curvescope")[0][1] == "**100**"


def test_an_error_that_nobody_reaches_is_not_a_time(densities):
    for entry in densities["rows"]:
        entry["all_verdicts"] = [{"error": 0.1}]

    text = density_report.full(densities)

    assert "not reached" in text
    assert all(e.reached is None for e in density.targets(densities)[:2])


def test_density_targets_compare_the_best_times(densities):
    reached = [entry for entry in density.targets(densities) if entry.reached]

    assert [entry.reached for entry in reached] == ["6 x", "6 x", "6 x"]
    assert all(entry.met for entry in reached)


def test_a_loop_that_was_cut_says_so_and_what_all_would_take():
    found = run(
        row("curvescope", 10.0, verdict={"values": {"a": 1.0}, "largest_error": 1e-7}),
        row(
            "curvescope-whole",
            4.0,
            ratio=0.4,
            verdict={"values": {"(all)": 1.0}, "largest_error": None},
        ),
        row(
            "loop",
            60.0,
            done=5,
            of=20,
            verdict={"values": {"a": 1.0}, "largest_error": 1e-2},
        ),
    )

    text = layers_report.full(found)

    assert cells(text, "loop")[0][2:4] == ["**5 of 20**", "about 24 x"]
    assert cells(text, "curvescope-whole")[0][2] == "whole"
    (target,) = layers.targets(found)
    assert (target.reached, target.met) == ("2.5", True)


def test_the_products_targets_are_of_right_products_only():
    def product(key, ratio, problem="resnet20", columns=1, error=1e-7):
        return {
            "implementation": key,
            "problem": problem,
            "matrix": "hessian",
            "columns": columns,
            "ratio": ratio,
            "relative_error": error,
        }

    found = {
        "rows": [
            product("curvescope", 1.25),
            product("curvescope-compiled", 0.9, error=0.1),
            product("cola", 4.0),
            product("eigenthings-fd", 0.5, error=12.0),
        ]
    }

    reached = {entry.what: entry for entry in products.targets(found)}

    assert reached["one Hessian product, ResNet20"].met
    assert reached["one Hessian product, ResNet20, compiled"].met is None
    assert reached["ResNet20's product against cola"].reached == "3.2 x"
    assert reached["never slower than a peer that is right"].met
    slower = {"rows": [*found["rows"], product("pyhessian", 1.0)]}
    assert products.targets(slower)[-1].met is False


def test_a_product_without_kept_graphs_has_its_own_target():
    def product(key, ratio):
        return {
            "implementation": key,
            "problem": many.TIMED,
            "ratio": ratio,
            "relative_error": 1e-6,
        }

    found = many.targets({"rows": [product("curvescope", 2.4), product("cola", 3.7)]})

    assert [entry.met for entry in found] == [False, True]


def test_a_target_says_whether_it_was_met_or_not_measured():
    assert at_most("x", 1.5, 1.25).met
    assert at_most("x", 1.5, 1.6, "gradients").reached == "1.6 gradients"
    assert not at_most("x", 1.5, 1.6).met
    assert not at_least("x", 2.0, 1.9).met
    assert at_least("x", 2.0, None).met is None


def test_every_suite_has_targets_or_none_before_it_was_run():
    for suite in SUITES.values():
        assert all(entry.met is None for entry in suite.targets(None))


def test_tables_go_where_their_markers_are_and_targets_beside(
    tops, tmp_path, monkeypatch
):
    markers = {name: "\n".join(report.markers(name)) for name in ("top-eigenvalues",)}
    page, readme = tmp_path / "page.md", tmp_path / "README.md"
    page.write_text("\n".join([*markers.values(), *report.markers("targets")]))
    readme.write_text(f"head\n{markers['top-eigenvalues']}\n")
    results = tmp_path / "top_x_20300102.json"
    results.write_text(json.dumps(tops))
    old = run(exact_values=[1.0], exact_residuals=[0.0])
    (tmp_path / "top_x_20290102.json").write_text(json.dumps(old))
    for name, value in (("PAGE", page), ("README", readme), ("RESULTS", tmp_path)):
        monkeypatch.setattr(publish, name, value)

    publish.main([])

    assert top_report.full(tops) in page.read_text()
    assert top_report.short(tops) in readme.read_text()
    text = page.read_text()
    assert "| 3.2 x | yes |" in text  # the newest run's
    assert "| not measured |  |" in text


def test_every_table_has_its_place_in_the_page_and_the_readme():
    page, readme = publish.PAGE.read_text(), publish.README.read_text()

    for suite in SUITES.values():
        for marker in report.markers(suite.marker):
            assert page.count(marker) == 1
            assert suite.short is None or readme.count(marker) == 1
    assert page.count(report.markers(publish.TARGETS)[0]) == 1
