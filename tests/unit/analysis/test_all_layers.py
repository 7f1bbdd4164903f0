"""All layers' spectra against dense blocks: every way that a layer can go."""

import importlib
import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import CASES
from tests.conformance.oracles import Oracle
from torch import nn
from torch.func import functional_call, grad, jacrev

import curvescope as cs
from curvescope._core.errors import AccuracyWarning, ChangedDuringComputationError
from curvescope.analysis.all_layers_rows import LayerRun
from curvescope.results import Provenance, load

MODULE = importlib.import_module("curvescope.analysis.all_layers")


@pytest.fixture
def unformed(monkeypatch):
    """Form no block that could be multiplied instead."""
    monkeypatch.setattr(MODULE, "_FORMED_BELOW", 1)
    monkeypatch.setattr(MODULE, "_FORMED_FOR_DENSITY", 1)
    rows = importlib.import_module("curvescope.analysis.all_layers_rows")
    monkeypatch.setattr(rows, "_FORMED_ALWAYS", 1)


def dense_block(model, loss, X, y, names):
    """The Hessian's block of some parameters, by jacrev of grad."""
    fixed = {n: p.detach() for n, p in model.named_parameters()}
    sizes = [fixed[n].numel() for n in names]

    def objective(flat):
        moved = {
            n: piece.view_as(fixed[n])
            for n, piece in zip(names, flat.split(sizes), strict=True)
        }
        return loss(functional_call(model, fixed | moved, (X,)), y)

    return jacrev(grad(objective))(torch.cat([fixed[n].flatten() for n in names]))


def by_magnitude(D):
    values = torch.linalg.eigvalsh(D)
    return values[values.abs().argsort(descending=True)]


def assert_top(row, D, tol=1e-7):
    truth = by_magnitude(D)[: len(row.eigenvalues)]
    found = torch.tensor(row.eigenvalues, dtype=torch.float64)
    size = float(truth.abs().max())
    assert row.converged
    assert torch.allclose(found.abs(), truth.abs(), rtol=0.0, atol=tol * size + 1e-13)


def mlp(activation=nn.ReLU, widths=(9, 14, 12, 3), samples=40, seed=0, **options):
    torch.manual_seed(seed)
    layers = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), activation()]
    net = nn.Sequential(*layers[:-1]).double()
    X, y = torch.randn(samples, widths[0]).double(), torch.arange(samples) % widths[-1]
    options = {"batch_size": 16} | options
    return cs.Problem(net, "cross_entropy", (X, y), **options), net, X, y


class ReLUConvNet(nn.Module):
    """Convolutions, BatchNorm, a residual sum, pooling: piecewise linear behind all."""

    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(1, 3, 3, padding=1, bias=False)
        self.b1 = nn.BatchNorm2d(3)
        self.c2 = nn.Conv2d(3, 3, 3, padding=1)
        self.b2 = nn.BatchNorm2d(3)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        x = torch.relu(self.b1(self.c1(x)))
        x = torch.relu(x + self.b2(self.c2(x)))
        return self.head(nn.functional.max_pool2d(x, 3).flatten(1))


def conv(**options):
    torch.manual_seed(1)
    net = ReLUConvNet().double()
    with torch.no_grad():
        for norm in (net.b1, net.b2):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
            norm.weight.add_(0.3 * torch.randn(3))
    X, y = torch.randn(10, 1, 6, 6).double(), torch.arange(10) % 3
    options = {"batch_size": 4} | options
    return cs.Problem(net, "cross_entropy", (X, y), **options), net.eval(), X, y


