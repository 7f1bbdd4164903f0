"""The plan of a whole analysis: what it foresees, and that it changes nothing."""

import pytest
import torch
from torch import nn

from curvescope.analysis import analyze
from curvescope.analysis.plan import plan_analysis
from curvescope.curvature import Hessian
from curvescope.problem import Problem

ARGUMENTS = {
    "parts": ("eigenpairs", "density", "trace", "frobenius_norm"),
    "k": 3,
    "max_matvecs": None,
    "num_probes": 4,
    "num_steps": 10,
}


@pytest.fixture
def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3)).double()
    data = (torch.randn(20, 6, dtype=torch.float64), torch.arange(20) % 3)
    return Problem(model, "cross_entropy", data, batch_size=8)


def test_the_products_foreseen_are_about_those_that_are_made(problem):
    plan = plan_analysis(Hessian(problem), ARGUMENTS)
    results = analyze(problem, which="LM", **ARGUMENTS)

    for part in plan.parts:
        made = results[part.name].cost.num_matvecs
        # A density also looks at how far its probes err; pairs may be crowded.
        assert part.num_matvecs / 3 <= made <= 3 * part.num_matvecs, part.name


def test_a_part_takes_its_products_times_their_seconds(problem):
    plan = plan_analysis(Hessian(problem), ARGUMENTS)

    one, four = plan.products
    assert (one.num_columns, four.num_columns) == (1, 4)
    seconds = {part.name: part.seconds for part in plan.parts}
    assert seconds["density"] == pytest.approx(10 * four.seconds)
    assert seconds["trace"] == pytest.approx(12 * four.seconds)
    assert plan.seconds == pytest.approx(sum(seconds.values()) + one.first_seconds)
    assert plan.peak > max(one.peak, four.peak)


def test_explain_prints_the_plan_and_changes_no_number(problem, capsys):
    silent = analyze(problem, parts=["trace"], num_probes=4)
    assert capsys.readouterr().out == ""

    told = analyze(problem, parts=["trace"], num_probes=4, explain=True)

    printed = capsys.readouterr().out
    assert "plan of the Hessian" in printed
    assert "trace" in printed
    assert "at the peak" in printed
    assert told["trace"].value == silent["trace"].value


def test_the_layer_table_is_said_to_go_its_own_ways(problem):
    plan = plan_analysis(Hessian(problem), {**ARGUMENTS, "parts": ("layers",)})

    assert plan.parts[0].num_matvecs is None
    assert "goes its own ways" in str(plan)


def test_results_say_how_their_products_were_computed(problem):
    found = analyze(problem, parts=["trace"], num_probes=4, columns=2, kept=1)

    text = found["trace"].settings["product"]
    kept = "graphs of 1 of 3 batches kept, up to 2 columns at once"
    assert text == f"{kept}, without autograd: a chain of linear layers"
