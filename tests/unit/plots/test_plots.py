"""Figures show what the result holds, on the axes they claim."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.unit.plots import synthetic, synthetic_ranks

from curvescope import plots
from curvescope.plots.style import PALETTE
from curvescope.results import DimensionBounds, Estimate

ALL = {
    "eigenvalues": synthetic.eigenpairs,
    "density": synthetic.density,
    "effective_dimension": synthetic.effective_dimension,
    "layers": synthetic.layers,
    "rank": synthetic.rank,
    "rank_report": synthetic_ranks.report,
    "comparison": synthetic_ranks.comparison,
    "picture": synthetic_ranks.picture,
}


def lines(axes, label):
    """The data of the series with a label, error bars included."""
    for container in axes.containers:
        if container.get_label() == label:
            return container[0].get_xydata()
    for line in axes.get_lines():
        if line.get_label() == label:
            return line.get_xydata()
    raise AssertionError(label)


def bars(axes, label):
    """The ends of the error bars of the series with a label."""
    for container in axes.containers:
        if container.get_label() == label:
            return [np.array(s) for s in container[2][0].get_segments()]
    raise AssertionError(label)


def texts(svg):
    return "".join(ET.fromstring(svg).itertext())


@pytest.mark.parametrize("make", ALL.values(), ids=ALL.keys())
def test_every_figure_states_the_unit_on_an_axis(make):
    result = make()

    figure = plots.plot(result)

    labels = [a.get_xlabel() + " " + a.get_ylabel() for a in figure.axes]
    assert result.of.unit in re.sub(r"\s+", " ", " ".join(labels))


def test_eigenvalues_stand_at_their_index_with_their_residuals():
    result = synthetic.eigenpairs(which="LA", unconverged=0)

    axes = plots.plot_eigenvalues(result).axes[0]

    values, errors = result.eigenvalues.numpy(), result.residual_norms.numpy()
    np.testing.assert_array_equal(
        lines(axes, "converged"), np.c_[np.arange(1, 11), values]
    )
    ends = np.array([bar[:, 1] for bar in bars(axes, "converged")])
    np.testing.assert_allclose(ends, np.c_[values - errors, values + errors])


def test_pairs_that_did_not_converge_are_hollow_and_named():
    result = synthetic.eigenpairs(unconverged=2)

    axes = plots.plot_eigenvalues(result).axes[0]

    name = "negative, not converged"
    marked = next(c for c in axes.containers if c.get_label() == name)[0]
    assert marked.get_markerfacecolor() == PALETTE["surface"]
    np.testing.assert_array_equal(marked.get_ydata(), result.eigenvalues[-2:])


@pytest.mark.parametrize("which", ["LA", "SA", "BE", "LM"])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_eigenvalue_axis_holds_all_values_at_any_scale(which, scale):
    result = synthetic.eigenpairs(which=which, unconverged=0)
    result = replace(result, eigenvalues=scale * result.eigenvalues)

    axes = plots.plot_eigenvalues(result).axes[0]

    low, high = axes.get_ylim()
    assert low < float(result.eigenvalues.min())
    assert high > float(result.eigenvalues.max())
    assert 3 <= len(axes.get_yticks()) <= 9
    assert axes.get_yscale() == "asinh"


def test_a_zero_matrix_and_a_single_pair_can_be_drawn(tmp_path):
    zero = replace(
        synthetic.eigenpairs(unconverged=0),
        eigenvalues=torch.zeros(10, dtype=torch.float64),
        residual_norms=torch.zeros(10, dtype=torch.float64),
    )

    for number, result in enumerate([zero, synthetic.eigenpairs(k=1, unconverged=0)]):
        path = plots.save_figure(
            plots.plot_eigenvalues(result), tmp_path / f"{number}.png"
        )
        assert path.stat().st_size > 5000


@pytest.mark.parametrize("axis", ["linear", "signed-log"])
def test_the_density_figure_holds_the_density_and_its_band(axis):
    result = synthetic.density(axis=axis)

    axes = plots.plot_density(result).axes[0]

    curve = lines(axes, "8 probes \u00d7 40 steps")
    inside = result.density.numpy() > axes.get_ylim()[0]
    assert inside.sum() > 50
    np.testing.assert_array_equal(curve[:, 0], result.grid)
    np.testing.assert_array_equal(curve[inside, 1], result.density.numpy()[inside])
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == float(result.band()[1].max())
    assert axes.get_xscale() == ("asinh" if axis == "signed-log" else "linear")


def test_the_dotted_line_is_the_height_of_one_eigenvalue():
    result = synthetic.density(axis="linear")

    axes = plots.plot_density(result).axes[0]

    one = np.exp(0) / (np.sqrt(2 * np.pi) * result.width) / result.dimension
    np.testing.assert_allclose(lines(axes, "one eigenvalue")[:, 1], one)


def test_only_converged_pairs_are_marked_on_a_density():
    pairs = synthetic.eigenpairs(unconverged=3)

    axes = plots.plot_density(synthetic.density(), eigenpairs=pairs).axes[0]

    marks = lines(axes, "7 converged eigenvalues")[:, 0]
    np.testing.assert_array_equal(marks, pairs.eigenvalues[:7])


def test_an_effective_dimension_is_drawn_over_a_logarithmic_z():
    result = synthetic.effective_dimension()

    axes = plots.plot_effective_dimension(result).axes[0]

    curve = lines(axes, "stochastic Lanczos quadrature")
    np.testing.assert_array_equal(curve, np.c_[result.z, result.values])
    assert axes.get_xscale() == "log"


def test_a_lower_bound_is_called_one_on_the_axis():
    result = synthetic.effective_dimension(method="lower_bound")

    axes = plots.plot_effective_dimension(result).axes[0]

    assert "lower bound" in axes.get_ylabel()


@pytest.mark.parametrize("points", [1, 12, 60])
def test_bounds_are_lines_beside_the_curve_and_a_loose_one_leaves_the_axis(points):
    curve = synthetic.effective_dimension(points=points)
    bounds = DimensionBounds(
        z=curve.z,
        lower=0.7 * curve.values,
        upper=1e4 * curve.values,
        negative="clip",
        num_pairs=20,
        dimension=curve.dimension,
        upper_from="number",
    )

    axes = plots.plot_effective_dimension(replace(curve, bounds=bounds)).axes[0]

    np.testing.assert_array_equal(
        lines(axes, "lower bound: 20 pairs")[:, 1], bounds.lower
    )
    above = lines(axes, "upper bound: none of the others is larger")
    np.testing.assert_array_equal(above[:, 1], bounds.upper)
    low, high = axes.get_ylim()
    assert low <= float(bounds.lower.min())
    assert float(curve.values.max()) < high < float(bounds.upper.max())
    alone = plots.plot_dimension_bounds(bounds).axes[0]
    assert alone.get_ylim()[1] >= float(bounds.upper.max())


@pytest.mark.parametrize("count", [1, 5, 60])
def test_every_layer_has_its_name_and_its_values(count):
    result = synthetic.layers(count=count, signed=True)

    left, right = plots.plot_layers(result).axes

    assert len(left.get_yticklabels()) == count
    norms = lines(left, "whole block")[:, 0]
    tops = lines(right, "top eigenvalue")[:, 0]
    np.testing.assert_array_equal(norms, [r.frobenius_norm for r in result.layers])
    np.testing.assert_array_equal(tops, [r.top_eigenvalue for r in result.layers])


def test_a_curvature_part_of_zero_stays_on_the_axis():
    left, _ = plots.plot_layers(synthetic.layers(zero=True)).axes

    low, high = left.get_xlim()
    assert low < 0.0 < high
    assert "0" in [label.get_text() for label in left.get_xticklabels()]
    assert lines(left, "curvature part")[-1, 0] == 0.0


def test_a_name_with_dollar_signs_is_not_mathematics():
    result = synthetic.layers(name=r"$\frac{<b>")

    svg = plots.to_svg(plots.plot_layers(result), prefix="a")

    assert r"$\frac{<b>" in texts(svg)


@pytest.mark.parametrize("make", ALL.values(), ids=ALL.keys())
def test_an_inline_svg_recolours_with_the_page_and_shares_no_id(make):
    figure = plots.plot(make())

    first = plots.to_svg(figure, prefix="one", label='a "figure" & more')
    second = plots.to_svg(figure, prefix="two")

    ids = re.findall(r'\bid="([^"]+)"', first)
    assert len(ids) == len(set(ids)) > 5
    assert not set(ids) & set(re.findall(r'\bid="([^"]+)"', second))
    known = set(PALETTE.values())
    assert set(re.findall(r"#[0-9a-f]{6}\b", first)) <= known
    assert not re.search(r"(?<!, )#[0-9a-f]{6}\b", first)
    assert "<style" not in first
    assert ET.fromstring(first).get("aria-label") == 'a "figure" & more'


def test_the_same_result_gives_the_same_svg():
    svgs = {
        plots.to_svg(plots.plot_density(synthetic.density()), prefix="a")
        for _ in range(2)
    }

    assert len(svgs) == 1


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_figures_are_saved_in_each_format(tmp_path, kind):
    figure = plots.plot_eigenvalues(synthetic.eigenpairs())

    content = plots.save_figure(figure, tmp_path / f"figure.{kind}").read_bytes()

    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    assert content.startswith(starts[kind])
    assert [p.name for p in tmp_path.iterdir()] == [f"figure.{kind}"]


def test_an_unknown_format_is_refused(tmp_path):
    figure = plots.plot_eigenvalues(synthetic.eigenpairs())

    with pytest.raises(ValueError, match=r"`path` must end in \.png, \.pdf or \.svg"):
        plots.save_figure(figure, tmp_path / "figure.bmp")


def test_a_bad_prefix_is_refused():
    figure = plots.plot_eigenvalues(synthetic.eigenpairs())

    with pytest.raises(ValueError, match="`prefix` must be letters, digits and -"):
        plots.to_svg(figure, prefix='a" onload="x')


def test_a_result_without_a_figure_is_refused():
    result = Estimate(quantity="trace", value=1.0, standard_error=0.0)

    with pytest.raises(
        TypeError, match=r"`result` must be one of .*Eigenpairs, Spectral"
    ):
        plots.plot(result)


def test_drawing_leaves_the_users_settings_and_pyplot_alone():
    import matplotlib as mpl

    before = dict(mpl.rcParams)

    figure = plots.plot_density(synthetic.density())
    plots.to_svg(figure, prefix="a")

    assert dict(mpl.rcParams) == before
    code = (
        "import sys\n"
        "from curvescope import plots\n"
        "from tests.unit.plots import synthetic\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plots.plot_eigenvalues(synthetic.eigenpairs())\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_matplotlib_names_the_extra(monkeypatch):
    from curvescope._core.errors import MissingExtraError

    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(MissingExtraError, match=r'pip install "curvescope\[plots\]"'):
        plots.plot_eigenvalues(synthetic.eigenpairs())
