"""The Hessian chain rule's parts against dense autodiff, and its laws."""

import csv
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, jacrev

from curvescope.cli.main import main
from curvescope.experiments import chain_laws, experiment
from curvescope.experiments.base import filled
from curvescope.experiments.chain_laws import LawPoint, first_images, network, scale_
from curvescope.experiments.chain_rule import (
    ChainRuleConfig,
    chain_rule,
    measure,
    points_of,
)

TOY = {"seeds": 1, "width": 4, "num_samples": 6, "jobs": 1}


def dense_parts(model, images, labels):
    """Return every layer's Hessian and GGN of the mean loss, by dense autodiff."""
    state = {name: p.detach() for name, p in model.named_parameters()}

    found = []
    for name in state:

        def outputs(weight, name=name):
            return functional_call(model, {**state, name: weight}, (images,))

        def loss(weight, outputs=outputs):
            return F.cross_entropy(outputs(weight), labels)

        size = state[name].numel()
        H = jacrev(torch.func.grad(loss))(state[name]).reshape(size, size)
        J = jacrev(outputs)(state[name]).reshape(len(labels), -1, size)
        p = outputs(state[name]).softmax(1)
        second = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        G = torch.einsum("nap,nab,nbq->pq", J, second, J) / len(labels)
        found.append((H, G))
    return found


@pytest.mark.parametrize("activation", ["tanh", "gelu", "relu"])
def test_the_recorded_norms_are_those_of_dense_matrices(activation):
    config = ChainRuleConfig(
        activations=(activation,), depths=(3,), scales=(0.3, 0.6), **TOY
    )
    (point,) = points_of(config)
    images, labels = first_images("digits", None, 6)
    model = network((64, 4, 4, 10), activation, 0)
    scale_(model, [0.3] * 3)

    records = [r for r in measure(point)["records"] if r["scale"] == 0.3]

    for record, (H, G) in zip(records, dense_parts(model, images, labels), strict=True):
        assert record["whole"] == pytest.approx(float(H.norm()), rel=1e-11)
        assert record["linearisation"] == pytest.approx(float(G.norm()), rel=1e-11)
        left = float((H - G).norm())
        assert record["curvature"] == pytest.approx(left, rel=1e-9, abs=1e-14)


def test_the_powers_of_tanh_networks_are_those_of_the_law_to_three_digits():
    config = ChainRuleConfig(activations=("tanh",), depths=(3, 5), seeds=2, jobs=1)
    found = chain_rule(config)["chain_rule"]

    for depth, laws in ((3, (-1, 1)), (5, (-3, -1, 1, 3))):
        for layer, power in enumerate(laws, start=1):
            row = found.power("tanh", depth, layer)
            assert row["predicted"] == power
            assert abs(row["measured"] - power) < 1e-3
        last = found.power("tanh", depth, depth)
        assert last["measured"] is None
        assert float(found.ratios("tanh", depth, depth).abs().max()) == 0.0


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "identity"])
def test_piecewise_linear_networks_have_no_curvature_part_at_all(activation):
    config = ChainRuleConfig(activations=(activation,), depths=(2, 4), **TOY)
    found = chain_rule(config)["chain_rule"]

    assert {record["curvature"] for record in found.records} == {0.0}
    assert all(r["whole"] == r["linearisation"] > 0.0 for r in found.records)
    assert {row["measured"] for row in found.powers} == {None}


def test_every_law_holds_and_its_status_is_the_theorys():
    rows = chain_laws.measure_laws(LawPoint(data="digits", data_root=None, seed=1))[
        "laws"
    ]

    for row in rows:
        assert abs(row["measured"] - row["predicted"]) <= row["tolerance"], row["where"]
    assert {row["law"] for row in rows} == {
        "piecewise_linear",
        "own_scale",
        "homogeneous_scale",
        "off_diagonal_ratio",
        "balance",
    }
    off = [row for row in rows if row["law"] == "off_diagonal_ratio"]
    # Every pair of different layers of networks of two, three and four layers.
    assert [row["predicted"] for row in off] == [-2.0] + [-3.0] * 3 + [-4.0] * 6
    exact = [row for row in rows if row["law"] == "own_scale"]
    assert len(exact) == 6
    assert all(row["tolerance"] <= 1e-11 for row in exact)


def test_a_wrong_law_is_seen_not_to_hold():
    found = chain_rule(ChainRuleConfig(activations=("tanh",), depths=(3,), **TOY))
    laws = found["laws"].laws
    assert all(law.holds for law in laws)
    first = laws[0]

    wrong = type(first)(
        **{
            **{n: getattr(first, n) for n in first.__dataclass_fields__},
            "predicted": first.predicted + 0.01,
        }
    )

    assert not wrong.holds


def test_the_curvature_of_small_smooth_even_activations_grows_towards_the_input():
    # phi''(0) is not zero: the curvature part of layer k loses s^(L - k) to the other.
    config = ChainRuleConfig(
        activations=("gelu",), depths=(4,), scales=(1e-5, 1e-4), **TOY
    )
    found = chain_rule(config)["chain_rule"]

    for layer in (1, 2, 3):
        measured = found.power("gelu", 4, layer)["measured"]
        assert measured == pytest.approx(layer - 4, abs=5e-3)


def test_the_command_leaves_tables_figure_and_page(tmp_path, capsys):
    out = tmp_path / "run"
    words = [
        "experiment", "chain-rule", "--activations", "tanh", "relu", "--depths", "3",
        "--seeds", "1", "--width", "4", "--num-samples", "6", "--jobs", "1",
        "--out", str(out),
    ]  # fmt: skip

    assert main(words) == 0

    printed = capsys.readouterr().out
    assert "laws hold within their tolerance" in printed
    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert len(rows) == 2 * 3 * 7
    laws = list(csv.DictReader((out / "laws.csv").read_text().splitlines()))
    assert {row["holds"] for row in laws} == {"True"}
    assert (out / "figures" / "chain_rule.png").is_file()
    page = (out / "report.html").read_text()
    assert "Laws of the Hessian chain rule" in page
    # The same command computes nothing again.
    kept = {p: p.stat().st_mtime_ns for p in (out / "points").iterdir()}
    assert main(words) == 0
    assert {p: p.stat().st_mtime_ns for p in (out / "points").iterdir()} == kept


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("activations", ("cosine",), "`activations` must be one of"),
        ("depths", (1,), "`depths` must be at least 2"),
        ("scales", (0.1,), "`scales` must hold at least two numbers"),
        ("scales", (0.1, 0.0), "`scales` must be above 0"),
        ("num_samples", 0, "`num_samples` must be at least 1"),
    ],
)
def test_a_wrong_configuration_says_what_is_wrong(field, value, text):
    config = ChainRuleConfig(**{field: value})
    with pytest.raises(ValueError, match="must") as caught:
        experiment("chain-rule").check(config)
    assert text in str(caught.value)


def test_the_plan_counts_the_networks():
    made = experiment("chain-rule").plan(ChainRuleConfig(preset="paper"))
    config = filled(ChainRuleConfig(preset="paper"))
    kinds = list(itertools.product(config.activations, config.depths))
    assert made.runs == len(kinds) * config.seeds
    assert made.rows[0].num_params == 30 * (784 + 10)
