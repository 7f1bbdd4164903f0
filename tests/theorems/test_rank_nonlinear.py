"""Ceilings of non-linear networks: ReLU exactly, smooth ones in float64."""

import itertools

import pytest
import torch
from tests.theorems import draws

from curvescope import theory

SMOOTH = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "elu": torch.nn.functional.elu,
    "softplus": torch.nn.functional.softplus,
}
LOSSES = {
    "mse": lambda f, y: ((f - y) ** 2).sum() / 2,
    "cross_entropy": lambda f, y: -(f.log_softmax(-1) * y).sum(),
}


@pytest.mark.parametrize("kind", ["none", "all", "some"])
def test_one_hidden_relu_layer_keeps_every_claim(kind):
    wrong, equal = draws.disagreements(
        draws.homogeneous_case, 150, 21, kind=kind, layers=2
    )

    assert wrong == []
    assert equal == 150


@pytest.mark.parametrize("kind", ["either", "some"])
def test_deep_relu_networks_stay_below_the_ceilings(kind):
    wrong, _ = draws.disagreements(draws.homogeneous_case, 120, 22, kind=kind)

    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("layers", [2, 3, 4])
def test_thousands_of_relu_networks_keep_every_claim(layers):
    wrong, _ = draws.disagreements(
        draws.homogeneous_case, 1000, 23, kind="some", layers=layers
    )

    assert wrong == []


def smooth_matrices(widths, biases, activation, loss, x, y, theta):
    """H, GGN and F by dense automatic differentiation of the definition."""

    def outputs(flat, x):
        at = 0
        for index, (a, b) in enumerate(itertools.pairwise(widths)):
            x, at = x @ flat[at : at + a * b].view(b, a).T, at + a * b
            if biases[index]:
                x, at = x + flat[at : at + b], at + b
            x = SMOOTH[activation](x) if index < len(widths) - 2 else x
        return x

    grad, jacrev = torch.func.grad, torch.func.jacrev
    value = LOSSES[loss]
    f = outputs(theta, x)
    delta = grad(lambda f: value(f, y))(f)
    hessian = jacrev(grad(lambda t: value(outputs(t, x), y)))(theta)
    functional = jacrev(grad(lambda t: (delta * outputs(t, x)).sum()))(theta)
    curvature = torch.func.vmap(jacrev(grad(value)))(f, y)
    jacobian = torch.func.jacrev(lambda t: outputs(t, x))(theta)
    ggn = torch.einsum("nap,nab,nbq->pq", jacobian, curvature, jacobian)
    torch.testing.assert_close(hessian, ggn + functional)
    return {"hessian": hessian, "ggn": ggn, "functional": functional}


def rank(matrix, scale):
    return int((torch.linalg.eigvalsh(matrix).abs() > 1e-12 * scale).sum())


def smooth_case(seed, *, layers, num_samples):
    """A random smooth network: its float64 ranks, and the predictions."""
    g = torch.Generator().manual_seed(seed)

    def draw(low, high, *size):
        return torch.randint(low, high, size, generator=g)

    widths = draw(2, 6, layers + 1).tolist()
    biases = draw(0, 2, layers).bool().tolist()
    activation = list(SMOOTH)[int(draw(0, 4, 1))]
    loss = list(LOSSES)[int(draw(0, 2, 1))]
    d, num_outputs = widths[0], widths[-1]
    r = int(draw(1, d + 1, 1))
    options = {"generator": g, "dtype": torch.float64}
    x = torch.randn(num_samples, r, **options) @ torch.randn(r, d, **options)
    y = torch.eye(num_outputs, dtype=torch.float64)[draw(0, num_outputs, num_samples)]
    sizes = zip(itertools.pairwise(widths), biases, strict=True)
    theta = torch.randn(sum(b * (a + flag) for (a, b), flag in sizes), **options)
    matrices = smooth_matrices(widths, biases, activation, loss, x, y, theta)
    scale = float(torch.linalg.matrix_norm(matrices["hessian"], 2))
    ones = torch.ones(num_samples, 1, dtype=torch.float64)
    invariant = loss == "cross_entropy"
    predicted = theory.predicted_ranks(
        widths=widths,
        activation="smooth",
        bias=biases,
        num_samples=num_samples,
        input_rank=int(torch.linalg.matrix_rank(x)),
        centred_input_rank=int(torch.linalg.matrix_rank(torch.cat([x, ones], 1))) - 1,
        output_rank=num_outputs - invariant,
        shift_invariant=invariant,
    )
    return {name: rank(m, scale) for name, m in matrices.items()}, predicted


@pytest.mark.parametrize("layers", [2, 3, 4])
@pytest.mark.parametrize("num_samples", [3, 200])
def test_smooth_networks_stay_below_the_ceilings(layers, num_samples):
    for seed in range(12):
        truth, predicted = smooth_case(seed, layers=layers, num_samples=num_samples)

        for name, prediction in predicted.items():
            assert prediction.agrees(truth[name]), (seed, name, truth[name])
            assert prediction.claim == "at_most"


def test_most_one_hidden_layer_smooth_networks_reach_the_ceilings():
    reached = 0
    for seed in range(30):
        truth, predicted = smooth_case(seed, layers=2, num_samples=200)
        reached += all(p.value == truth[name] for name, p in predicted.items())

    assert reached >= 20


def test_the_pessimistic_ceiling_is_far_above_the_linear_rank():
    ceiling = theory.ggn_ceiling_one_hidden([25] * 40, output_rank=10)

    assert ceiling == 40 * (25 + 10 - 1)
    assert ceiling > theory.ggn_rank([40], input_rank=25, output_rank=10)


def test_dead_units_count_nothing():
    assert theory.ggn_ceiling_one_hidden([0, 0], output_rank=3) == 0
    assert theory.ggn_ceiling_one_hidden([0, 2], output_rank=3, output_bias=True) == 7
    assert theory.ggn_ceiling_one_hidden([5], output_rank=0, output_bias=True) == 0
    assert theory.functional_rank_one_hidden([0, 2]) == 4
