"""Norms of the blocks between layers against blocks of dense matrices."""

import pytest
import torch
from torch import nn

from curvescope.analysis.block_norms import block_norms
from curvescope.curvature import GGN, FunctionalHessian, Hessian
from curvescope.problem import Problem
from curvescope.results import load

MATRICES = {"hessian": Hessian, "ggn": GGN, "functional": FunctionalHessian}


def make(activation=nn.Tanh, **options):
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Linear(5, 7), activation(), nn.LayerNorm(7), nn.Linear(7, 4), activation(),
        nn.Linear(4, 3),
    ).double()  # fmt: skip
    data = (torch.randn(20, 5).double(), torch.arange(20) % 3)
    return Problem(net, "cross_entropy", data, **options)


def dense_norms(problem, groups):
    """Return the norm of every block of the matrices formed by products."""
    places = {s.name: range(s.start, s.stop) for s in problem.layout.slices()}
    rows = [[i for n in names for i in places[n]] for names in groups.values()]
    found = {}
    for name, operator in MATRICES.items():
        A = operator(problem).to_dense()
        found[name] = torch.tensor(
            [[A[i][:, j].norm() for j in rows] for i in rows], dtype=torch.float64
        )
    return found


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_small_matrices_are_formed_and_exact(decay):
    problem = make(weight_decay=decay)

    result = block_norms(problem)

    assert result.layers == ("0", "2", "3", "5")
    assert result.num_params == (42, 14, 32, 15)
    for name, truth in dense_norms(problem, problem.layers()).items():
        assert torch.allclose(result.norms[name], truth, rtol=1e-10, atol=1e-13)
        assert not result.errors[name].any()


def test_estimates_lie_within_their_own_errors_and_own_blocks_are_exact():
    problem = make()
    truth = dense_norms(problem, problem.layers())

    misses = total = 0
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        result = block_norms(
            problem, method="probes", num_probes=10, generator=generator
        )
        for name, norms in result.norms.items():
            assert torch.equal(norms, norms.T)
            error = result.errors[name]
            off = ~torch.eye(4, dtype=torch.bool)
            assert bool((error[off] > 0).all())
            misses += int(((norms - truth[name]).abs() > 2.2 * error)[off].sum()) // 2
            total += 6
            for exact in (0, 3):  # of the linear maps with one row a sample
                assert error[exact, exact] == 0.0
                own = float(truth[name][exact, exact])
                assert float(norms[exact, exact]) == pytest.approx(own, abs=1e-12)

    assert misses <= 0.15 * total  # nominally 5 %; the errors are estimates themselves
    assert result.cost.num_matvecs == 2 * 10 * 4


def test_piecewise_linear_nets_have_curvature_between_layers_only():
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    data = (torch.randn(9, 4).double(), torch.arange(9) % 3)

    for method in ("exact", "probes"):
        result = block_norms(Problem(net, "cross_entropy", data), method=method)
        functional = result.norms["functional"]

        assert not functional.diagonal().any()
        assert float(functional[0, 1]) > 0.0
        assert result.off_diagonal_share("functional") == 1.0
        assert 0.0 < result.off_diagonal_share() < 1.0


def test_groups_may_be_named():
    problem = make()
    groups = {"first": "0", "others": ["2", "3.*", "5"]}

    result = block_norms(problem, groups=groups)

    names = {"first": problem.layers()["0"], "others": problem.layout.names[2:]}
    for name, truth in dense_norms(problem, names).items():
        assert torch.allclose(result.norms[name], truth, rtol=1e-10, atol=1e-13)


def test_norms_are_printed_saved_and_read(tmp_path):
    result = block_norms(make(), method="probes")
    result.save(tmp_path, "blocks")

    again = load(tmp_path, "blocks")

    assert str(again) == str(result)
    assert len(again.rows()) == 3 * 10
    assert again.rows()[0]["layer"] == "0"
    assert "probes a layer" in again.headline()


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="`num_probes` must be at least 2; got 1"):
        block_norms(make(), num_probes=1)
    with pytest.raises(ValueError, match="`method` must be one of"):
        block_norms(make(), method="guess")
