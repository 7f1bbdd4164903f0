"""Figures before training: what is drawn is what was measured, at its place."""

import numpy as np
import pytest
import torch

from curvescope import plots
from curvescope.report import report
from curvescope.results import (
    Balance,
    BalanceRow,
    InitialisationReport,
    InitialisationRow,
    Provenance,
    Recommendation,
    StepSize,
)

OF = Provenance(matrix="Hessian", reduction="mean", unit="loss per parameter squared")


def step(*, best=2.0, sharpness=1.5):
    grid = torch.linspace(0, 4, 5).double()
    return StepSize(
        of=OF,
        loss=3.0,
        gradient_norm=1.0,
        slope=1.0,
        curvature=0.5,
        step_size=best,
        predicted_gain=None if best is None else 1.0,
        actual_gain=None if best is None else 0.7,
        sharpness=sharpness,
        sharpness_error=1e-4,
        stability_limit=2 / sharpness,
        learning_rate=0.1,
        step_sizes=grid,
        losses=3.0 - grid + 0.3 * grid**2,
    )


def layers(num_layers=3, num_candidates=3, *, predicted=True):
    rows = [
        InitialisationRow(
            candidate=f"candidate_{c}",
            layer=f"block{k}.with_a_long_name",
            num_params=5,
            std=0.1,
            frobenius_norm=10.0 ** (c - k),
            linearisation_norm=10.0 ** (c - k) / 2,
            curvature_norm=0.0 if k == num_layers - 1 else 10.0 ** (c - k) / 3,
            trace=1.0 + k,
            linearisation_trace=1.0 + k,
            frobenius_norm_spread=0.1,
            predicted_trace=1.1 * (1 + k) if predicted else None,
        )
        for c in range(num_candidates)
        for k in range(num_layers)
    ]
    recommended = Recommendation(
        layer="block0",
        fan_in=3,
        fan_out=4,
        constant=0.5,
        present_std=0.1,
        std=0.2,
        forward_std=0.3,
        backward_std=0.15,
        reason="it gets relu",
    )
    return InitialisationReport(
        of=OF,
        layers=tuple(rows),
        recommendations=(recommended,),
        losses={},
        seeds=(0, 1),
        method="exact",
        prediction="mean-field theory",
    )


def balance():
    rows = (
        BalanceRow(
            layer="first",
            treatment="scaled",
            std_before=1.0,
            std_after=2.0,
            norm_before=8.0,
            norm_after=2.0,
        ),
        BalanceRow(layer="norm", treatment="left: why", std_before=1.0, std_after=1.0),
        BalanceRow(
            layer="last",
            treatment="scaled",
            std_before=1.0,
            std_after=0.5,
            norm_before=0.5,
            norm_after=2.0,
        ),
    )
    return Balance(
        of=OF,
        layers=rows,
        method="measured",
        rounds=1,
        converged=True,
        tolerance=0.01,
        loss_before=1.0,
        loss_after=1.0,
        function_kept=True,
    )


def test_a_step_size_shows_losses_model_and_limits_at_their_places():
    result = step()

    (axes,) = plots.plot_step_size(result).axes

    measured, model, *verticals = axes.lines
    np.testing.assert_array_equal(measured.get_xdata(), result.step_sizes)
    np.testing.assert_array_equal(measured.get_ydata(), result.losses)
    x = model.get_xdata()
    np.testing.assert_allclose(model.get_ydata(), 3.0 - x + 0.25 * x**2)
    places = [line.get_xdata()[0] for line in verticals]
    assert places == [2.0, pytest.approx(2 / 1.5), 0.1]


def test_each_candidate_has_a_panel_in_one_scale_with_its_balance():
    result = layers()

    figure = plots.plot_initialisation(result)

    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == 4
    assert len({axes.get_ylim() for axes in panels[:3]}) == 1
    for c, axes in enumerate(panels[:3]):
        assert axes.get_title(loc="left") == f"candidate {c}"
        whole = axes.lines[0].get_ydata()
        np.testing.assert_allclose(whole, [10.0 ** (c - k) for k in range(3)])
        assert axes.texts[0].get_text().startswith("100")
        curvature = [
            line.get_ydata() for line in axes.lines if len(line.get_ydata()) == 3
        ]
        assert np.isnan(curvature[-1][2])  # exactly zero has no place on the axis


def test_balancing_joins_what_was_before_and_after():
    (axes,) = plots.plot_balance(balance()).axes

    before, after = axes.lines[:2]
    np.testing.assert_array_equal(before.get_xdata(), [8.0, 0.5])
    np.testing.assert_array_equal(after.get_xdata(), [2.0, 2.0])
    assert [t.get_text() for t in axes.get_yticklabels()] == ["first", "last"]


@pytest.mark.parametrize("width", [3.4, 6.8])
@pytest.mark.parametrize(
    "result",
    [
        step(),
        step(best=None),
        layers(),
        layers(20, 9, predicted=False),
        layers(1, 1),
        balance(),
    ],
    ids=["step", "no best step", "layers", "many", "one", "balance"],
)
def test_every_size_is_drawn_by_the_catalog(result, width, tmp_path):
    figure = plots.plot(result, size=plots.figure_size(result, width))

    assert plots.save_figure(figure, tmp_path / "figure.png").stat().st_size > 5000


def test_the_page_says_what_was_measured(tmp_path):
    page = report([step(), layers(), balance()], path=tmp_path).read_text()

    for words in ("recommended std 0.2", "the same function", "diverges"):
        assert words in page
