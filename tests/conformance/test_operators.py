"""Every operator on every case, against dense float64 matrices of other making."""

import functools

import pytest
import torch
from tests.cases import CASES
from tests.conformance.oracles import Oracle

from curvescope.curvature import (
    GGN,
    NTK,
    EmpiricalFisher,
    FunctionalHessian,
    Hessian,
    Jacobian,
    MonteCarloFisher,
)
from curvescope.problem import Problem
from curvescope.testing.operators import (
    check_against_central_differences,
    check_operator,
)

pytestmark = pytest.mark.filterwarnings("ignore:the GGN vanishes")

NO_LIKELIHOOD = {"mlp-logcosh", "mlp-poisson", "mlp-callable"}
NORMS = {"norms", "encoder-padded", "causal-lm", "cnn", "cnn-awkward"}
TOLERANCE = 1e-10


@functools.cache
def truth(case, kind):
    """Return an oracle's matrix; each is made once."""
    oracle = Oracle(case)
    if kind == "functional":
        return truth(case, "hessian") - truth(case, "ggn")
    return getattr(oracle, kind)()


@functools.cache
def problem_of(case):
    """Return the case's problem over ragged batches."""
    model, loss, inputs, targets = case.make()
    model.train()  # the problem evaluates in eval mode all the same
    return Problem(model, loss, case.batches(inputs, targets))


def error(got, expected):
    return float((got - expected).norm() / expected.norm().clamp_min(1e-300))


def assert_close(got, expected, scale=None):
    """Compare relative to the expected norm, or to another natural scale."""
    size = expected.norm() if scale is None else scale.norm()
    off = float((got - expected).norm())
    assert off <= TOLERANCE * float(size), f"relative error {off / float(size):.3e}"


def assert_products_close(operator, expected, scale=None, tolerance=TOLERANCE):
    """Compare two products: cheaper than all columns, where those are tested too."""
    generator = torch.Generator().manual_seed(0)
    V = torch.randn(len(expected), 2, generator=generator, dtype=torch.float64)
    got = (operator @ V.to(operator.dtype)).double()
    size = float(expected.norm() if scale is None else scale.norm())
    off = float((got - expected @ V).norm()) / float(V.norm())
    assert off <= tolerance * size, f"relative error {off / size:.3e}"


@functools.cache
def dense_fisher(case, kind):
    return kind(problem_of(case)).to_dense()


@pytest.fixture(params=CASES, ids=lambda case: case.id)
def case(request):
    return request.param


def test_the_hessian_is_jacrev_of_grad(case):
    H = truth(case, "hessian")

    check_operator(Hessian(problem_of(case)), dense=H)


def test_the_ggn_is_the_outer_product_matrix(case):
    G, operator = truth(case, "ggn"), GGN(problem_of(case))

    assert_close(operator.to_dense(), G, scale=truth(case, "hessian"))
    check_operator(operator)


def test_the_functional_hessian_is_the_difference(case):
    F, operator = truth(case, "functional"), FunctionalHessian(problem_of(case))

    assert_close(operator.to_dense(), F, scale=truth(case, "hessian"))
    check_operator(operator)


def test_the_empirical_fisher_is_the_outer_product_of_sample_gradients(case):
    problem = problem_of(case)
    g = Oracle(case).sample_gradients(problem.denominator)

    check_operator(EmpiricalFisher(problem), dense=g.T @ g / problem.denominator)


def test_the_monte_carlo_fisher_has_the_ggn_as_its_mean(case):
    if case.id in NO_LIKELIHOOD:
        with pytest.raises(TypeError, match="be a negative log-likelihood"):
            MonteCarloFisher(problem_of(case)).to_dense()
        return
    num = 3000
    operator = MonteCarloFisher(problem_of(case), num_draws=num, seed=1)
    M = operator.to_dense()
    G = truth(case, "ggn")
    if case.id == "mlp-nll":  # the Fisher is the GGN of the logits
        logits = next(c for c in CASES if c.id == "mlp-weighted-ce")
        G = truth(logits, "ggn")

    # Entries are means of num draws of size at most G's largest eigenvalue.
    assert error(M, G) < 12 / num**0.5
    check_operator(operator)


