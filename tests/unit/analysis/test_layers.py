"""The layer table against dense blocks."""

import pytest
import torch
from torch import nn

from curvescope.analysis import layer_curvature
from curvescope.curvature import GGN, FunctionalHessian, Hessian
from curvescope.problem import Problem


def make(hidden=6, activation=nn.Tanh):
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Linear(5, hidden), activation(), nn.Linear(hidden, 3)
    ).double()
    return Problem(
        net, "cross_entropy", (torch.randn(20, 5).double(), torch.arange(20) % 3)
    )


def test_small_layers_are_exact():
    problem = make(hidden=2)

    table = layer_curvature(problem, num_probes=50)

    for row in table.layers:
        H = Hessian(problem).block(row.name).to_dense()
        G = GGN(problem).block(row.name).to_dense()
        F = FunctionalHessian(problem).block(row.name).to_dense()
        assert row.frobenius_norm == pytest.approx(float(H.norm()), rel=1e-10)
        assert row.linearisation_norm == pytest.approx(float(G.norm()), rel=1e-10)
        assert row.curvature_norm == pytest.approx(
            float(F.norm()), rel=1e-10, abs=1e-14
        )
        assert row.trace == pytest.approx(float(H.trace()), rel=1e-10)
        eigenvalues = torch.linalg.eigvalsh(H)
        top = eigenvalues[eigenvalues.abs().argmax()]
        assert row.top_eigenvalue == pytest.approx(float(top), rel=1e-7)
        assert row.frobenius_norm_error == row.trace_error == 0.0


def test_estimates_lie_within_their_own_errors():
    problem = make(hidden=10)
    H = Hessian(problem).block("0").to_dense()

    misses = 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        row = layer_curvature(problem, num_probes=12, generator=generator).layers[0]
        assert row.num_params == 60
        misses += abs(row.trace - float(H.trace())) > 2.2 * row.trace_error
        misses += (
            abs(row.frobenius_norm - float(H.norm())) > 2.2 * row.frobenius_norm_error
        )

    assert misses <= 12  # 80 intervals of nominal 95 %


def test_relu_layers_have_no_curvature_part():
    table = layer_curvature(make(activation=nn.ReLU))

    assert all(row.curvature_norm == 0.0 for row in table.layers)


def test_one_layer_holds_weight_and_bias_together():
    names = [(row.name, row.num_params) for row in layer_curvature(make()).layers]

    assert names == [("0", 36), ("2", 21)]


def test_too_few_probes_are_refused():
    with pytest.raises(ValueError, match="`num_probes` must be at least 2; got 1"):
        layer_curvature(make(), num_probes=1)
