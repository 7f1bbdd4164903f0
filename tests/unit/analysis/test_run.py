"""The whole analysis against the dense matrix, and its resumption."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jacrev

from curvescope.analysis.run import PARTS, analyze
from curvescope.curvature import Hessian
from curvescope.problem import Problem


def make(hidden=5):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 3)).double()
    return Problem(
        net,
        "cross_entropy",
        (torch.randn(30, 4).double(), torch.arange(30) % 3),
        batch_size=8,
    )


def dense_hessian(problem, X, y):
    names = [s.name for s in problem.layout.slices()]
    shapes = [s.shape for s in problem.layout.slices()]
    sizes = [int(np.prod(s)) for s in shapes]

    def loss(theta):
        pieces = theta.split(sizes)
        state = {n: p.view(s) for n, p, s in zip(names, pieces, shapes, strict=True)}
        return nn.functional.cross_entropy(
            functional_call(problem.model, state, (X,)), y
        )

    return jacrev(grad(loss))(problem.parameter_vector())


@pytest.fixture(scope="module")
def truth():
    problem = make()
    torch.manual_seed(1)
    nn.Linear(4, 5), nn.Linear(5, 3)  # the same draws as in `make`
    X, y = torch.randn(30, 4).double(), torch.arange(30) % 3
    return np.linalg.eigvalsh(dense_hessian(problem, X, y).detach().numpy())[::-1]


def test_every_number_agrees_with_the_dense_spectrum(truth):
    results = analyze(make(), k=6, z=[1e-3, 0.1], num_probes=8, num_steps=43)

    ends = np.concatenate([truth[:3], truth[-3:]])
    assert np.allclose(
        results["eigenpairs"].eigenvalues.numpy(), ends, rtol=1e-7, atol=1e-12
    )
    trace = results["trace"]
    low, high = trace.interval(level=0.999)
    assert low - 1e-9 <= truth.sum() <= high + 1e-9
    low, high = results["frobenius_norm"].interval(level=0.999)
    assert low - 1e-9 <= np.linalg.norm(truth) <= high + 1e-9
    curve = results["effective_dimension"]
    assert curve.method == "exact"
    clipped = truth.clip(min=0)
    expected = [(clipped / (clipped + z)).sum() for z in curve.z.tolist()]
    assert np.allclose(curve.values.numpy(), expected, rtol=1e-9)
    assert {1e-3, 0.1} <= set(curve.z.tolist())
    density = results["density"]
    assert float(torch.trapezoid(density.density, density.grid)) == pytest.approx(
        1, abs=1e-3
    )
    assert [row.name for row in results["layers"].layers] == ["0", "2"]


def test_all_results_know_unit_seed_and_samples():
    results = analyze(make(), k=2, num_probes=4, num_steps=6)

    assert set(results) == {*PARTS, "density_signed_log"}
    for name, result in results.items():
        assert result.of.num_samples == 30
        assert result.of.reduction == "mean"
        assert "per parameter squared" in result.of.unit
        # What is exact costs passes over the data, and no products.
        cost = result.cost
        assert (cost.num_data_passes if name == "layers" else cost.num_matvecs) > 0


@pytest.mark.parametrize("products", [3, 20, 60])
def test_analysis_that_is_cut_off_goes_on_to_the_same_results(
    tmp_path, monkeypatch, products
):
    arguments = {"k": 2, "num_probes": 3, "num_steps": 8, "z": 0.1}
    whole = analyze(make(hidden=12), **arguments)
    blocks, count = Hessian._blocks, [0]

    def cut(self, graph, take, num, samples):
        count[0] += 1
        if count[0] > products:
            raise KeyboardInterrupt
        return blocks(self, graph, take, num, samples)

    with monkeypatch.context() as patch:
        patch.setattr(Hessian, "_blocks", cut)
        with pytest.raises(KeyboardInterrupt):
            analyze(make(hidden=12), folder=tmp_path, **arguments)
    resumed = analyze(make(hidden=12), folder=tmp_path, **arguments)

    assert torch.equal(
        resumed["eigenpairs"].eigenvalues, whole["eigenpairs"].eigenvalues
    )
    assert torch.equal(resumed["density"].density, whole["density"].density)
    assert resumed["trace"].value == whole["trace"].value
    assert torch.equal(
        resumed["effective_dimension"].values, whole["effective_dimension"].values
    )
    assert resumed["layers"].layers == whole["layers"].layers


def test_saved_results_of_other_weights_are_never_returned(tmp_path):
    problem = make()
    first = analyze(problem, parts=["eigenpairs"], k=1, folder=tmp_path)
    with torch.no_grad():
        problem.model[0].weight.data.mul_(3)

    second = analyze(problem, parts=["eigenpairs"], k=1, folder=tmp_path)

    assert float(first["eigenpairs"].eigenvalues[0]) != float(
        second["eigenpairs"].eigenvalues[0]
    )


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"k": 44}, "`k` must be at most 43, the dimension; got 44"),
        ({"k": 0}, "`k` must be at least 1"),
        ({"matrix": "fisher"}, "`matrix` must be one of"),
        ({"parts": ["spectrum"]}, "`parts` must be among"),
        ({"which": "SM"}, "`which` must be one of"),
        ({"z": 0.0}, "`z` must be above 0"),
        ({"num_probes": 1}, "`num_probes` must be at least 2"),
        ({"tol": -1.0}, "`tol` must be at least 0"),
    ],
)
def test_wrong_settings_are_refused(wrong, match):
    with pytest.raises(ValueError, match=match):
        analyze(make(), **wrong)
