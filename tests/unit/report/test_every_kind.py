"""Every kind of result prints, survives saving, is reported and drawn."""

import inspect
import math

import numpy as np
import pytest
import torch
from torch import nn

import curvescope as cs
from curvescope import bayes, results
from curvescope.plots import can_plot, figure_size, plot
from curvescope.report import write_report
from curvescope.report.kinds import _KINDS, kind_of
from curvescope.results import Result

KINDS = sorted(
    (
        value
        for value in vars(results).values()
        if inspect.isclass(value) and issubclass(value, Result) and value is not Result
    ),
    key=lambda kind: kind.__name__,
)
# All single numbers of a page stand in one table, which has its own words.
IN_ONE_TABLE = {results.Estimate}
# A number, one number an entry, or a table of verdicts: their rows say it all.
WITHOUT_FIGURE = {
    results.Estimate,
    results.VectorEstimate,
    results.RegularisationScale,
    results.InitSummary,
    results.LawTable,
}


def test_every_kind_has_words_of_its_own_on_the_page():
    assert set(_KINDS) | IN_ONE_TABLE == set(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_has_a_figure_but_single_numbers(kind):
    assert can_plot(object.__new__(kind)) == (kind not in WITHOUT_FIGURE)


def design():
    generator = np.random.default_rng(3)
    Phi = generator.standard_normal((12, 20)) * np.geomspace(3.0, 1e-3, 20)
    return Phi, Phi @ generator.standard_normal(20) + 0.1 * generator.standard_normal(
        12
    )


def problem(width=6):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(15, 4, generator=generator)
    labels = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
    net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return cs.Problem(net, "cross_entropy", (X, labels))


def linear():
    return bayes.linear_posterior(*design(), prior_variance=2.0, noise_variance=0.1)


def laplace(method="exact", **options):
    return cs.laplace(problem(), prior_precision=0.5, method=method, **options)


def predictive(method="exact", num_inputs=5, **options):
    posterior = laplace(method, **options)
    X = torch.randn(num_inputs, 4, generator=torch.Generator().manual_seed(1))
    return cs.laplace_predict(posterior, problem(), X)


def evidence():
    generator = np.random.default_rng(5)
    Phi = generator.standard_normal((40, 5))
    y = Phi @ generator.standard_normal(5) + 0.3 * generator.standard_normal(40)
    return bayes.maximise_evidence(Phi, y)


MAKERS = {
    "linear_posterior": linear,
    "laplace": laplace,
    "laplace_low_rank": lambda: laplace("low_rank", rank=5),
    "predictive": predictive,
    "predictive_bounds": lambda: predictive("low_rank", rank=5),
    "predictive_many": lambda: predictive("low_rank", num_inputs=90, rank=5),
    "predictive_linear": lambda: bayes.predict(linear(), design()[0]),
    "evidence": evidence,
    "identities": lambda: bayes.posterior_identities(
        *design(), prior_variance=2.0, noise_variance=0.1
    ),
    "homogeneity": lambda: bayes.check_function_space_homogeneity(problem(24)),
    "homogeneity_none": lambda: bayes.check_function_space_homogeneity(problem(1)),
    "z": lambda: bayes.z_from_weight_decay(problem(), weight_decay=1e-2),
}


@pytest.fixture(scope="module", params=MAKERS)
def made(request):
    return request.param, MAKERS[request.param]()


def test_it_prints_saves_and_loads(made, tmp_path):
    _, result = made

    assert result.headline() in str(result)
    loaded = results.load(result.save(tmp_path, "it").parent, "it")

    assert type(loaded) is type(result)
    assert str(loaded) == str(result)
    assert str(loaded.rows()) == str(result.rows())


def test_it_is_drawn_at_both_widths(made):
    _, result = made
    if type(result) in WITHOUT_FIGURE:
        pytest.skip("a number has no figure")
    for width in (3.9, 6.8):
        size = figure_size(result, width)
        figure = plot(result, size=size)
        figure.draw_without_rendering()
        assert tuple(figure.get_size_inches()) == pytest.approx(size)


def test_its_page_has_its_title_and_how_sure_it_is(made, tmp_path):
    name, result = made

    page = write_report({name: result}, tmp_path, title="A page").read_text("utf-8")

    kind = kind_of(result)
    for text in (kind.title(result), kind.sureness(result)):
        assert text
        assert text.split("(")[0][:60].replace("'", "&#39;") in page.replace("\n", " ")


def test_a_posterior_is_drawn_as_its_numbers():
    result = linear()
    left, right = plot(result).axes
    lines = {line.get_label(): line for line in right.get_lines()}
    shares = lines["posterior variance"].get_ydata()
    np.testing.assert_allclose(shares, (result.variances / 2.0).numpy(), rtol=1e-12)
    lines = {line.get_label(): line for line in left.get_lines()}
    assert set(lines["precision of the prior"].get_ydata()) == {0.5}
    assert 1.0 - shares == pytest.approx(result.determined.numpy(), abs=1e-12)


def test_bounds_of_a_prediction_are_two_intervals_and_exact_ones_are_one():
    exact, bounds = plot(predictive()).axes[0], predictive("low_rank", rank=5)
    assert float(bounds.covariance_slack.min()) > 0.0
    assert len(plot(bounds).axes[0].containers) == 2 * len(exact.containers) == 6


def test_the_order_of_a_change_stands_in_the_legend():
    found = bayes.check_function_space_homogeneity(problem(24))
    texts = [text.get_text() for text in plot(found).legends[0].get_texts()]
    orders = [float(text.split("to the ")[1]) for text in texts if "to the" in text]
    assert orders == pytest.approx([found.random_order, found.null_order], abs=0.006)
    assert math.isclose(found.null_order, 2.0, abs_tol=0.1)


def test_a_page_warns_of_weights_that_are_no_mode():
    result = laplace()
    assert result.newton_decrement > 1.0
    texts = [*result.notes, *kind_of(result).warnings(result)]
    assert sum("mode" in text for text in texts) == 1
