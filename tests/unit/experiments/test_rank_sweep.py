"""One sweep, three axes; the published defaults."""

from dataclasses import replace

import pytest

from curvescope.experiments import build_rank_problem, experiment, names
from curvescope.experiments.base import decisive
from curvescope.experiments.rank import RankPoint, guess_params
from curvescope.experiments.rank_sweep import (
    RankSweepConfig,
    RankVsDepth,
    RankVsSamples,
    RankVsWidth,
    check_sweep,
    doubts,
    rank_sweep,
    successes,
)

SMALL = {"data": "digits", "dim": 16, "classes": 5, "jobs": 1}
PUBLISHED = {
    "data": "mnist",
    "classes": 10,
    "loss": "mse",
    "init": "glorot",
    "activation": "linear",
    "bias": False,
    "resize": "nearest",
    "channels": "first",
    "seeds": 1,
}


@pytest.mark.parametrize(
    ("config", "own", "values", "normalise"),
    [
        (RankVsSamples(), {"dim": 64, "units": (10, 10)}, range(10, 401, 10), False),
        (RankVsWidth(), {"dim": 64, "num_samples": 100}, range(4, 57, 4), True),
        (RankVsDepth(), {"dim": 16, "num_samples": 50}, range(1, 10), True),
    ],
    ids=["samples", "width", "depth"],
)
def test_the_defaults_are_the_published_ones(config, own, values, normalise):
    for name, value in {**PUBLISHED, **own}.items():
        assert getattr(config, name) == value, name
    assert config.values == tuple(values)
    assert config.normalise is normalise


def test_the_published_sweeps_have_the_published_networks():
    assert RankVsWidth().at(8, 0).units == (8, 8)
    assert RankVsDepth().at(3, 0).units == (25, 25, 25)
    assert RankVsSamples().at(20, 0).num_samples == 20
    # The stored numbers of parameters, for widths 4 to 36.
    sizes = [guess_params(RankVsWidth().at(width, 0)) for width in range(4, 37, 4)]
    assert sizes == [312, 656, 1032, 1440, 1880, 2352, 2856, 3392, 3960]


def test_every_setting_reaches_the_points():
    common = {
        "data": "cifar10",
        "dim": 25,
        "classes": 7,
        "loss": "logcosh",
        "init": "uniform",
        "activation": "elu",
        "bias": True,
        "resize": "area",
        "channels": "mean",
        "certify": "never",
    }
    for config in (RankVsSamples, RankVsWidth, RankVsDepth):
        point = config(**common).at(4, 3)
        assert isinstance(point, RankPoint)
        assert point.seed == 3
        assert {name: getattr(point, name) for name in common} == common


@pytest.mark.parametrize(
    "config",
    [
        RankVsSamples(**SMALL, units=(4,), num_samples=(30, 3)),
        RankVsWidth(**SMALL, widths=(3, 2), num_samples=20),
        RankVsDepth(**SMALL, width=3, depths=(1, 2), num_samples=20),
    ],
    ids=["samples", "width", "depth"],
)
def test_a_sweep_has_one_record_a_value_and_seed_in_order(config):
    sweep = rank_sweep(replace(config, seeds=2))["rank_sweep"]

    places = [(record[sweep.axis], record["seed"]) for record in sweep.records]
    assert places == sorted((v, s) for v in config.values for s in range(2))
    assert sweep.axis == config.AXIS
    assert sweep.settings["normalise"] is config.normalise
    for record in sweep.records:
        q = min(record["input_rank"], 5, *_hidden(config, record[sweep.axis]))
        assert record["ggn_rank"] == q * (record["input_rank"] + 5 - q)
        assert record["hessian_rank"] == record["hessian_predicted"]


def _hidden(config, value):
    return config.at(value, 0).units


