"""Linear nets: the matrices without autodiff, against autodiff."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import curvescope as cs
from curvescope.exact.linear import compress, kronecker_matrices
from curvescope.exact.linear_inputs import standardised
from curvescope.exact.network import feed_forward
from curvescope.results.ranks import MATRICES

LOSSES = ("cross_entropy", "mse", "logcosh")


def _quartic(outputs, targets):
    """A loss whose output Hessian is dense, varies, and is indefinite."""
    mixed = outputs.cumsum(-1) - targets
    return (mixed**4 - mixed**2).sum()


def make(widths, *, loss="mse", n=20, bias=False, rank=None, seed=0, labels=None):
    """Return a linear net's problem with random weights and data of a given rank."""
    g = torch.Generator().manual_seed(seed)
    biases = [bias] * (len(widths) - 1) if isinstance(bias, bool) else bias
    pairs = zip(widths[:-1], widths[1:], biases, strict=True)
    model = nn.Sequential(*[nn.Linear(i, o, bias=b) for i, o, b in pairs]).double()
    with torch.no_grad():
        for parameter in model.parameters():
            fan = sum(parameter.shape) if parameter.ndim == 2 else 4
            noise = torch.randn(parameter.shape, generator=g, dtype=torch.float64)
            parameter.copy_(noise * (2.0 / fan) ** 0.5)
    x = torch.randn(n, widths[0], generator=g, dtype=torch.float64)
    if rank is not None:
        left = torch.randn(n, rank, generator=g, dtype=torch.float64)
        x = left @ torch.randn(rank, widths[0], generator=g, dtype=torch.float64)
    if loss == "cross_entropy":
        y = torch.randint(labels or widths[-1], (n,), generator=g)
    else:
        y = torch.randn(n, widths[-1], generator=g, dtype=torch.float64)
    objective = cs.Loss(_quartic, reduction="sum") if loss == "quartic" else loss
    return cs.Problem(model, objective, [(x, y)])


def oracle(problem):
    """Return H, GGN and functional Hessian of the loss sum by reverse over reverse."""
    model, loss = problem.model, problem.loss
    batch = next(iter(problem.batches()))
    names = [name for name, _ in model.named_parameters()]
    values = [p.detach() for _, p in model.named_parameters()]
    sizes = [v.numel() for v in values]
    theta = torch.cat([v.flatten() for v in values])

    def outputs(vector):
        parts = [p.view_as(v) for p, v in zip(vector.split(sizes), values, strict=True)]
        named = dict(zip(names, parts, strict=True))
        return torch.func.functional_call(model, named, batch.inputs)

    def total(vector):
        return loss.total(outputs(vector), batch.targets)

    leaf = outputs(theta).detach().requires_grad_()
    (delta,) = torch.autograd.grad(loss.total(leaf, batch.targets), leaf)
    second = torch.func.jacrev(torch.func.grad(total))
    functional = torch.func.jacrev(torch.func.grad(lambda v: (outputs(v) * delta).sum()))
    return {"hessian": second(theta), "functional": functional(theta)} | {
        "ggn": second(theta) - functional(theta)
    }


def spectrum(matrix):
    """Return the eigenvalues, ascending."""
    return torch.linalg.eigvalsh(matrix)


def assert_same_spectrum(small, big):
    """Compare a compressed matrix's eigenvalues, filled up with zeros, with the full ones."""
    values = torch.zeros(len(big), dtype=torch.float64)
    values[: len(small)] = spectrum(small)
    expected = spectrum(big)

    scale = expected.abs().max().clamp_min(1e-300)
    assert float((values.sort().values - expected).abs().max() / scale) < 2e-12


CASES = {
    "two hidden": ([6, 5, 4, 3], {}),
    "bottleneck": ([6, 7, 2, 7, 5], {}),
    "early bottleneck": ([8, 2, 7, 6], {}),
    "deep": ([5, 6, 4, 7, 6, 4], {}),
    "one layer": ([6, 4], {}),
    "one output": ([6, 5, 4, 1], {}),
    "few samples": ([9, 6, 7, 5], {"n": 3}),
    "low-rank inputs": ([9, 8, 7, 4], {"rank": 3}),
    "fewer inputs than outputs": ([2, 7, 6, 9], {}),
    "width one": ([4, 1, 3], {}),
}


@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("loss", [*LOSSES, "quartic"])
@pytest.mark.parametrize("case", CASES)
def test_matrices_are_those_of_autodiff(case, loss, bias):
    widths, options = CASES[case]
    problem = make(widths, loss=loss, bias=bias, **options)
    expected = oracle(problem)
    net = feed_forward(problem)

    found, compressed = kronecker_matrices(net), compress(net)

    scale = expected["hessian"].abs().max().clamp_min(1e-300)
    for name in MATRICES:
        assert float((found[name] - expected[name]).abs().max() / scale) < 2e-12
        assert_same_spectrum(getattr(compressed, name), found[name])
        assert_same_spectrum(compressed.core(name), found[name])
    if compressed.ggn_factor is None:
        assert loss == "quartic"
    else:
        gram = compressed.ggn_factor.T @ compressed.ggn_factor
        torch.testing.assert_close(gram, compressed.ggn)
