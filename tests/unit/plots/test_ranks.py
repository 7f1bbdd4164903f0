"""Figures of ranks hold the numbers of their results, whatever they look like."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.unit.plots import synthetic, synthetic_ranks
from tests.unit.plots.synthetic_ranks import PREDICTED, prediction

from curvescope import plots
from curvescope.plots.magnitudes import MATRIX_STYLES
from curvescope.plots.style import PALETTE
from curvescope.results import RankSweep, SpectrumComparison, load

FIGURES = {
    "report": synthetic_ranks.report,
    "zero_report": synthetic_ranks.zero_report,
    "sweep": synthetic_ranks.sweep,
    "seeds": lambda: synthetic_ranks.sweep(seeds=3),
    "training": synthetic_ranks.training,
    "comparison": synthetic_ranks.comparison,
    "picture": synthetic_ranks.picture,
}


def line(axes, label):
    found = [artist for artist in axes.get_lines() if artist.get_label() == label]
    assert len(found) == 1, (label, [a.get_label() for a in axes.get_lines()])
    return found[0]


def points(axes, label):
    return line(axes, label).get_xydata().tolist()


def labels(axes):
    return [artist.get_label() for artist in axes.get_lines()]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def expected(sweep, kind, *, normalise):
    unit = [r["num_params"] if normalise else 1 for r in sweep.records]
    return [
        [record[sweep.axis], record[kind] / u]
        for record, u in zip(sweep.records, unit, strict=True)
    ]


def contrast(one, other):
    """The ratio of luminances by which the web's guidelines judge legibility."""

    def luminance(color):
        values = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [
            v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values
        ]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_the_published_colours_have_edges_that_can_be_seen_on_white():
    published = {"hessian": "#bc5090", "functional": "#ff6361", "ggn": "#ffa600"}

    for name, color in published.items():
        style = MATRIX_STYLES[name]
        assert PALETTE[style.color] == color
        assert contrast(PALETTE[style.edge], "#ffffff") > 4.5


@pytest.mark.parametrize("normalise", [None, True, False])
@pytest.mark.parametrize("name", PREDICTED)
def test_lines_are_measured_and_dots_are_predicted_ranks(name, normalise):
    sweep = synthetic_ranks.sweep()

    axes = plots.plot_rank_sweep(sweep, normalise=normalise).axes[0]

    divided = normalise is not False
    measured = points(axes, MATRIX_STYLES[name].name)
    dots = points(axes, f"_{name} predicted")
    assert measured == expected(sweep, f"{name}_rank", normalise=divided)
    assert dots == expected(sweep, f"{name}_predicted", normalise=divided)
    assert line(axes, f"_{name} predicted").get_linestyle() == "None"
    label = "rank / number of parameters" if divided else "rank"
    assert axes.get_ylabel() == label


@pytest.mark.parametrize(
    ("axis", "label", "y_label"),
    [
        ("num_samples", "number of samples n", "rank"),
        ("width", "width of the hidden layers", "rank / number of parameters"),
        ("depth", "number of hidden layers", "rank / number of parameters"),
        ("epoch", "epoch", "rank"),
    ],
)
def test_each_axis_has_the_published_default(axis, label, y_label):
    sweep = synthetic_ranks.sweep(points=4)
    records = tuple({axis: r["width"], **r} for r in sweep.records)

    axes = plots.plot_rank_sweep(replace(sweep, axis=axis, records=records)).axes[0]

    assert axes.get_xlabel() == label
    assert axes.get_ylabel() == y_label


def test_layers_of_several_widths_are_placed_at_the_minimal_one():
    sweep = synthetic_ranks.sweep(points=2)
    records = tuple({**r, "widths": (64, 8, 4, 10)} for r in sweep.records)

    axes = plots.plot_rank_sweep(replace(sweep, records=records)).axes[0]

    assert axes.get_xlabel() == "minimal width"


@pytest.mark.parametrize(
    ("band", "words", "low", "high"),
    [
        ("range", "lowest to highest", 0.0, 1.0),
        ("quartiles", "middle half", 0.25, 0.75),
    ],
)
def test_several_seeds_are_a_mean_and_a_band_that_the_legend_names(
    band, words, low, high
):
    sweep = synthetic_ranks.sweep(seeds=3)

    figure = plots.plot_rank_sweep(sweep, normalise=False, band=band)

    axes = figure.axes[0]
    by_width = {}
    for record in sweep.records:
        by_width.setdefault(record["width"], []).append(record["hessian_rank"])
    values = np.array(list(by_width.values()))
    np.testing.assert_allclose(
        points(axes, "Hessian"), np.c_[[*by_width], values.mean(1)]
    )
    filled = next(c for c in axes.collections if c.get_label() == "_hessian band")
    drawn = {tuple(v) for v in filled.get_paths()[0].vertices}
    for width, ranks in by_width.items():
        assert (width, np.quantile(ranks, low)) in drawn
        assert (width, np.quantile(ranks, high)) in drawn
    assert f"{words} of 3 seeds" in legend(figure)
    assert "measured, mean of 3 seeds" in legend(figure)


