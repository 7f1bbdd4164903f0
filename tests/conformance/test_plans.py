"""Whatever way a product is computed, it is the same product."""

import functools
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import CASES
from tests.conformance.oracles import Oracle

from curvescope.curvature import (
    GGN,
    EmpiricalFisher,
    FunctionalHessian,
    Hessian,
    MonteCarloFisher,
)
from curvescope.linalg import eigsh, spectral_density
from curvescope.problem import Problem

# Ragged batches all; weights in the loss, frozen BatchNorm, padded tokens, attention.
NAMES = ("mlp-weighted-ce", "cnn", "encoder-padded", "causal-lm")
CHOSEN = [case for case in CASES if case.id in NAMES]
KINDS = (Hessian, GGN, FunctionalHessian, EmpiricalFisher, MonteCarloFisher)
PLANS = [
    {"columns": columns, "kept": kept, "fold": None}
    for columns, kept in itertools.product((None, 1, 2, 32), ("all", "none", 1))
]
# Only convolutions are folded.
FOLDS = [
    {"columns": columns, "kept": kept, "fold": fold}
    for columns, kept, fold in itertools.product((1, 3), ("all", 1), (True, False))
]


def plans_of(case):
    return PLANS + (FOLDS if case.id == "cnn" else [])


@functools.cache
def problem_of(case, dtype=torch.float64):
    model, loss, inputs, targets = case.make()
    return Problem(model, loss, case.batches(inputs, targets), dtype=dtype)


@functools.cache
def vectors(case, kind):
    """Five vectors; what they are multiplied to comes from elsewhere where it can."""
    problem = problem_of(case)
    generator = torch.Generator().manual_seed(3)
    V = torch.randn(problem.num_params, 5, generator=generator, dtype=torch.float64)
    oracle = Oracle(case)
    if kind is Hessian:
        return V, oracle.hessian() @ V
    if kind is GGN:
        return V, oracle.ggn() @ V
    if kind is FunctionalHessian:
        return V, (oracle.hessian() - oracle.ggn()) @ V
    if kind is EmpiricalFisher and case.samples_are_rows:
        g = oracle.sample_gradients(problem.denominator)
        return V, g.T @ (g @ V) / problem.denominator
    return V, kind(problem, columns=1, kept="none", fold=False) @ V


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.id)
def test_every_plan_gives_the_same_products(case, kind):
    V, expected = vectors(case, kind)

    for plan in plans_of(case):
        operator = kind(problem_of(case), **plan)
        for got in (operator @ V, operator @ V):  # graphs are kept by the second
            assert float((got - expected).norm() / expected.norm()) < 1e-12, plan


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.id)
def test_every_plan_gives_the_same_products_in_float32_to_rounding(case):
    V, expected = vectors(case, Hessian)

    for plan in plans_of(case)[::2]:
        got = Hessian(problem_of(case, torch.float32), **plan) @ V.float()
        assert float((got.double() - expected).norm() / expected.norm()) < 3e-5, plan


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    columns=st.none() | st.integers(1, 9),
    kept=st.none() | st.sampled_from(["all", "none"]) | st.integers(0, 7),
    num=st.integers(1, 7),
    limit=st.sampled_from([2_000, 20_000, 2**32]),
)
@settings(max_examples=15)
def test_no_batches_and_no_choices_change_a_product(sizes, columns, kept, num, limit):
    generator = torch.Generator().manual_seed(sum(sizes))
    N = sum(sizes)
    X = torch.randn(N, 3, generator=generator, dtype=torch.float64)
    Y = torch.arange(N) % 3
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)
    ).double()
    loss = torch.nn.CrossEntropyLoss(
        weight=torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    )
    batches = list(zip(X.split(sizes), Y.split(sizes), strict=True))
    V = torch.randn(31, num, generator=generator, dtype=torch.float64)
    shapes = [p.shape for p in net.parameters()]
    names = [name for name, _ in net.named_parameters()]

    def gradient(theta):
        def objective(flat):
            parts = flat.split([shape.numel() for shape in shapes])
            tensors = [p.view(s) for p, s in zip(parts, shapes, strict=True)]
            state = dict(zip(names, tensors, strict=True))
            return loss(torch.func.functional_call(net, state, (X,)), Y)

        return torch.func.grad(objective)(theta)

    theta = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
    expected = torch.func.jacrev(gradient)(theta) @ V

    problem = Problem(net, loss, batches, memory_limit=limit)
    H = Hessian(problem, columns=columns, kept=kept)

    torch.testing.assert_close(H @ V, expected, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(H @ V, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.id)
def test_every_plan_gives_the_same_eigenvalues_and_density(case):
    exact = torch.linalg.eigvalsh(Oracle(case).hessian())
    plans = [{"columns": 1, "kept": "none", "fold": False}, {"columns": 5}]
    first = spectral_density(
        Hessian(problem_of(case), columns=2, kept=1), num_probes=3, num_steps=8
    )

    for plan in plans:
        H = Hessian(problem_of(case), **plan)
        pairs = eigsh(H, k=3, which="LA")
        # The proven error: an eigenvalue lies within the residual of what is reported.
        distance = (pairs.eigenvalues[:, None] - exact).abs().min(dim=1).values
        rounding = 1e-12 * float(exact.abs().max())
        assert bool((distance <= pairs.residual_norms + rounding).all())
        assert float((pairs.eigenvalues - exact.flip(0)[:3]).abs().max()) < 1e-9

        density = spectral_density(H, num_probes=3, num_steps=8)
        size = float(exact.abs().max())
        assert torch.allclose(density.nodes, first.nodes, atol=1e-8 * size)
        assert torch.allclose(density.weights, first.weights, atol=1e-7)
