"""Figures of trackings: legends cover nothing, axes are not stretched, ticks are steps."""

import numpy as np
import pytest
import torch

from curvescope import plots
from curvescope.results import Provenance, TrackingCurve


def curve(*, limit=None, adaptive=False, layers=("0", "2")):
    at = torch.arange(0, 20, 4)
    top = torch.linspace(0.9, 1.1, 5, dtype=torch.float64)
    names = {"preconditioned_sharpness": 1e6 * top} if adaptive else {}
    return TrackingCurve(
        of=Provenance(matrix="Hessian", description="MLP, cross_entropy", unit=""),
        at=at,
        loss=1.0 / (1.0 + at.double()),
        gradient_norm=0.1 * top,
        eigenvalues=torch.stack([top, 0.8 * top], dim=1),
        converged=torch.ones(5, 2, dtype=torch.bool),
        trace=4 * top,
        trace_error=0.1 * top,
        z=(0.01, 0.1),
        effective_dimension=torch.stack([9 * top, 3 * top], dim=1),
        effective_dimension_band=torch.stack(
            [
                torch.stack([8 * top, 10 * top], dim=1),
                torch.stack([2 * top, 4 * top], dim=1),
            ],
            dim=1,
        ),
        layers=layers,
        layer_norms=torch.rand(5, len(layers), 3, dtype=torch.float64) + 0.1,
        limit=None if limit is None else torch.as_tensor(limit).double().expand(5),
        formula="2 (1 + 0.9) / ((1 - 0.9) eta)" if adaptive else "2 / eta",
        adaptive=adaptive,
        **names,
    )


MANY = tuple(f"encoder.layers.{i}.attention.out_proj" for i in range(30))


@pytest.mark.parametrize("width", [3.4, 6.8])
@pytest.mark.parametrize("layers", [("0", "2"), MANY, tuple(map(str, range(10)))])
def test_no_legend_lies_on_a_panel_or_leaves_the_figure(width, layers):
    result = curve(limit=[1e3, 1e4, 1e6, 1e7, 1e8], adaptive=True, layers=layers)
    size = plots.tracking.tracking_size(result, width)

    figure = plots.plot(result, size=size)

    figure.canvas.draw()
    panels = [axes.get_window_extent() for axes in figure.axes if axes.axison]
    legends = [
        a.get_legend().get_window_extent() for a in figure.axes if a.get_legend()
    ]
    assert len(legends) >= 5
    for legend in legends:
        assert legend.x0 >= 0
        assert legend.x1 <= figure.bbox.x1
        assert legend.y1 <= figure.bbox.y1
        for panel in panels:
            covered = min(legend.y1, panel.y1) - max(legend.y0, panel.y0)
            beside = min(legend.x1, panel.x1) - max(legend.x0, panel.x0)
            assert covered <= 1 or beside <= 1
    for one in legends:
        apart = [o for o in legends if o is not one and one.overlaps(o)]
        assert not apart


def test_of_layers_with_long_names_the_ends_are_read():
    legend = plots.plot(curve(layers=MANY)).axes[-2].get_legend()

    names = [text.get_text() for text in legend.get_texts()]
    assert len(set(names)) == 6
    assert all(name.endswith(".attention.out_proj") for name in names)


@pytest.mark.parametrize(
    "limit", [200.0, [200.0, 2e3, 2e4, 2e5, 2e6], [1.0, 20.0, 200.0, 2e3, 2e4]]
)
def test_the_axis_of_eigenvalues_is_no_wider_than_what_is_drawn(limit):
    axes = plots.plot(curve(limit=limit)).axes[1]

    low, high = axes.get_ylim()
    assert 0.65 <= low <= 0.72
    assert 1.1 <= high <= 1.2


def test_ticks_of_steps_are_whole_numbers():
    for axes in filter(lambda a: a.axison, plots.plot(curve()).axes):
        ticks = axes.get_xticks()
        np.testing.assert_array_equal(ticks, np.round(ticks))


def test_bands_say_what_they_are():
    figure = plots.plot(curve())

    named = {
        axes.get_ylabel(): [t.get_text() for t in axes.get_legend().get_texts()]
        for axes in figure.axes
        if axes.get_legend()
    }
    interval = "95\u00a0% interval"
    assert named["trace"] == ["trace", interval]
    assert named["effective dimension"] == ["z = 0.01", "z = 0.1", interval]
