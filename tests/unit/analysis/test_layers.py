"""The layer table against dense blocks."""

import json
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

import curvescope.losses as losses
from curvescope.analysis import layer_curvature
from curvescope.curvature import GGN, FunctionalHessian, Hessian
from curvescope.problem import Problem
from curvescope.results import load


def make(hidden=6, activation=nn.Tanh, **options):
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Linear(5, hidden), activation(), nn.Linear(hidden, 3)
    ).double()
    data = (torch.randn(20, 5).double(), torch.arange(20) % 3)
    return Problem(net, "cross_entropy", data, **options)


def assert_exact(row, problem, params):
    H = Hessian(problem).block(params).to_dense()
    G = GGN(problem).block(params).to_dense()
    F = FunctionalHessian(problem).block(params).to_dense()
    scale = float(H.norm())
    assert row.num_params == len(H)
    assert row.frobenius_norm == pytest.approx(scale, rel=1e-10)
    assert row.linearisation_norm == pytest.approx(float(G.norm()), rel=1e-10)
    assert row.curvature_norm == pytest.approx(float(F.norm()), abs=1e-12 * scale)
    assert row.trace == pytest.approx(float(H.trace()), rel=1e-10)
    assert row.linearisation_trace == pytest.approx(float(G.trace()), rel=1e-10)
    assert row.curvature_trace == pytest.approx(float(F.trace()), abs=1e-11 * scale)
    eigenvalues = torch.linalg.eigvalsh(H)
    top = eigenvalues[eigenvalues.abs().argmax()]
    assert row.top_eigenvalue == pytest.approx(float(top), rel=1e-6)
    for value, matrix in (
        (row.linearisation_spectral_norm, G),
        (row.curvature_spectral_norm, F),
    ):
        truth = float(torch.linalg.matrix_norm(matrix, 2))
        assert value == pytest.approx(truth, rel=1e-6, abs=1e-12 * scale)
    assert row.frobenius_norm_error == row.trace_error == 0.0
    assert row.exact