@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_small_blocks_of_any_network_are_those_of_the_dense_matrix(case, matrix):
    if case.id == "mlp-nll" and matrix == "ggn":
        pytest.skip("the GGN vanishes there, which warns")
    oracle = Oracle(case)
    D = oracle.hessian() if matrix == "hessian" else oracle.ggn()
    model, loss, inputs, targets = case.make()
    problem = cs.Problem(model, loss, case.batches(inputs, targets))
    places = {s.name: range(s.start, s.stop) for s in problem.layout.slices()}

    spectra = cs.all_layers(problem, k=2, matrix=matrix)

    for row, names in zip(spectra.layers, problem.layers().values(), strict=True):
        at = torch.tensor([i for name in names for i in places[name]])
        block = D[at][:, at]
        size = float(block.norm())
        assert_top(row, block)
        assert row.num_params == len(block)
        slack = 1e-9 * size
        assert abs(row.trace - float(block.trace())) <= 5 * row.trace_error + slack
        off = abs(row.frobenius_norm - size)
        assert off <= 5 * row.frobenius_norm_error + slack


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_lanczos_on_any_network_finds_the_dense_matrix_eigenvalues(case, unformed):
    D = Oracle(case).hessian()
    model, loss, inputs, targets = case.make()
    problem = cs.Problem(model, loss, case.batches(inputs, targets))
    places = {s.name: range(s.start, s.stop) for s in problem.layout.slices()}

    spectra = cs.all_layers(problem, num_probes=2)

    for row, names in zip(spectra.layers, problem.layers().values(), strict=True):
        at = torch.tensor([i for name in names for i in places[name]])
        assert_top(row, D[at][:, at])


@pytest.mark.parametrize("make", [mlp, conv])
def test_piecewise_linear_layers_take_one_sweep_and_no_product(make, unformed):
    problem, net, X, y = make()
    calls = []
    net.register_forward_hook(lambda *a: calls.append(len(a[2])))

    spectra = cs.all_layers(problem, k=2)

    assert {row.method for row in spectra.layers} <= {"factor", "formed"}
    assert spectra.cost.num_data_passes == 1
    # Every sample once, and a few samples looked at.
    assert sum(calls) <= len(X) + 8
    for row, names in zip(spectra.layers, problem.layers().values(), strict=True):
        D = dense_block(net, nn.functional.cross_entropy, X, y, names)
        assert_top(row, D)
        assert row.trace == pytest.approx(float(D.trace()), rel=1e-10)
        assert row.trace_error == 0.0


def test_curved_layers_share_the_kept_graphs_of_one_pass(unformed):
    problem, net, X, y = mlp(nn.Tanh)
    calls = []
    net.register_forward_hook(lambda *a: calls.append(len(a[2])))

    spectra = cs.all_layers(problem, num_probes=4)

    assert [row.method for row in spectra.layers[:2]] == ["products", "products"]
    assert "curvature part is not zero" in spectra["0"].reason
    assert sum(calls) <= 2 * len(X) + 12  # one pass for graphs, one for the factor
    most = max(row.num_matvecs for row in spectra.layers)
    assert spectra.cost.num_data_passes <= most
    for row, names in zip(spectra.layers, problem.layers().values(), strict=True):
        assert_top(row, dense_block(net, nn.functional.cross_entropy, X, y, names))


def test_the_top_pairs_shares_of_trace_and_norm_are_not_estimated():
    values = torch.cat([torch.tensor([9.0, -8.0, 7.0]), torch.full((297,), 0.01)])
    chains = importlib.import_module("curvescope.analysis.all_layers_chains")
    of = Provenance(num_params=300)
    space = chains.Space(300, torch.float64, torch.device("cpu"), of)
    probes = chains.ProbeChain(
        space, num_probes=12, generator=torch.Generator().manual_seed(0)
    )

    probes.give(values.double()[:, None] * probes.wanted())
    trace, error, norm, norm_error = probes.moments(
        values[:3].double(), torch.eye(300, dtype=torch.float64)[:3]
    )

    assert trace == pytest.approx(float(values.sum()), abs=4 * error)
    assert norm == pytest.approx(float(values.norm()), abs=4 * norm_error)
    # With random vectors alone the errors are 5.7 and 1.7.
    assert error < 0.01
    assert norm_error < 1e-4


def test_a_product_with_a_late_block_takes_less_work_than_with_an_early_one():
    widths = (8, 16, 16, 16, 16, 3)
    problem, *_ = mlp(nn.Tanh, widths=widths)

    work = [row.product_work for row in cs.all_layers(problem).layers]

    assert 1.0 > work[0] > work[1] > work[2] > work[3]


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_traces_and_norms_lie_within_their_errors(activation, unformed):
    problem, net, X, y = mlp(activation)
    names = problem.layers()["2"]
    D = dense_block(net, nn.functional.cross_entropy, X, y, names)
    scores = []

    for seed in range(24):
        generator = torch.Generator().manual_seed(seed)
        row = cs.all_layers(problem, groups={"2": "2.*"}, generator=generator).layers[0]
        off = row.frobenius_norm - float(D.norm())
        scores.append([off / row.frobenius_norm_error])
        if activation is nn.Tanh:
            off = row.trace - float(D.trace())
            scores[-1].append(off / row.trace_error)

    rms = torch.tensor(scores).square().mean(0).sqrt()
    assert (rms > 0.6).all()
    assert (rms < 1.5).all()