def test_an_undetermined_rank_has_a_hollow_mark_at_its_own_place():
    sweep = synthetic_ranks.sweep(seeds=2, points=3)

    figure = plots.plot_rank_sweep(sweep, normalise=False)

    axes = figure.axes[0]
    ring = line(axes, "_hessian undetermined")
    assert ring.get_markerfacecolor() == "none"
    wanted = [[r["width"], r["hessian_rank"]] for r in sweep.records if r["seed"] == 1]
    assert ring.get_xydata().tolist() == wanted
    assert "undetermined" in legend(figure)
    certain = plots.plot_rank_sweep(synthetic_ranks.sweep())
    assert "undetermined" not in legend(certain)
    assert "_hessian undetermined" not in labels(certain.axes[0])


def test_an_exact_rank_is_marked_only_where_it_differs():
    sweep = synthetic_ranks.sweep(seeds=2, points=3)

    axes = plots.plot_rank_sweep(sweep, normalise=False).axes[0]

    wanted = [
        [r["width"], r["ggn_certified"]]
        for r in sweep.records
        if r["ggn_certified"] != r["ggn_rank"]
    ]
    assert len(wanted) == 3
    assert points(axes, "_ggn certified") == wanted
    same = plots.plot_rank_sweep(synthetic_ranks.sweep()).axes[0]
    assert "_ggn certified" not in labels(same)


def test_an_upper_bound_is_a_dashed_ceiling_and_no_dot():
    sweep = synthetic_ranks.sweep(claim="at_most")

    figure = plots.plot_rank_sweep(sweep, normalise=False)

    axes = figure.axes[0]
    for name in PREDICTED:
        ceiling = line(axes, f"_{name} ceiling")
        assert ceiling.is_dashed()
        assert ceiling.get_marker() == "None"
        assert ceiling.get_xydata().tolist() == expected(
            sweep, f"{name}_predicted", normalise=False
        )
        assert f"_{name} predicted" not in labels(axes)
    assert "predicted: at most" in legend(figure)
    assert "predicted" not in legend(figure)


def test_along_training_the_exact_rank_is_a_line_and_the_ggn_is_dashed():
    sweep = synthetic_ranks.training()

    axes = plots.plot_rank_sweep(sweep).axes[0]

    falling = [104, 104, 104, 104, 100, 95, 84, 62, 52, 48]
    assert [y for _, y in points(axes, "Hessian")] == falling
    assert [y for _, y in points(axes, "_hessian certified")] == [104.0] * 10
    assert line(axes, "_hessian certified").get_linestyle() != "None"
    assert line(axes, "GGN").is_dashed()
    assert not line(axes, "Hessian").is_dashed()
    assert [y for _, y in points(axes, "GGN")] == [48.0] * 10


def test_a_sweep_without_predictions_certificates_or_a_matrix_is_drawn():
    records = tuple(
        {"depth": d, "seed": 0, "num_params": 10 * d, "hessian_rank": d}
        for d in range(1, 4)
    )
    sweep = RankSweep(axis="depth", records=records)

    figure = plots.plot_rank_sweep(sweep)

    axes = figure.axes[0]
    assert points(axes, "Hessian") == [[1, 0.1], [2, 0.1], [3, 0.1]]
    assert labels(axes) == ["Hessian"]
    assert legend(figure) == ["Hessian", "measured"]


def test_a_wrong_option_of_a_sweep_is_refused():
    sweep = synthetic_ranks.sweep(points=2)
    bare = tuple(
        {k: v for k, v in r.items() if k != "num_params"} for r in sweep.records
    )

    with pytest.raises(
        ValueError, match="`band` must be 'range' or 'quartiles'; got 'x'"
    ):
        plots.plot_rank_sweep(sweep, band="x")
    with pytest.raises(
        ValueError, match="`normalise` must be False where records hold"
    ):
        plots.plot_rank_sweep(replace(sweep, records=bare))
    assert plots.plot_rank_sweep(replace(sweep, records=bare), normalise=False).axes