class Mixed(nn.Module):
    """Layers of every kind: the exact way, formed, and probes."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.rnn = nn.GRU(4, 5, batch_first=True)
        self.stem = nn.Linear(5, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, tokens):
        x = self.rnn(self.embed(tokens))[0][:, -1]
        return self.head(torch.relu(self.norm(torch.tanh(self.stem(x)))))


def mixed():
    torch.manual_seed(1)
    data = (torch.randint(0, 6, (9, 4)), torch.arange(9) % 3)
    return Problem(Mixed().double(), "cross_entropy", data)


def test_layers_are_exact_whatever_the_module_is():
    problem = mixed()

    table = layer_curvature(problem)

    ways = {row.name: row.method for row in table.layers}
    assert ways == {
        "embed": "formed",
        "rnn": "probes",
        "stem": "kronecker",
        "norm": "formed",
        "head": "kronecker",
    }
    for row in table.layers:
        if row.name != "rnn":
            assert_exact(row, problem, row.name)


def test_exact_is_exact_for_every_layer():
    problem = mixed()

    table = layer_curvature(problem, method="exact")

    assert all(row.exact for row in table.layers)
    for row in table.layers:
        assert_exact(row, problem, row.name)


def test_a_layer_without_an_exact_way_is_refused_where_exact_was_asked():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(5, 900))
            self.v = nn.Parameter(torch.randn(900, 3))

        def forward(self, x):
            return torch.tanh(x @ self.w) @ self.v

    data = (torch.randn(4, 5), torch.arange(4) % 3)
    problem = Problem(Wide(), "cross_entropy", data)

    with pytest.raises(
        ValueError, match=r"7200 parameters: its parameters are used by"
    ):
        layer_curvature(problem, method="exact")
    assert layer_curvature(problem).layers[0].method == "probes"


def test_estimates_lie_within_their_own_errors():
    problem = make(hidden=10)
    H = Hessian(problem).block("0").to_dense()
    F = FunctionalHessian(problem).block("0").to_dense()

    misses = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        table = layer_curvature(
            problem, num_probes=12, method="probes", generator=generator
        )
        row = table.layers[0]
        assert row.method == "probes"
        for value, error, truth in (
            (row.trace, row.trace_error, H.trace()),
            (row.curvature_trace, row.curvature_trace_error, F.trace()),
            (row.frobenius_norm, row.frobenius_norm_error, H.norm()),
            (row.curvature_norm, row.curvature_norm_error, F.norm()),
        ):
            misses += abs(value - float(truth)) > 2.2 * error

    assert misses <= 12  # 80 intervals of nominal 95 %


def test_relu_layers_have_no_curvature_part():
    table = layer_curvature(make(activation=nn.ReLU))

    for row in table.layers:
        assert row.curvature_norm == row.curvature_trace == 0.0
        assert row.curvature_spectral_norm == 0.0
        assert row.trace == row.linearisation_trace
        assert math.isinf(row.ratio)


def test_one_layer_holds_weight_and_bias_together():
    names = [(row.name, row.num_params) for row in layer_curvature(make()).layers]

    assert names == [("0", 36), ("2", 21)]


def test_groups_are_named_by_globs_predicates_or_a_function():
    problem = make()
    by_glob = {"first": ["0"], "biases": "*.bias", "all": lambda name, p: p.ndim > 0}

    table = layer_curvature(problem, groups=by_glob)
    by_function = layer_curvature(
        problem, groups=lambda name: None if name == "2.bias" else "rest"
    )

    assert [(r.name, r.num_params) for r in table.layers] == [
        ("first", 36),
        ("biases", 9),
        ("all", 57),
    ]
    assert [row.method for row in table.layers] == ["kronecker", "formed", "formed"]
    for row, params in zip(table.layers, ("0", "*.bias", None), strict=True):
        assert_exact(row, problem, params)
    assert [(r.name, r.num_params) for r in by_function.layers] == [("rest", 54)]


def test_groups_hold_selected_parameters_only():
    problem = make(params="*.weight")

    table = layer_curvature(problem, groups={"first": "0"})

    assert table.layers[0].num_params == 30
    assert_exact(table.layers[0], problem.select("0.weight"), "0.weight")
    with pytest.raises(ValueError, match="`groups` must hold selected parameters"):
        layer_curvature(problem, groups={"biases": "*.bias"})
    with pytest.raises(ValueError, match="`groups` must find parameters for 'x'"):
        layer_curvature(problem, groups={"x": "7.*"})
    with pytest.raises(TypeError, match="`groups` must map names to globs"):
        layer_curvature(problem, groups=3)


def test_masked_entries_alone_make_up_a_layer():
    mask = {
        "0.weight": torch.arange(30).view(6, 5) % 3 == 0,
        "0.bias": torch.ones(6) > 0,
    }
    problem = make(params=mask)

    table = layer_curvature(problem)

    assert [row.num_params for row in table.layers] == [16]
    assert_exact(table.layers[0], problem, mask)


def test_weight_decay_is_part_of_the_whole_and_of_the_linearisation():
    problem = make(weight_decay=0.3)

    for row in layer_curvature(problem).layers:
        assert_exact(row, problem, row.name)


@pytest.mark.parametrize("method", ["auto", "probes"])
def test_the_cost_is_what_was_spent(method):
    problem = make(hidden=30)

    table = layer_curvature(problem, method=method, num_probes=5)

    if method == "auto":
        # A forward pass, 3 outputs, a proof, 2 for the second derivative's zero test, 1
        # more for each layer, and the 30 columns of the first.
        assert table.cost.num_matvecs == 0
        assert table.cost.num_data_passes == 1 + 3 + 1 + 2 + 2 + 30
    else:
        assert table.cost.num_matvecs > 2 * 2 * 5


def test_a_loss_that_is_linear_in_the_outputs_has_no_linearisation_part():
    torch.manual_seed(0)
    loss = losses.Loss(lambda z, y: (z * y).sum(), reduction="sum")
    data = (torch.randn(6, 4).double(), torch.randn(6, 2).double())
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()

    row = layer_curvature(Problem(net, loss, data)).layers[0]

    assert row.linearisation_norm == 0.0
    assert row.curvature_norm == row.frobenius_norm > 0.1


def test_half_squared_error_is_invariant_to_the_scale_of_a_relu_layer():
    torch.manual_seed(2)
    widths = (16, 12, 12, 10)
    net = nn.Sequential(
        *(
            module
            for a, b in pairwise(widths)
            for module in (nn.Linear(a, b, bias=False), nn.ReLU())
        )
    )[:-1].double()
    data = (torch.rand(64, 16).double(), torch.randn(64, 10).double())
    found = []

    for place in (0, 2, 4):
        weight = net[place].weight.detach().clone()
        for factor in (1e-3, 1.0, 10.0):
            with torch.no_grad():
                net[place].weight.copy_(factor * weight)
            problem = Problem(net, "half_squared_error", data)
            rows = {r.name: r for r in layer_curvature(problem).layers}
            found.append(rows[str(place)].frobenius_norm)
        with torch.no_grad():
            net[place].weight.copy_(weight)

        assert max(found[-3:]) == pytest.approx(min(found[-3:]), rel=1e-13)


def test_a_table_is_saved_and_read(tmp_path):
    table = layer_curvature(make(activation=nn.ReLU))
    table.save(tmp_path, "layers")

    again = load(tmp_path, "layers")

    assert again.layers == table.layers
    assert "by the chain rule" in again.headline()
    assert str(again) == str(table)
    assert [row["ratio"] for row in again.rows()] == [math.inf, math.inf]


def test_tables_saved_before_the_parts_had_traces_are_read(tmp_path):
    path = layer_curvature(make()).save(tmp_path, "old")
    content = json.loads(path.read_text())
    for row in content["fields"]["layers"]:
        for field in [f for f in row if f.startswith(("linearisation_", "curvature_"))]:
            if "_norm" not in field or "spectral" in field:
                del row[field]
        del row["method"]
    path.write_text(json.dumps(content))

    again = load(tmp_path, "old")

    assert again.layers[0].linearisation_trace is None
    assert again.layers[0].frobenius_norm > 0.0
    assert not again.layers[0].exact  # nothing was said
    assert "0 " in str(again)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="`num_probes` must be at least 2; got 1"):
        layer_curvature(make(), num_probes=1)
    with pytest.raises(ValueError, match="`method` must be one of 'auto', 'exact'"):
        layer_curvature(make(), method="guess")
