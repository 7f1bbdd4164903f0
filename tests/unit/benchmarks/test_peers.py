"""The peers' adapters in the peers' own environments, where these have been made."""

import pytest
import torch
from benchmarks import process, reference_matrices
from benchmarks.problems import PROBLEMS
from benchmarks.suites import density, layers, top

pytestmark = pytest.mark.slow


def peers_of(suite):
    return [
        pytest.param(i, id=i.key)
        for i in suite.IMPLEMENTATIONS
        if i.venv != ".venv" and not i.key.endswith("-60")
    ]


def run(implementation, problem, tmp_path, **settings):
    if not implementation.python.exists():
        pytest.skip(f"no environment {implementation.venv}: run `make bench-setup`")
    path = tmp_path / "answer.pt"
    worker = process.start(implementation, problem, "hessian", threads=1, clock="cpu")
    with worker:
        worker.greet()
        found = worker.ask("run", seed=0, settings=settings, path=str(path))
    return found, torch.load(path, weights_only=False)


def dense(problem):
    return reference_matrices.dense(PROBLEMS[problem]().double(), "hessian").detach()


@pytest.mark.parametrize("peer", peers_of(top))
def test_a_peers_top_eigenvalue_is_the_dense_matrixs(peer, tmp_path):
    found, answer = run(peer, "tiny", tmp_path, k=3)

    largest = float(torch.linalg.eigvalsh(dense("tiny"))[-1])
    if "eigenthings" in peer.key:
        # Its double backward takes the plain mean over unequal batches.
        assert answer["values"].max() > 0
    else:
        # Power iteration stops where little changes, which is earlier.
        off = 0.05 if "pyhessian" in peer.key else 1e-3
        assert float(answer["values"].max()) == pytest.approx(largest, rel=off)
    assert answer["vectors"].shape == (53, 3)
    assert found["products"] == found["passes"] >= 3
    assert found["seconds"] > 0


@pytest.mark.parametrize("peer", peers_of(density))
def test_a_peers_quadrature_has_the_mean_of_the_spectrum(peer, tmp_path):
    found, answer = run(peer, "spectrum-tiny", tmp_path, num_probes=64, num_steps=6)

    H = dense("spectrum-tiny")
    mean = float((answer["values"] * answer["weights"]).sum())
    spread = float(torch.linalg.matrix_norm(H)) / len(H)
    assert float(answer["weights"].sum()) == pytest.approx(1.0, abs=1e-5)
    # Random signs: a probe's standard deviation is at most sqrt(2) ||H|| / n.
    assert abs(mean - float(H.trace()) / len(H)) < 4 * 2**0.5 * spread / 8
    assert found["products"] == 64 * 6


@pytest.mark.parametrize("peer", peers_of(layers))
def test_a_peers_layers_are_the_dense_blocks(peer, tmp_path):
    found, answer = run(peer, "tiny", tmp_path, limit=60.0)

    H = dense("tiny")
    tops = {
        "hidden": torch.linalg.eigvalsh(H[:35, :35]),
        "output": torch.linalg.eigvalsh(H[35:, 35:]),
    }
    exact = [float(v[v.abs().argmax()]) for v in tops.values()]
    assert found["done"] == found["of"] == 2
    assert sorted(answer["values"].tolist()) == pytest.approx(sorted(exact), rel=1e-2)
    assert found["products"] > 2