def test_densities_have_the_moments_of_the_blocks(unformed):
    problem, net, X, y = mlp(nn.Tanh, widths=(9, 20, 18, 3))

    spectra = cs.all_layers(problem, density=True, num_probes=6, num_steps=20)

    for row, names in zip(spectra.layers, problem.layers().values(), strict=True):
        D = dense_block(net, nn.functional.cross_entropy, X, y, names)
        density = spectra.densities[row.name]
        mass = torch.trapezoid(density.density, density.grid)
        assert float(mass) == pytest.approx(1.0, abs=0.02)
        assert density.dimension == len(D)
        off = abs(row.trace - float(D.trace()))
        assert off <= 4.5 * row.trace_error + 1e-9
        off = abs(row.frobenius_norm - float(D.norm()))
        assert off <= 4.5 * row.frobenius_norm_error + 1e-9
        ends = density.nodes.nan_to_num().abs().max()
        assert float(ends) <= float(by_magnitude(D)[0].abs()) * (1 + 1e-9)


def test_a_formed_block_has_an_exact_density_with_its_zeros():
    problem, net, X, y = mlp(samples=6, widths=(9, 14, 3))

    density = cs.all_layers(problem, density=True).densities["0"]

    D = dense_block(net, nn.functional.cross_entropy, X, y, problem.layers()["0"])
    first = (density.nodes * density.weights).sum() * len(D)
    second = (density.nodes.square() * density.weights).sum() * len(D)
    assert float(first) == pytest.approx(float(D.trace()))
    assert float(second) == pytest.approx(float(D.square().sum()))
    assert float(density.weights.sum()) == pytest.approx(1.0)
    assert float(density.standard_error.max()) == 0.0


@pytest.mark.parametrize("k", [1, 2])  # without rows, and with
@pytest.mark.parametrize(("make", "limit"), [(mlp, 20_000), (conv, 12_000)])
def test_rows_that_do_not_fit_are_swept_again_for_the_same_numbers(
    make, limit, k, unformed, monkeypatch
):
    factors = importlib.import_module("curvescope.analysis.all_layers_factors")
    monkeypatch.setattr(factors, "_MOST_FORMED", 0)
    monkeypatch.setattr(MODULE._Run, "_sweeping_pays", lambda *_: True)
    kept = cs.all_layers(make()[0], k=k, num_probes=2)

    swept = cs.all_layers(make(memory_limit=limit)[0], k=k, num_probes=2)

    assert kept.cost.num_data_passes == 1
    assert swept.cost.num_data_passes > 3
    assert swept.whole_products > 1.2 * kept.whole_products
    for a, b in zip(kept.layers, swept.layers, strict=True):
        assert a.method == b.method
        assert b.eigenvalues == pytest.approx(a.eigenvalues, rel=1e-7)
        assert b.trace == pytest.approx(a.trace, rel=1e-12)
        assert b.frobenius_norm == pytest.approx(a.frobenius_norm, rel=1e-10)


def test_rows_that_do_not_fit_are_formed_where_blocks_are_small(unformed):
    problem, net, X, y = mlp(widths=(4, 5, 3), samples=400, memory_limit=40_000)

    spectra = cs.all_layers(problem)

    assert [row.method for row in spectra.layers] == ["formed", "formed"]
    assert spectra.cost.num_data_passes == 1
    for row, names in zip(spectra.layers, problem.layers().values(), strict=True):
        assert_top(row, dense_block(net, nn.functional.cross_entropy, X, y, names))


