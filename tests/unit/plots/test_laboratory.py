"""Figures of the effective-dimension laboratory, from results made by hand."""

import math

import pytest
import torch

from curvescope.plots import can_plot, figure_size, plot
from curvescope.results import (
    CorrelationTable,
    MeasureComparison,
    PosteriorContraction,
    RandomFeaturesCurve,
    RankCorrelation,
)


def features(draws=1):
    x = torch.arange(5, 40, 2)
    peak = 1.0 / ((x - 20.0).abs() + 1.0)
    curve = torch.stack([peak + 0.1 * draw for draw in range(draws)]).double()
    return RandomFeaturesCurve(
        num_samples=20,
        z=0.02,
        num_features=x,
        undetermined_dimension=curve,
        effective_dimension=x.double().repeat(draws, 1),
        train_error=0.5 * curve,
        test_error=2.0 * curve,
        seeds=tuple(range(draws)),
    )


def contraction(model):
    n = torch.tensor([1, 10, 100])
    falling = torch.tensor([[9.0, 8.0, 5.0], [9.5, 8.5, 5.5]]).double()
    return PosteriorContraction(
        model=model,
        num_observations=n,
        parameter_dimension=falling,
        effective_dimension=10.0 - falling,
        function_dimension=0.1 * falling if model == "linear" else None,
        prior_dimension=10.0,
        z=1.0,
        num_params=20,
        seeds=(0, 1),
    )


def comparison(strata=None):
    records = tuple(
        {
            "a": i + 1.0,
            "b": math.nan if i == 3 else 10.0**i,
            "y": 2.0 * i,
            "d": i % 2,
            "kept": i > 1,
        }
        for i in range(8)
    )
    return MeasureComparison(
        target="y",
        measures=("a", "b"),
        records=records,
        words={"a": "the measure a", "d": "decay"},
        chosen="kept",
        chosen_words="kept ones",
        strata=strata,
    )


def table():
    def row(measure, among, rho):
        return RankCorrelation(
            measure=measure,
            among=among,
            num_points=6,
            rank_correlation=rho,
            low=rho - 0.1,
            high=rho + 0.05,
        )

    rows = (
        row("the measure a", "kept ones", 0.75),
        row("b", "kept ones", math.nan),
        row("the measure a", "decay 0", 0.5),
        row("the measure a", "decay 1", -0.25),
    )
    return CorrelationTable(target="y", correlations=rows, num_resamples=100)


RESULTS = [
    features(),
    features(3),
    contraction("linear"),
    contraction("net"),
    comparison(),
    comparison("d"),
    table(),
]


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("width", [3.9, 6.8])
def test_every_kind_is_drawn_at_both_widths(result, width):
    assert can_plot(result)
    size = figure_size(result, width)
    figure = plot(result, size=size, title="")
    figure.draw_without_rendering()
    assert tuple(figure.get_size_inches()) == pytest.approx(size)


def test_the_published_label_is_corrected():
    errors, dimension = plot(features()).axes
    assert errors.get_ylabel() == "relative error"
    assert dimension.get_ylabel().endswith("min(n, d) \u2212 N_eff")
    (line,) = dimension.get_lines()
    torch.testing.assert_close(
        torch.tensor(line.get_ydata()), features().undetermined_dimension[0]
    )


def test_regimes_change_an_eighth_before_and_after_the_number_of_samples():
    spans = [p.get_extents() for p in plot(features()).axes[0].patches]
    borders = plot(features()).axes[0].transData.inverted()
    edges = [borders.transform((s.x0, s.y0))[0] for s in spans]
    assert edges == pytest.approx([5.0, 17.5, 22.5])


def test_several_draws_have_a_band_and_one_has_none():
    assert not plot(features()).axes[0].collections
    assert len(plot(features(3)).axes[0].collections) == 2


def test_the_prior_is_a_line_of_its_own():
    left, right = plot(contraction("linear")).axes
    labels = {line.get_label(): line for line in left.get_lines()}
    prior = labels["before any data"]
    assert set(prior.get_ydata()) == {10.0}
    mean = labels["parameter covariance"].get_ydata()
    assert list(mean) == [9.25, 8.25, 5.25]
    assert "function covariance" in labels
    assert right.get_ylabel() == "N_eff of the Hessian"
    assert plot(contraction("net")).axes[1].get_ylabel() == "N_eff of the GGN"


def test_correlations_stand_above_their_panel_with_their_interval():
    figure = plot(comparison(), correlations=table())
    titles = [axes.get_title(loc="left") for axes in figure.axes[:2]]
    assert titles == ["\u03c1 = 0.75 (0.65 to 0.80)", ""]


def test_strata_are_marked_apart_and_told_apart():
    figure = plot(comparison("d"), correlations=table())
    title = figure.axes[0].get_title(loc="left")
    assert title == "\u03c1 = 0.50, \u22120.25; mixed 0.75"
    texts = {text.get_text() for text in figure.legends[0].get_texts()}
    assert texts == {"not compared", "decay 0", "decay 1"}


def test_points_that_are_not_compared_are_hollow():
    axes = plot(comparison()).axes[0]
    hollow, filled = axes.collections
    assert len(hollow.get_offsets()) == 2
    assert len(filled.get_offsets()) == 6
    assert len(hollow.get_facecolors()) == 0


def test_a_correlation_table_has_a_line_a_measure():
    axes = plot(table()).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["the measure a", "b"]
    assert axes.get_xlabel() == "rank correlation with y"
