"""The figure of all layers' spectra."""

import numpy as np
import pytest
from tests.unit.plots import synthetic

from curvescope import plots
from curvescope.report import report
from curvescope.results import Cost, LayerSpectra, LayerSpectrum


def spectra(count=5, *, k=1, negative=False, converged=True):
    rng = np.random.default_rng(1)
    rows = []
    for i in range(count):
        values = 10.0 ** rng.uniform(-2, 1, k)
        values = sorted(values, key=lambda v: -abs(v))
        if negative and i % 2:
            values[0] = -values[0]
        rows.append(
            LayerSpectrum(
                name=f"layer{i}.conv",
                num_params=100 * (i + 1),
                eigenvalues=tuple(float(v) for v in values),
                residual_norms=(1e-4,) * k,
                converged=converged or i != 1,
                trace=float(3.0 * values[0]),
                trace_error=0.1,
                frobenius_norm=float(abs(values[0])),
            )
        )
    return LayerSpectra(
        of=synthetic.provenance(), cost=Cost(), layers=tuple(rows), tolerance=1e-3
    )


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("width", [3.4, 6.8])
def test_bars_reach_to_the_first_eigenvalues_and_the_traces(negative, width):
    result = spectra(negative=negative, k=2)

    figure = plots.plot(result, size=plots.figure_size(result, width))

    left, right = figure.axes[:2]
    ends = [p.get_x() + p.get_width() for p in left.patches]
    assert ends == pytest.approx([row.top_eigenvalue for row in result.layers])
    ends = [p.get_x() + p.get_width() for p in right.patches]
    assert ends == pytest.approx([row.trace for row in result.layers])
    names = [label.get_text() for label in left.get_yticklabels()]
    assert len(names) == len(result.layers)
    assert left.yaxis_inverted()  # the first layer on top


def test_marks_that_are_not_converged_are_open_and_named():
    figure = plots.plot_layer_spectra(spectra(converged=False))

    _, labels = figure.axes[0].get_legend_handles_labels()
    assert labels == ["top", "top, not converged"]


def test_the_page_says_how_sure_the_numbers_are(tmp_path):
    page = report([spectra(k=2)], path=tmp_path / "run")

    text = page.read_text()
    assert "Spectra of all layers" in text
    assert "true residual" in text
