"""The benchmark's problems and its exact products."""

import numpy as np
import pytest
import torch
from benchmarks import reference
from benchmarks.ours import Curvescope
from benchmarks.problems import PROBLEMS, Task


@pytest.fixture
def tiny():
    return PROBLEMS["tiny"]().double()


def dense(task: Task, matrix: str) -> np.ndarray:
    unit = torch.eye(task.num_params, dtype=torch.float64)
    return torch.stack([reference.product(task, matrix, v) for v in unit]).numpy()


def numpy_loss(theta: np.ndarray, task: Task) -> float:
    """The whole data's mean cross-entropy of the tiny net, without torch's layers."""
    W1, b1, W2, b2 = (part.numpy() for part in task.split(torch.from_numpy(theta)))
    x = np.concatenate([inputs.numpy() for inputs, _ in task.batches])
    y = np.concatenate([targets.numpy() for _, targets in task.batches])
    logits = np.tanh(x @ W1.T + b1) @ W2.T + b2
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -log_p[np.arange(len(y)), y].mean()


def numpy_outputs(theta: np.ndarray, task: Task) -> np.ndarray:
    W1, b1, W2, b2 = (part.numpy() for part in task.split(torch.from_numpy(theta)))
    x = np.concatenate([inputs.numpy() for inputs, _ in task.batches])
    return np.tanh(x @ W1.T + b1) @ W2.T + b2


def weights_of(task: Task) -> np.ndarray:
    return torch.cat([p.detach().reshape(-1) for p in task.parameters]).numpy()


def test_exact_hessian_is_the_second_difference_of_a_loss_in_numpy(tiny):
    theta, step = weights_of(tiny), 1e-3
    rng = np.random.default_rng(0)
    for _ in range(3):
        v = rng.standard_normal(len(theta))
        v /= np.linalg.norm(v)
        ends = [numpy_loss(theta + s * step * v, tiny) for s in (-1, 0, 1)]
        curvature = (ends[0] - 2 * ends[1] + ends[2]) / step**2

        assert v @ dense(tiny, "hessian") @ v == pytest.approx(curvature, rel=1e-4)


def test_exact_ggn_is_built_of_numerical_jacobians_and_the_softmax(tiny):
    theta, step = weights_of(tiny), 1e-5
    J_NCP = np.stack(
        [
            (
                numpy_outputs(theta + step * e, tiny)
                - numpy_outputs(theta - step * e, tiny)
            )
            / (2 * step)
            for e in np.eye(len(theta))
        ],
        axis=-1,
    )
    logits = numpy_outputs(theta, tiny)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    C = np.einsum("nc,cd->ncd", p, np.eye(p.shape[1])) - np.einsum("nc,nd->ncd", p, p)
    expected = np.einsum("ncp,ncd,ndq->pq", J_NCP, C, J_NCP) / len(p)

    got = dense(tiny, "ggn")

    assert np.linalg.norm(got - expected) < 1e-8 * np.linalg.norm(expected)


@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
def test_our_adapter_multiplies_by_the_exact_matrix_over_ragged_batches(matrix):
    task = PROBLEMS["tiny"]()
    V = task.columns(3)
    adapter = Curvescope()
    adapter.build(task, matrix)

    got = adapter.product(V).detach()

    double = task.double()
    exact = torch.stack([reference.product(double, matrix, v) for v in V.T.double()], 1)
    assert (got - exact).norm() < 1e-5 * exact.norm()


def test_a_problem_is_the_same_in_every_process():
    first, second = (PROBLEMS["tiny"]() for _ in range(2))

    assert first.fingerprint == second.fingerprint
    second.parameters[0].data[0, 0] += 1e-3
    assert first.fingerprint != second.fingerprint


def test_a_test_vector_does_not_depend_on_how_many_there_are(tiny):
    assert torch.equal(tiny.columns(5)[:, 3], tiny.column(3))
    assert float(tiny.column(3).norm()) == pytest.approx(1.0)