def test_the_jacobian_is_that_of_single_outputs(case):
    check_operator(Jacobian(problem_of(case)), dense=truth(case, "jacobian"))


def test_the_kernel_is_the_jacobian_times_its_adjoint(case):
    J = truth(case, "jacobian")

    check_operator(NTK(problem_of(case)), dense=J @ J.T)


@pytest.mark.parametrize("kind", ["hessian", "ggn", "functional"])
def test_layer_blocks_are_the_matrix_s_own(case, kind):
    problem = problem_of(case)
    whole = {"hessian": Hessian, "ggn": GGN, "functional": FunctionalHessian}[kind]
    dense, H = truth(case, kind), truth(case, "hessian")

    for layer, names in problem.layers().items():
        block = whole(problem).block(names)
        inside = [s for s in problem.layout.slices() if s.name in names]
        index = torch.cat([torch.arange(s.start, s.stop) for s in inside])

        assert_products_close(block, dense[index][:, index], scale=H)
        assert layer.rpartition(".")[0] in layer


@pytest.mark.parametrize("kind", [EmpiricalFisher, MonteCarloFisher])
def test_layer_blocks_of_fishers_are_the_matrix_s_own(case, kind):
    if kind is MonteCarloFisher and case.id in NO_LIKELIHOOD:
        pytest.skip("the loss is no likelihood")
    problem = problem_of(case)
    whole = kind(problem)
    dense = dense_fisher(case, kind)

    for names in problem.layers().values():
        inside = [s for s in problem.layout.slices() if s.name in names]
        index = torch.cat([torch.arange(s.start, s.stop) for s in inside])

        assert_products_close(whole.block(names), dense[index][:, index], scale=dense)


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.id in NORMS], ids=lambda case: case.id
)
def test_norm_layers_agree_with_central_differences(case):
    problem = problem_of(case)
    H = Hessian(problem)

    V = torch.randn(problem.num_params, 3, dtype=torch.float64)
    V /= V.norm(dim=0)

    check_against_central_differences(problem, H, tolerance=1e-8)
    assert error(H @ V, Oracle(case).difference_products(V)) < 1e-8


def test_columns_alone_are_the_block_of_columns(case):
    problem = problem_of(case)
    V = torch.randn(problem.num_params, 5, dtype=torch.float64)

    for kind in (Hessian, GGN, FunctionalHessian, EmpiricalFisher):
        operator = kind(problem)
        alone = torch.stack([operator @ v for v in V.T], dim=1)
        assert error(operator @ V, alone) < 1e-12


def test_graphs_that_are_not_kept_give_the_same_matrix(case):
    model, loss, inputs, targets = case.make()
    batches = case.batches(inputs, targets)
    size = sum(t.numel() * t.element_size() for pair in batches for t in pair)
    tight = Problem(model, loss, batches, memory_limit=2 * size + 2)

    H = Hessian(tight)

    assert_products_close(H, truth(case, "hessian"))
    assert H._graphs.num_kept < len(batches)
    assert_products_close(H, truth(case, "hessian"))


def test_the_reduction_is_the_unit(case):
    model, loss, inputs, targets = case.make()
    problem = Problem(model, loss, case.batches(inputs, targets), reduction="sum")
    expected = problem.denominator * truth(case, "hessian")

    assert_products_close(Hessian(problem), expected)


def test_float32_agrees_to_its_precision(case):
    model, loss, inputs, targets = case.make()
    problem = Problem(model, loss, case.batches(inputs, targets), dtype=torch.float32)

    assert_products_close(Hessian(problem), truth(case, "hessian"), tolerance=1e-4)