def test_products_are_taken_where_neither_rows_nor_sweeps_pay(unformed, monkeypatch):
    factors = importlib.import_module("curvescope.analysis.all_layers_factors")
    monkeypatch.setattr(factors, "_MOST_FORMED", 0)
    monkeypatch.setattr(MODULE._Run, "_sweeping_pays", lambda *_: False)
    problem, net, X, y = mlp(memory_limit=20_000)

    spectra = cs.all_layers(problem)

    assert {row.method for row in spectra.layers} == {"products"}
    assert "does not fit" in spectra.layers[0].reason
    for row, names in zip(spectra.layers, problem.layers().values(), strict=True):
        assert_top(row, dense_block(net, nn.functional.cross_entropy, X, y, names))


def test_curvature_that_only_later_samples_show_is_seen(unformed):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ELU(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        net[0].weight.abs_()
        net[0].bias.zero_()
    X, y = torch.randn(12, 4).double(), torch.arange(12) % 3
    X[:2].abs_()  # ELU is linear for these
    problem = cs.Problem(net, "cross_entropy", (X, y), batch_size=4)

    spectra = cs.all_layers(problem, num_probes=2)

    assert [row.method for row in spectra.layers] == ["products", "factor"]
    for row, names in zip(spectra.layers, problem.layers().values(), strict=True):
        assert_top(row, dense_block(net, nn.functional.cross_entropy, X, y, names))


class TiedTwice(nn.Module):
    """One layer used twice."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(5, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(torch.relu(self.inner(torch.relu(self.inner(x)))))


def test_a_layer_used_twice_has_a_factor_of_the_ggn_but_not_of_the_hessian(unformed):
    torch.manual_seed(0)
    net = TiedTwice().double()
    X, y = torch.randn(12, 5).double(), torch.arange(12) % 3
    problem = cs.Problem(net, "cross_entropy", (X, y))
    names = problem.layers()["inner"]

    hessian = cs.all_layers(problem, num_probes=2)
    ggn = cs.all_layers(problem, matrix="ggn", num_probes=2)

    assert hessian["inner"].method == "products"
    assert hessian["inner"].reason == "it is used more than once"
    assert_top(
        hessian["inner"], dense_block(net, nn.functional.cross_entropy, X, y, names)
    )
    assert ggn["inner"].method == "factor"
    assert_top(ggn["inner"], cs.GGN(problem).block(names).to_dense())


def test_equal_eigenvalues_are_all_found(unformed):
    torch.manual_seed(0)
    net = nn.Linear(12, 5).double()  # mse: every eigenvalue is there five times
    X, Y = torch.randn(40, 12).double(), torch.randn(40, 5).double()
    problem = cs.Problem(net, "mse", (X, Y))

    row = cs.all_layers(problem, k=5, num_probes=2).layers[0]

    D = dense_block(net, nn.functional.mse_loss, X, Y, ("weight", "bias"))
    assert row.method == "factor"
    assert row.eigenvalues == pytest.approx(by_magnitude(D)[:5].tolist(), rel=1e-9)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_selections_masks_groups_and_weight_decay_are_kept(activation, unformed):
    _, net, X, y = mlp(activation)
    mask = torch.zeros(14, 9, dtype=torch.bool)
    mask[::2, 1:] = True
    chosen = {"0.weight": mask, "2.weight": torch.ones(12, 14, dtype=torch.bool)}
    problem = cs.Problem(net, "cross_entropy", (X, y), params=chosen, weight_decay=0.2)

    spectra = cs.all_layers(problem, k=2, groups={"both": "*", "first": "0"})

    names = ("0.weight", "2.weight")
    D = dense_block(net, nn.functional.cross_entropy, X, y, names)
    at = torch.cat([mask.flatten(), torch.ones(12 * 14, dtype=torch.bool)])
    both = D[at][:, at] + 0.2 * torch.eye(int(at.sum()), dtype=torch.float64)
    first = both[: int(mask.sum()), : int(mask.sum())]
    assert_top(spectra["both"], both)
    assert_top(spectra["first"], first)
    if spectra["first"].trace_error == 0.0:
        assert spectra["first"].trace == pytest.approx(float(first.trace()), rel=1e-10)


def test_frozen_layers_are_left_out():
    _, net, X, y = mlp()
    net[2].requires_grad_(False)

    spectra = cs.all_layers(cs.Problem(net, "cross_entropy", (X, y)))

    assert [row.name for row in spectra.layers] == ["0", "4"]


def state(net):
    return (
        [p.detach().clone() for p in [*net.parameters(), *net.buffers()]],
        [p.grad for p in net.parameters()],
        [p.requires_grad for p in net.parameters()],
        [m.training for m in net.modules()],
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
    )


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a[0], b[0], strict=True)) and (
        a[1:4] == b[1:4] and torch.equal(a[4], b[4]) and a[5:] == b[5:]
    )


@pytest.mark.parametrize("stops", [False, True])
def test_nothing_of_the_users_changes_also_when_it_is_interrupted(
    stops, unformed, monkeypatch
):
    problem, net, *_ = conv()
    net.train()
    before = state(net)
    if stops:

        def interrupted(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(LayerRun, "give", interrupted)

    if stops:
        with pytest.raises(KeyboardInterrupt):
            cs.all_layers(problem)
    else:
        cs.all_layers(problem)

    assert same(before, state(net))


def test_weights_that_change_meanwhile_are_an_error(unformed, monkeypatch):
    problem, net, *_ = mlp(nn.Tanh)
    give = LayerRun.give

    def meddling(run, product):
        net[0].weight.data[0, 0] += 1.0
        give(run, product)

    monkeypatch.setattr(LayerRun, "give", meddling)

    with pytest.raises(ChangedDuringComputationError, match="changed while"):
        cs.all_layers(problem)


def test_pairs_that_do_not_converge_say_so(unformed):
    problem, *_ = mlp(nn.Tanh)

    with pytest.warns(AccuracyWarning, match="did not reach"):
        spectra = cs.all_layers(problem, num_probes=2, max_matvecs=3)

    assert not spectra.converged
    assert spectra.notes


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"k": 0}, "`k` must be at least 1"),
        ({"matrix": "fisher"}, "`matrix` must"),
        ({"num_probes": 1}, "`num_probes` must be at least 2"),
        ({"num_steps": 1}, "`num_steps` must be at least 2"),
        ({"tol": -1.0}, "`tol` must"),
        ({"max_matvecs": 2}, "`max_matvecs` must be at least 3"),
    ],
)
def test_wrong_arguments_are_named(options, text):
    problem, *_ = mlp()

    with pytest.raises(ValueError, match=text):
        cs.all_layers(problem, **options)


def test_the_result_prints_saves_and_loads(tmp_path):
    problem, *_ = mlp(nn.Tanh)
    spectra = cs.all_layers(problem, k=2, density=True, num_probes=2, num_steps=4)

    spectra.save(tmp_path, "spectra")
    again = load(tmp_path, "spectra")

    assert again.layers == spectra.layers
    assert again.plan == spectra.plan
    assert again.rows() == spectra.rows()
    a, b = again.densities["2"], spectra.densities["2"]
    assert torch.equal(a.density, b.density)
    assert "3 layers' own blocks" in str(spectra)
    assert "eigenvalue_2" in spectra.rows()[0]
    with pytest.raises(KeyError):
        spectra["5"]


@settings(max_examples=30)
@given(
    widths=st.lists(st.integers(1, 7), min_size=2, max_size=4),
    activation=st.sampled_from([nn.ReLU, nn.Tanh, nn.Hardtanh, nn.GELU]),
    samples=st.integers(1, 12),
    k=st.integers(1, 3),
    scale=st.sampled_from([1e-8, 1.0, 1e8]),
)
def test_top_pairs_and_traces_hold_for_all_small_networks(
    widths, activation, samples, k, scale
):
    torch.manual_seed(0)
    layers = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), activation()]
    net = nn.Sequential(*layers[:-1]).double()
    X = torch.randn(samples, widths[0]).double()
    Y = torch.randn(samples, widths[-1]).double()

    def fn(f, y):
        return scale * (f - y).square().mean()

    loss = cs.Loss(fn, reduction="mean", denominator="elements")
    problem = cs.Problem(net, loss, (X, Y), batch_size=5)

    spectra = cs.all_layers(problem, k=k, num_probes=2)

    for row, names in zip(spectra.layers, problem.layers().values(), strict=True):
        D = dense_block(net, fn, X, Y, names)
        size = float(D.norm())
        truth = by_magnitude(D)[:k].abs()
        found = torch.tensor(row.eigenvalues, dtype=torch.float64).abs()
        assert torch.allclose(found, truth, rtol=0.0, atol=1e-7 * size + 1e-14 * scale)
