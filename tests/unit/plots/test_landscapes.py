"""Figures of surfaces and of steps: what is drawn is what was measured, at its place."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from curvescope import plots
from curvescope.plots.style import PALETTE
from curvescope.report import report
from curvescope.results import Homogeneity, LossSurface, Provenance

OF = Provenance(matrix="loss", reduction="mean", num_params=50)


def surface(dims=2, *, far=(1.0, 1.0), offset=0.1, accuracies=True):
    axes = tuple(
        torch.linspace(-x, x, 7 - 2 * i).double() for i, x in enumerate(far[:dims])
    )
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    curvature = torch.diag(torch.tensor([8.0, 2.0]).double())[:dims, :dims]
    # The first axis alone is skewed, so that a transposed picture is seen.
    losses = offset + 0.5 * (grid @ curvature * grid).sum(-1) + 0.3 * grid[..., 0] ** 3
    return LossSurface(
        of=OF,
        names=("first", "second")[:dims],
        coordinates=axes,
        losses=losses,
        accuracies=1.0 / (1.0 + losses) if accuracies else None,
        loss=offset,
        accuracy=0.9 if accuracies else None,
        gradient=torch.zeros(dims).double(),
        curvature=curvature,
        direction_norms=(1.0,) * dims,
        parameter_norm=3.0,
        num_forward_passes=losses.numel(),
    )


def steps(*, agreements=True, test=False, draws=3):
    kinds = {"top": 30.0, "bottom": 0.001, "random": 1.0}
    lengths = torch.tensor([0.1, 1.0, 10.0]).double()
    factors = torch.linspace(0.5, 1.5, draws).double()[:, None]
    losses = {k: 0.05 + factors * b * lengths**2 for k, b in kinds.items()}
    agree = {k: 1.0 / (1.0 + loss) for k, loss in losses.items()}
    return Homogeneity(
        of=OF,
        step_lengths=lengths,
        num_vectors={"top": 3, "bottom": 20, "random": 50},
        losses=losses,
        agreements=agree if agreements else {},
        curvatures={k: 2.0 * b * factors[:, 0] for k, b in kinds.items()},
        test_losses={k: 1.1 * v for k, v in losses.items()} if test else {},
        test_loss=0.055 if test else None,
        loss=0.05,
        parameter_norm=3.0,
        num_forward_passes=99,
    )


def test_a_line_shows_loss_model_and_present_weights_at_their_coordinates():
    result = surface(1)

    above, below = plots.plot_loss_surface(result).axes

    loss, model, centre = above.lines
    np.testing.assert_array_equal(loss.get_xdata(), result.coordinates[0])
    np.testing.assert_array_equal(loss.get_ydata(), result.losses)
    np.testing.assert_allclose(model.get_ydata(), result.quadratic_losses())
    assert (*centre.get_xdata(), *centre.get_ydata()) == (0.0, result.loss)
    np.testing.assert_array_equal(below.lines[0].get_ydata(), result.accuracies)
    assert "8" in model.get_label()
    assert "first" in below.get_xlabel()


def test_a_plane_has_one_scale_and_cells_around_their_points():
    result = surface()

    figure = plots.plot_loss_surface(result)

    axes = figure.axes[0]
    image = axes.images[0]
    np.testing.assert_array_equal(image.get_array(), result.losses.T)
    left, right, bottom, top = image.get_extent()
    assert (left, right) == pytest.approx((-1 - 1 / 6, 1 + 1 / 6))
    assert (bottom, top) == pytest.approx((-1 - 1 / 4, 1 + 1 / 4))
    assert axes.get_aspect() == 1.0
    assert image.origin == "lower"
    assert axes.get_xlabel().endswith("first")
    assert axes.get_ylabel().endswith("second")


def test_a_plane_ends_at_the_outermost_points():
    axes = plots.plot_loss_surface(surface(far=(1.0, 0.7))).axes[0]

    assert axes.get_xlim() == (-1.0, 1.0)
    assert axes.get_ylim() == pytest.approx((-0.7, 0.7))


def test_a_plane_with_one_long_axis_gives_up_the_common_scale():
    assert (
        plots.plot_loss_surface(surface(far=(1.0, 20.0))).axes[0].get_aspect() == "auto"
    )


def test_a_wide_range_is_logarithmic_and_a_narrow_one_linear():
    from matplotlib.colors import LogNorm

    wide, narrow = surface(offset=1e-3), surface(offset=100.0)

    norms = [plots.plot_loss_surface(r).axes[0].images[0].norm for r in (wide, narrow)]

    assert isinstance(norms[0], LogNorm)
    assert not isinstance(norms[1], LogNorm)
    for result, norm in zip((wide, narrow), norms, strict=True):
        assert norm.vmin == pytest.approx(float(result.losses.min()))
        assert norm.vmax == pytest.approx(float(result.losses.max()))


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), -5.0])
def test_losses_that_are_not_finite_or_negative_can_be_drawn(dims, value, tmp_path):
    result = surface(dims)
    losses = result.losses.clone()
    losses.reshape(-1)[0] = value

    figure = plots.plot_loss_surface(replace(result, losses=losses))

    assert plots.save_figure(figure, tmp_path / "x.png").stat().st_size > 5000


@pytest.mark.parametrize("dims", [1, 2])
def test_a_constant_loss_can_be_drawn(dims, tmp_path):
    result = surface(dims, accuracies=False)
    result = replace(result, losses=torch.full_like(result.losses, 0.7))

    figure = plots.plot_loss_surface(result)

    assert plots.save_figure(figure, tmp_path / "x.pdf").stat().st_size > 1000


def test_steps_show_the_median_and_the_range_of_the_draws():
    result = steps()

    loss, agreement = plots.plot_homogeneity(result).axes

    for axes, measured in ((loss, result.losses), (agreement, result.agreements)):
        for number, kind in enumerate(result.kinds):
            values = measured[kind].numpy()
            line = axes.lines[number]
            np.testing.assert_allclose(line.get_ydata(), np.median(values, axis=0))
            np.testing.assert_array_equal(line.get_xdata(), result.step_lengths)
            corners = axes.collections[number].get_paths()[0].vertices[:, 1]
            assert corners.min() == pytest.approx(values.min())
            assert corners.max() == pytest.approx(values.max())
    labels = [line.get_label() for line in loss.lines]
    assert labels[0] == "top 3 eigenvectors"
    assert "control" in labels[2]
    assert loss.get_yscale() == loss.get_xscale() == "log"
    colors = [line.get_color() for line in loss.lines[:3]]
    assert len(set(colors)) == 3
    assert set(colors) <= set(PALETTE.values())


def test_without_labels_there_is_one_panel_and_other_data_are_dashed():
    assert len(plots.plot_homogeneity(steps(agreements=False)).axes) == 1

    axes = plots.plot_homogeneity(steps(test=True, draws=1)).axes[0]

    assert "other data" in [line.get_label() for line in axes.lines]


@pytest.mark.parametrize("make", [surface, lambda: surface(1), steps])
@pytest.mark.parametrize("width", [3.6, 6.8])
def test_every_size_is_drawn_by_the_catalog(make, width, tmp_path):
    result = make()

    figure = plots.plot(result, size=plots.figure_size(result, width))

    assert plots.save_figure(figure, tmp_path / "x.png").stat().st_size > 5000


def test_the_page_tells_how_to_read_them(tmp_path):
    page = report([surface(), steps()], path=tmp_path)

    text = page.read_text()
    assert "plane through the weights" in text
    assert "How far the function stays the same" in text
    assert "random directions of the same length are the control" in text
