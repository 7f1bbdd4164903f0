"""Figures of sweeps, maps, boundaries and surfaces: drawn where it was measured."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from matplotlib.contour import QuadContourSet
from matplotlib.image import AxesImage

from curvescope.plots import can_plot, plot
from curvescope.plots.catalog import figure_size
from curvescope.plots.style import PALETTE
from curvescope.report import report
from curvescope.results import (
    DimensionMap,
    DimensionSweep,
    LossSurface,
    PerturbedClassifiers,
    Provenance,
    SurfaceComparison,
    load,
)

OF = Provenance(matrix="GGN", reduction="mean", num_params=50, num_samples=10)
WIDTHS = (1, 2, 4, 8, 16, 64)
TRAIN = (2.0, 1.0, 0.1, 0.3, 0.01, 0.001)
TEST = (3.0, 4.0, 6.0, 5.0, 3.0, 2.0)


def record(place, seed, index, **axes):
    return {
        **axes,
        "seed": seed,
        "num_params": 10 * place,
        "train_loss": TRAIN[index] * (1 + 0.1 * seed),
        "test_loss": TEST[index] + 0.2 * seed,
        "effective_dimension": [10.0 * TEST[index] + seed, 4.0 - abs(2 - index)],
    }


def sweep(seeds=2, **more):
    records = tuple(
        record(width, seed, i, width=width)
        for i, width in enumerate(WIDTHS)
        for seed in range(seeds)
    )
    return DimensionSweep(
        of=OF, axis="width", z=(0.01, 0.1), main_z=0.1, records=records, **more
    )


def area(widths=(2, 3, 9), depths=(1, 2)):
    records = tuple(
        record(width * depth, 0, (i + j) % 6, width=width, depth=depth)
        for i, width in enumerate(widths)
        for j, depth in enumerate(depths)
    )
    return DimensionMap(of=OF, z=(0.01, 0.1), main_z=0.1, records=records)


def boundaries():
    axis = torch.linspace(-1, 1, 11).double()
    base = torch.sigmoid(8 * (axis[:, None] + 0 * axis))  # the boundary is x = 0
    moved = torch.sigmoid(8 * (axis[:, None] - 0.5 + 0 * axis))
    return PerturbedClassifiers(
        of=OF,
        x=axis,
        y=axis,
        probabilities=base,
        perturbed=torch.stack([base, moved, moved]),
        kinds=("top 3", "top 3", "random"),
        step_lengths=(0.1, 0.5, 0.5),
        losses=(0.1, 2.0, 3.0),
        agreements=(1.0, 0.75, 0.7),
        loss=0.1,
        points=torch.randn(20, 2, generator=torch.Generator().manual_seed(0)),
        labels=torch.arange(20) % 2,
    )


def surfaces():
    axis = torch.linspace(-0.5, 0.5, 5).double()
    grid = axis[:, None] ** 2 + 2 * axis[None] ** 2 + axis[:, None]
    made = {}
    for name, height in (("all", 1.0), ("bottom", 1e-4)):
        made[name] = LossSurface(
            of=OF,
            names=("a", "b"),
            coordinates=(axis, axis),
            losses=1.0 + height * grid,
            loss=1.0,
            gradient=torch.tensor([height, 0.0]).double(),
            curvature=height * torch.diag(torch.tensor([2.0, 4.0])).double(),
            direction_norms=(1.0, 1.0),
            parameter_norm=1.0,
            num_forward_passes=25,
        )
    return SurfaceComparison(of=OF, surfaces=made)


ALL = {
    "sweep": sweep,
    "map": area,
    "boundaries": boundaries,
    "surfaces": surfaces,
}


@pytest.mark.parametrize("name", ALL)
def test_a_result_survives_its_file_and_has_figure_and_page(name, tmp_path):
    result = ALL[name]()
    result.save(tmp_path, "it")
    kept = load(tmp_path, "it")
    assert type(kept) is type(result)
    assert kept.rows() == result.rows()
    assert str(kept) == str(result)
    assert can_plot(kept)
    narrow = plot(kept, size=figure_size(kept, 3.4))
    assert narrow.get_figheight() > plot(kept).get_figheight()
    page = report({"it": kept}, path=tmp_path / "page").read_text(encoding="utf-8")
    assert "exact" in page


def test_values_stand_at_their_place_and_absent_ones_are_missing():
    found = sweep()
    lost = DimensionSweep(
        of=OF, axis="width", z=found.z, main_z=0.1, records=found.records[:-1]
    )
    assert found.values("test_loss")[2].tolist() == [6.0, 6.2]
    assert found.values("effective_dimension", z=0.01)[1].tolist() == [40.0, 41.0]
    assert math.isnan(lost.values("test_loss")[-1, 1])
    assert found.peak("test_loss") == 4
    assert found.peak_distance("test_loss", "effective_dimension", z=0.1) == 0
    assert found.peak_distance("test_loss", "num_params", z=0.1) == 3
    with pytest.raises(ValueError, match=r"`z` must be one of 0.01, 0.1; got 0.5"):
        found.values("effective_dimension", z=0.5)


def test_losses_and_dimension_are_drawn_on_their_own_axes():
    figure = plot(sweep())
    left, below, right = figure.axes

    (test,) = [line for line in left.lines if line.get_label() == "test loss"]
    assert test.get_xdata().tolist() == list(WIDTHS)
    assert test.get_ydata() == pytest.approx([value + 0.1 for value in TEST])
    (dimension,) = right.lines
    assert dimension.get_ydata().tolist() == [2.0, 3.0, 4.0, 3.0, 2.0, 1.0]
    assert dimension.get_color() == PALETTE["green"]
    assert left.get_ylim()[0] == 0.0
    assert right.get_ylim()[0] == 0.0
    marks = {
        line.get_label(): line.get_xdata()
        for line in below.lines
        if not line.get_label().startswith("_")
    }
    assert marks == {
        "test loss: largest at 4": [4],
        "N_eff, z = 0.01: largest at 4": [4],
        "N_eff, z = 0.1: largest at 4": [4],
    }


def test_every_z_has_a_colour_of_its_own():
    zs = (0.01, 0.02, 0.05, 0.1)
    records = tuple(
        {**r, "effective_dimension": [1.0, 2.0, 3.0, 4.0]} for r in sweep().records
    )
    result = DimensionSweep(of=OF, axis="width", z=zs, main_z=0.1, records=records)
    below = plot(result).axes[1]
    marks = [line for line in below.lines if not line.get_label().startswith("_")]
    assert len({line.get_color() for line in marks}) == 5
    assert len({line.get_marker() for line in marks}) == 5


def test_bands_reach_from_the_lowest_to_the_highest_seed():
    left = plot(sweep()).axes[0]
    band = left.collections[0].get_paths()[0].vertices
    at_four = sorted(set(band[band[:, 0] == 4, 1].round(9)))
    assert at_four == [6.0, 6.2]


def test_the_ground_is_grey_where_the_train_loss_is_not_small():
    left = plot(sweep()).axes[0]
    grey = [
        patch.get_extents().transformed(left.transData.inverted())
        for patch in left.patches
    ]
    for width, loss in zip(WIDTHS, TRAIN, strict=True):
        inside = any(box.x0 < width < box.x1 for box in grey)
        assert inside == (loss >= 0.2), width


def test_ticks_of_a_sweep_are_the_widths_themselves():
    below = plot(sweep()).axes[1]
    labels = [text.get_text() for text in below.get_xticklabels()]
    assert labels == [str(round(x)) for x in below.get_xticks()]
    assert set(below.get_xticks()) <= set(WIDTHS)


def test_every_cell_of_a_map_is_named_by_its_width_and_depth():
    result = area()
    figure = plot(result)
    panels = [axes for axes in figure.axes if axes.get_ylabel() == "depth"]
    assert len(panels) == 3
    names = ("effective_dimension", "test_loss", "train_loss")
    for axes, name in zip(panels, names, strict=True):
        (image,) = [c for c in axes.get_children() if isinstance(c, AxesImage)]
        for record_ in result.records:
            # Upper maps share the labels of the lowest one.
            labels = panels[-1].get_xticklabels()
            column = [t.get_text() for t in labels].index(str(record_["width"]))
            row = [t.get_text() for t in axes.get_yticklabels()].index(
                str(record_["depth"])
            )
            # The tick is in the middle of the cell that shows the value.
            x, y = axes.get_xticks()[column], axes.get_yticks()[row]
            left, right, bottom, top = image.get_extent()
            shape = image.get_array().shape
            i = int((y - bottom) / (top - bottom) * shape[0])
            j = int((x - left) / (right - left) * shape[1])
            value = record_[name]
            expected = value[1] if isinstance(value, list) else value
            assert image.get_array()[i, j] == pytest.approx(expected)


def test_the_contour_of_the_train_loss_lies_between_the_right_cells():
    records = tuple(
        {**record(1, 0, 0, width=w, depth=d), "train_loss": loss, "num_params": w}
        for w, loss in ((1, 2.0), (2, 0.02))
        for d in (1, 2)
    )
    result = DimensionMap(of=OF, z=(0.01, 0.1), main_z=0.1, records=records)
    axes = plot(result).axes[0]
    drawn = [c for c in axes.get_children() if isinstance(c, QuadContourSet)]
    (line,) = [c for c in drawn if np.allclose(c.levels, np.log10(0.2))]
    # On logarithms 0.2 lies midway between 2 and 0.02.
    vertices = np.concatenate([path.vertices for path in line.get_paths()])
    assert vertices[:, 0] == pytest.approx(0.5)


def test_boundaries_are_drawn_before_and_after_each_step():
    result = boundaries()
    assert result.changed().tolist() == pytest.approx([0.0, 2 / 11, 2 / 11], abs=0.1)
    figure = plot(result)
    titled = [
        axes for axes in figure.axes if axes.get_title(loc="left").startswith("step")
    ]
    assert len(titled) == 3
    lines = [c for c in titled[1].get_children() if isinstance(c, QuadContourSet)]
    places = sorted(
        float(np.concatenate([p.vertices for p in c.get_paths()])[:, 0].mean())
        for c in lines
    )
    assert places == pytest.approx([0.0, 0.5], abs=1e-6)


def test_surfaces_share_their_colours_and_tell_true_lengths():
    figure = plot(surfaces())
    panels = [axes for axes in figure.axes if axes.get_xlabel() == "step length"]
    images = [
        next(c for c in axes.get_children() if isinstance(c, AxesImage))
        for axes in panels
    ]
    assert images[0].norm is images[1].norm
    for image in images:
        left, right, *_ = image.get_extent()
        # Five points from -0.5 to 0.5, each in the middle of a cell of 0.25.
        assert (left, right) == pytest.approx((-0.625, 0.625))
    # First coordinate to the right.
    data = images[0].get_array()
    assert data[2, 4] > data[2, 0]


def test_the_legend_says_what_the_bands_are():
    def bands(result):
        labels = [t.get_text() for t in plot(result).legends[0].get_texts()]
        return [label for label in labels if "band" in label]

    low, high = {"effective_dimension_low": [1.0, 2.0]}, [50.0, 60.0]
    estimated = tuple(
        {**r, **low, "effective_dimension_high": high} for r in sweep().records
    )
    seeds = "bands: lowest to highest of 2 seeds"

    assert bands(sweep(seeds=1)) == []
    assert bands(sweep()) == [seeds]
    both = bands(dataclasses.replace(sweep(), records=estimated))
    assert both == [seeds, "green band: 95 % intervals of all seeds"]
    single = tuple(r for r in estimated if r["seed"] == 0)
    only = bands(dataclasses.replace(sweep(), records=single))
    assert only == ["green band: 95 % intervals"]