def test_a_sweep_goes_on_in_its_folder(tmp_path, monkeypatch):
    config = RankVsWidth(**SMALL, widths=(2, 3), num_samples=20)
    first = rank_sweep(config, folder=tmp_path)["rank_sweep"]

    more = replace(config, widths=(2, 3, 4))
    seen = []
    build = "curvescope.experiments.rank.build_rank_problem"
    monkeypatch.setattr(
        build, lambda point: seen.append(point) or build_rank_problem(point)
    )
    second = rank_sweep(more, folder=tmp_path)["rank_sweep"]

    assert [point.units for point in seen] == [(4, 4)]
    assert second.records[:2] == first.records


@pytest.mark.slow
def test_two_jobs_give_the_table_of_one(tmp_path):
    config = RankVsWidth(**SMALL, widths=(2, 3, 4), num_samples=20)
    one = rank_sweep(config)["rank_sweep"]
    two = rank_sweep(replace(config, jobs=2))["rank_sweep"]

    def ranks(sweep):
        timeless = [dict(record) for record in sweep.records]
        for record in timeless:
            for name in [n for n in record if n == "seconds" or n.endswith("_gap")]:
                del record[name]
        return timeless

    assert ranks(two) == ranks(one)
    assert two.settings == one.settings


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (RankVsWidth(**SMALL, widths=()), "`widths` must hold at least one number"),
        (RankVsWidth(**SMALL, widths=(4, 0)), "`widths` must be at least 1"),
        (RankVsWidth(**SMALL, widths=(4, 4)), "`widths` must have no repetition"),
        (RankVsWidth(**SMALL, depth=0), "`depth` must be at least 1"),
        (RankVsDepth(**SMALL, width=0), "`units` must be at least 1"),
        (RankVsDepth(**{**SMALL, "dim": 15}), "`dim` must be a square number"),
        (RankVsSamples(**SMALL, num_samples=(9999,)), "`num_samples` must be at most"),
        (RankVsSamples(**SMALL, seeds=0), "`seeds` must be at least 1"),
        (RankVsSamples(**{**SMALL, "jobs": 0}), "`jobs` must be at least 1"),
    ],
)
def test_wrong_configurations_are_refused(config, text):
    with pytest.raises(ValueError, match=text):
        check_sweep(config)


def test_how_a_run_is_computed_decides_none_of_its_numbers():
    assert decisive(RankVsWidth(jobs=1)) == decisive(RankVsWidth(jobs=2))
    assert decisive(RankVsWidth(seeds=1)) != decisive(RankVsWidth(seeds=2))


def test_remarks_count_doubts_and_misses():
    def record(rank, verdict, exact, predicted, claim):
        one = {
            "rank": rank,
            "verdict": verdict,
            "certified": exact,
            "predicted": predicted,
            "claim": claim,
        }
        keys = ("hessian", "ggn", "functional")
        return {f"{key}_{name}": value for key in keys for name, value in one.items()}

    def said(*one):
        return doubts([record(*one)]), successes([record(*one)])

    assert said(3, "certified", 3, 3, "equal") == (
        (),
        ("3 of 3 ranks equal the prediction",),
    )
    assert said(3, "certain", None, 4, "equal")[1] == (
        "0 of 3 ranks equal the prediction",
    )
    assert said(3, "certain", None, 4, "at_most")[1] == (
        "3 of 3 ranks keep below their ceiling",
    )
    assert said(3, "certain", None, None, None) == ((), ())
    assert said(3, "undetermined", 4, 4, "equal") == (
        (
            "3 of 3 numerical ranks are undetermined",
            "3 of 3 numerical ranks are not the exact rank",
        ),
        ("3 of 3 ranks equal the prediction",),
    )


def test_every_experiment_has_a_row_with_defaults_and_a_summary():
    for name in names():
        row = experiment(name)
        row.config()
        assert row.name == name
        assert row.summary.endswith(".")
    with pytest.raises(ValueError, match="`name` must be one of 'rank-vs-samples'"):
        experiment("rank")


def test_a_sweep_without_an_axis_cannot_be_made():
    with pytest.raises(TypeError, match=r"abstract.*at.*values"):
        RankSweepConfig()