def test_a_report_shows_each_spectrum_its_threshold_and_its_prediction():
    result = synthetic_ranks.report()

    panels = dict(zip(MATRIX_STYLES, plots.plot_rank_report(result).axes, strict=True))

    spectra = {
        "hessian": np.sort(np.abs(result.eigenvalues.numpy()))[::-1],
        "functional": result.functional.singular_values.numpy(),
        "ggn": result.ggn.singular_values.numpy(),
    }
    for name, axes in panels.items():
        rank = PREDICTED[name]
        kept, dropped = points(axes, "kept"), points(axes, "dropped")
        assert len(kept) == rank
        index = np.arange(1, len(spectra[name]) + 1)
        drawn = np.array(kept + dropped)
        np.testing.assert_array_equal(drawn, np.c_[index, spectra[name]])
        threshold = line(axes, "threshold").get_ydata()
        assert set(threshold) == {result.measured[name].tolerance}
        own = line(axes, f"predicted: {MATRIX_STYLES[name].name} {rank}")
        assert set(own.get_xdata()) == {rank + 0.5}
        assert axes.get_yscale() == "log"
        heading = axes.get_title(loc="left")
        assert f"rank {rank}\ncertified; predicted {rank}, exact {rank}" in heading
    assert sum(t.startswith("predicted") for t in labels(panels["hessian"])) == 3
    assert sum(t.startswith("predicted") for t in labels(panels["ggn"])) == 1
    assert "of the factor" in panels["ggn"].get_ylabel()


def test_a_report_says_where_prediction_and_rank_differ_and_what_is_undetermined():
    result = synthetic_ranks.report()
    wrong = replace(result.hessian, rank=100, certain=False, standard_error=2.5)
    result = replace(
        result,
        hessian=wrong,
        predictions=(prediction("hessian", 104), prediction("ggn", 300, "at_most")),
    )

    hessian, functional, ggn = plots.plot_rank_report(result).axes

    heading = hessian.get_title(loc="left").replace("\n", " ")
    assert "rank 100 \u00b1 2.5 undetermined; predicted 104: differs" in heading
    assert "no prediction" in functional.get_title(loc="left")
    assert "predicted at most 300" in ggn.get_title(loc="left").replace("\n", " ")
    bound = line(ggn, "predicted: GGN at most 300")
    assert bound.is_dashed()
    # A bound far outside does not press the 80 values into a corner.
    assert ggn.get_xlim()[1] < 85


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_values_and_threshold_lie_on_the_axis_at_any_scale(scale):
    rank = synthetic.rank()
    rank = replace(
        rank,
        singular_values=scale * rank.singular_values,
        tolerance=scale * rank.tolerance,
    )

    axes = plots.plot_singular_values(rank).axes[0]

    low, high = axes.get_ylim()
    assert low < float(rank.singular_values.min())
    assert high > float(rank.singular_values.max())
    assert low < rank.tolerance < high


def test_exact_zeros_stand_below_all_others_and_are_counted():
    rank = synthetic.rank()
    values = torch.cat([rank.singular_values, torch.zeros(5, dtype=torch.float64)])
    rank = replace(rank, singular_values=values, certified=23)

    axes = plots.plot_singular_values(rank).axes[0]

    zeros = points(axes, "5 exactly zero")
    assert [x for x, _ in zeros] == [61, 62, 63, 64, 65]
    assert all(0 < y < float(rank.singular_values[59]) for _, y in zeros)
    assert all(axes.get_ylim()[0] < y for _, y in zeros)
    assert set(line(axes, "exact rank 23").get_xdata()) == {23.5}
    assert axes.get_title(loc="left") == "Rank 23 of the Hessian (certified)"


def test_a_comparison_shows_all_spectra_and_the_predicted_rank():
    result = synthetic_ranks.comparison()

    axes = plots.plot_spectrum_comparison(result).axes[0]

    for label, values in result.eigenvalues.items():
        index = np.arange(1, len(values) + 1)
        np.testing.assert_array_equal(points(axes, label), np.c_[index, values])
    vertical = line(axes, "linear: predicted rank 104")
    assert set(vertical.get_xdata()) == {104.5}
    assert vertical.is_dashed()
    assert not any(t.startswith("tanh: predicted") for t in labels(axes))


def test_signed_eigenvalues_are_compared_by_magnitude():
    spectra = {"a": torch.tensor([3.0, 1.0, -2.0], dtype=torch.float64)}

    axes = plots.plot_spectrum_comparison(SpectrumComparison(eigenvalues=spectra)).axes[
        0
    ]

    assert [y for _, y in points(axes, "a")] == [3.0, 2.0, 1.0]


