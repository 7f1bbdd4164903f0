"""Figures of the layers' own blocks, and of the blocks between layers."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.unit.plots import synthetic

from curvescope import plots
from curvescope.plots.style import PALETTE
from curvescope.results import BlockNorms, Cost


def block_norms(count=4, *, zero=True):
    rng = np.random.default_rng(3)
    found = {}
    for name in ("hessian", "ggn", "functional"):
        values = 10.0 ** rng.uniform(-2, 1, (count, count))
        found[name] = torch.tensor((values + values.T) / 2)
    if zero:
        found["functional"].diagonal().zero_()
    return BlockNorms(
        of=synthetic.provenance(),
        cost=Cost(),
        layers=tuple(f"layer{i}.conv" for i in range(count)),
        num_params=(10,) * count,
        norms=found,
        errors={name: 0.1 * values for name, values in found.items()},
        method="8 Gaussian probes a layer",
    )


def images(figure):
    return [axes.get_images()[0] for axes in figure.axes if axes.get_images()]


def test_bars_reach_to_the_two_parts_and_stand_behind_their_marks():
    table = synthetic.layers(count=4, zero=False)

    axes = plots.plot_layers(table).axes[0]

    ends = sorted(
        patch.get_x() + patch.get_width() for c in axes.containers[-2:] for patch in c
    )
    parts = [
        getattr(row, field)
        for row in table.layers
        for field in ("linearisation_norm", "curvature_norm")
    ]
    assert ends == pytest.approx(sorted(parts))


def test_a_part_of_zero_has_no_bar():
    table = synthetic.layers(count=3, zero=True)

    axes = plots.plot_layers(table).axes[0]

    assert min(patch.get_width() for c in axes.containers[-2:] for patch in c) == 0.0


def test_every_block_has_its_cell_on_one_scale_and_zero_has_none():
    result = block_norms()

    figure = plots.plot(result)

    drawn = images(figure)
    assert len(drawn) == 3
    assert len({id(image.norm) for image in drawn}) == 1
    for image, norms in zip(drawn, result.norms.values(), strict=True):
        values = np.ma.filled(image.get_array(), 0.0)
        np.testing.assert_array_equal(values, norms.numpy())
    words = [text.get_text() for text in figure.axes[2].texts]
    assert len(words) == 12  # 16 cells, 4 of them exactly zero
    assert f"{float(result.norms['functional'][0, 1]):.2g}" in words
    assert figure.legends[0].get_texts()[0].get_text() == "exactly zero"


def test_many_cells_hold_no_numbers_and_all_names_fit():
    figure = plots.plot(block_norms(40))

    assert not figure.axes[0].texts
    assert len(figure.axes[0].get_xticks()) <= 20


def test_numbers_stand_out_from_their_cells():
    figure = plots.plot(block_norms(zero=False))

    colours = {text.get_color() for axes in figure.axes for text in axes.texts}
    assert colours == {PALETTE["surface"], PALETTE["ink"]}
    assert not figure.legends


@pytest.mark.parametrize("width", [3.3, 6.8])
def test_the_unit_is_stated_whatever_the_width(width):
    result = block_norms()

    figure = plots.plot(result, size=plots.figure_size(result, width))

    labels = " ".join(a.get_ylabel() for a in figure.axes)
    assert result.of.unit in re.sub(r"\s+", " ", labels)


def test_a_matrix_of_zeros_is_drawn_too():
    result = block_norms()
    zeros = {name: torch.zeros_like(v) for name, v in result.norms.items()}

    figure = plots.plot(replace(result, norms=zeros))

    assert not images(figure)
    assert len(figure.axes) == 3