def test_block_pictures_hold_the_entries_and_leave_exact_zeros_blank():
    result = synthetic_ranks.picture()

    figure = plots.plot_block_picture(result)

    shown = [axes for axes in figure.axes if axes.images]
    scales = set()
    for axes, (name, picture) in zip(shown, result.pictures.items(), strict=True):
        drawn = axes.images[0].get_array()
        np.testing.assert_array_equal(np.ma.getdata(drawn), picture)
        np.testing.assert_array_equal(np.ma.getmaskarray(drawn), picture.numpy() == 0)
        assert axes.get_title(loc="left") == MATRIX_STYLES[name].name
        scales.add((axes.images[0].norm.vmin, axes.images[0].norm.vmax))
        borders = [a for a in axes.get_lines() if a.get_label() == "_border"]
        vertical = sorted(b.get_xdata()[0] for b in borders[::2])
        horizontal = sorted(b.get_ydata()[0] for b in borders[1::2])
        assert vertical == horizontal == list(result.borders[1:-1])
        names = [text.get_text() for text in axes.get_xticklabels()]
        assert names == list(result.layers)
    assert len(shown) == 3
    assert len(scales) == 1
    assert next(iter(scales))[1] == float(
        max(p.max() for p in result.pictures.values())
    )
    functional = shown[list(result.pictures).index("functional")].images[0]
    assert functional.cmap(np.ma.masked)[3] == 0.0
    assert np.ma.getmaskarray(functional.get_array())[:72, :72].all()
    assert legend(figure) == ["exactly zero"]


def test_names_of_layers_too_thin_for_them_are_left_out_the_large_ones_kept():
    result = synthetic_ranks.picture()
    edges = np.r_[0.0, 0.002, 0.5, 0.502, 0.504, 1.0]
    layers = ("thin0", "large1", "thin2", "thin3", "large4")
    result = replace(result, borders=tuple(edges.tolist()), layers=layers)

    axes = plots.plot_block_picture(result).axes[0]

    names = [text.get_text() for text in axes.get_xticklabels()]
    assert "large1" in names
    assert "large4" in names
    assert not {"thin2", "thin3"} <= set(names)


def _empty_cases():
    picture = synthetic_ranks.picture()
    report = synthetic_ranks.report()
    return {
        "zero report": synthetic_ranks.zero_report(),
        "one point": synthetic_ranks.sweep(points=1),
        "one point, seeds": synthetic_ranks.sweep(points=1, seeds=3, claim="at_most"),
        "zero pictures": replace(
            picture, pictures={n: torch.zeros(4, 4) for n in PREDICTED}
        ),
        "one constant picture": replace(
            picture, pictures={"hessian": torch.ones(2, 2)}
        ),
        "zero spectra": SpectrumComparison(eigenvalues={"a": torch.zeros(3)}),
        "no values": SpectrumComparison(eigenvalues={"a": torch.zeros(0)}),
        "no records": RankSweep(axis="width", records=()),
        "rank zero": report.hessian.__class__(
            rank=0,
            gap=float("inf"),
            tolerance=0.0,
            certain=True,
            singular_values=torch.zeros(3, dtype=torch.float64),
        ),
        "full rank, no gap": replace(report.ggn, rank=80, gap=float("inf")),
        "all ranks zero": RankSweep(
            axis="num_samples",
            records=({"num_samples": 1, "seed": 0, "hessian_rank": 0},),
        ),
    }


@pytest.mark.parametrize("case", _empty_cases())
@pytest.mark.parametrize("width", [6.8, 3.9])
def test_what_is_empty_or_alone_can_be_drawn(tmp_path, case, width):
    result = _empty_cases()[case]

    figure = plots.plot(result, size=plots.figure_size(result, width))

    assert plots.save_figure(figure, tmp_path / "a.png").stat().st_size > 3000


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES.keys())
def test_a_loaded_result_gives_the_same_figure(tmp_path, make):
    result = make()
    result.save(tmp_path, "a")

    one = plots.to_svg(plots.plot(result), prefix="a")
    other = plots.to_svg(plots.plot(load(tmp_path, "a")), prefix="a")

    assert one == other


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES.keys())
@pytest.mark.parametrize("width", [6.8, 3.9])
def test_no_text_of_a_figure_is_cut_off_or_lies_on_another_panel(make, width):
    result = make()
    figure = plots.plot(result, size=plots.figure_size(result, width))
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()

    texts = [t for legend in figure.legends for t in legend.get_texts()]
    for axes in figure.axes:
        texts += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
            texts += [label for place, label in ticks if low <= place <= high]
    boxes = [t.get_window_extent(renderer) for t in texts if t.get_text().strip()]

    assert len(boxes) > 8
    for box in boxes:
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= figure.bbox.width + 1
        assert box.y1 <= figure.bbox.height + 1
    headings = [
        axes._left_title.get_window_extent(renderer)
        for axes in figure.axes
        if axes._left_title.get_text()
    ]
    for i, one in enumerate(headings):
        assert not any(one.overlaps(other) for other in headings[:i])
