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
    functional = torch.func.jacrev(
        torch.func.grad(lambda v: (outputs(v) * delta).sum())
    )
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


@pytest.mark.parametrize("bias", [(True, False, True), (False, True, False)])
@pytest.mark.parametrize("loss", LOSSES)
def test_biases_on_some_layers_are_layers_like_others(loss, bias):
    problem = make([5, 4, 6, 3], loss=loss, bias=bias)
    expected = oracle(problem)
    net = feed_forward(problem)

    found, compressed = kronecker_matrices(net), compress(net)

    for name in MATRICES:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-10)
        assert_same_spectrum(getattr(compressed, name), expected[name])


@settings(max_examples=25)
@given(
    widths=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    loss=st.sampled_from([*LOSSES, "quartic"]),
    bias=st.booleans(),
    n=st.integers(1, 12),
    rank=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_any_net_keeps_its_spectra(widths, loss, bias, n, rank, seed):
    problem = make(widths, loss=loss, bias=bias, n=n, rank=rank, seed=seed)
    net = feed_forward(problem)

    compressed, expected = compress(net), kronecker_matrices(net)

    size = expected["hessian"].abs().max()
    for name in MATRICES:
        values = torch.zeros(net.num_params, dtype=torch.float64)
        values[: compressed.dimension] = spectrum(getattr(compressed, name))
        difference = values.sort().values - spectrum(expected[name])
        assert float(difference.abs().max()) <= 1e-12 * float(size)


@pytest.mark.parametrize(
    ("loss", "functional", "ggn", "hessian"),
    [
        ("mse", 175, 150, 250),
        ("logcosh", 175, 150, 250),
        ("cross_entropy", 165, 145, 245),
    ],
)
def test_the_published_case_has_its_published_ranks(loss, functional, ggn, hessian):
    net = feed_forward(make([25, 5, 10, 10], loss=loss, n=50))

    compressed = compress(net)

    tolerance = 275 * 2.2e-16 * spectrum(compressed.hessian).abs().max()
    assert int((spectrum(compressed.hessian).abs() > tolerance).sum()) == hessian
    assert (
        int((spectrum(compressed.core("functional")).abs() > tolerance).sum())
        == functional
    )
    assert int(torch.linalg.matrix_rank(compressed.ggn_factor)) == ggn
    # The net is generic: nothing but the rank is left.
    assert compressed.dimension == hessian


def test_weights_of_low_rank_are_measured_and_not_assumed():
    problem = make([12, 6, 5, 4], n=60)
    weight = problem.model[1].weight
    with torch.no_grad():
        # Small integers, so that the product has rank 2 exactly.
        left = torch.randint(-3, 4, (5, 2), dtype=torch.float64)
        weight.copy_(left @ torch.randint(-3, 4, (2, 6), dtype=torch.float64))

    compressed = compress(feed_forward(problem))

    values = spectrum(compressed.hessian).abs()
    tolerance = 1e-13 * values.max()
    functional = spectrum(compressed.core("functional")).abs()
    ranks = (
        int((functional > tolerance).sum()),
        int(torch.linalg.matrix_rank(compressed.ggn_factor)),
        int((values > tolerance).sum()),
    )
    assert ranks == (68, 36, 84)


@pytest.mark.parametrize("standardise", [False, True])
def test_zero_inputs_leave_what_the_biases_see(standardise):
    problem = make([3, 4, 2], bias=True, n=5)
    batch = next(iter(problem.batches()))
    data = [(torch.zeros_like(batch.inputs), batch.targets)]
    problem = cs.Problem(problem.model, "mse", data)
    expected = oracle(problem)

    compressed = compress(feed_forward(problem), standardise=standardise)

    for name in MATRICES:
        rank = int((spectrum(expected[name]).abs() > 1e-12).sum())
        assert int((spectrum(getattr(compressed, name)).abs() > 1e-12).sum()) == rank


def change(problem, function):
    """Return the problem with other inputs."""
    batch = next(iter(problem.batches()))
    data = [(function(batch.inputs.clone()), batch.targets)]
    return cs.Problem(problem.model, "mse", data)


def _tiny_column(inputs):
    inputs[:, 3] *= 1e-8
    return inputs


@pytest.mark.parametrize(
    ("function", "bias", "ranks"),
    [
        (_tiny_column, False, (72, 48, 104)),
        (_tiny_column, True, (76, 52, 116)),
        (lambda x: x + 1e6, True, (76, 52, 116)),
    ],
    ids=["tiny column", "tiny column and bias", "large mean and bias"],
)
def test_badly_scaled_inputs_hide_no_rank_once_standardised(function, bias, ranks):
    net = feed_forward(change(make([12, 6, 5, 4], n=60, bias=bias), function))
    plain = spectrum(compress(net).hessian).abs()
    assert int((plain > 1e-13 * plain.max()).sum()) < ranks[2]

    compressed = compress(net, standardise=True)

    values = spectrum(compressed.hessian).abs()
    tolerance = compressed.dimension * 2.2e-16 * values.max()
    found = (
        int((spectrum(compressed.core("functional")).abs() > tolerance).sum()),
        int(torch.linalg.matrix_rank(compressed.ggn_factor)),
        int((values > tolerance).sum()),
    )
    assert found == ranks
    smallest = values[values > tolerance].min()
    assert float(smallest) > 1e3 * float(tolerance)


@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("standardise_twice", [False, True])
def test_standardising_keeps_the_function_and_the_inertia(bias, standardise_twice):
    problem = change(make([6, 5, 3], n=15, bias=bias, rank=4), lambda x: 3 * x + 1)
    net = feed_forward(problem)

    other = standardised(net)
    if standardise_twice:
        other = standardised(other)

    before, after = next(net.samples(most=99)), next(other.samples(most=99))
    torch.testing.assert_close(after.outputs, before.outputs)
    torch.testing.assert_close(after.gradients, before.gradients)
    covariance = after.inputs.T @ after.inputs / len(after.inputs)
    torch.testing.assert_close(covariance, torch.eye(len(covariance)).double())
    for name in MATRICES:
        full = spectrum(kronecker_matrices(net)[name])
        new = spectrum(kronecker_matrices(other)[name])
        for sign in (1, -1):
            count = int((sign * full > 1e-11 * full.abs().max()).sum())
            assert int((sign * new > 1e-11 * new.abs().max()).sum()) == count


def test_a_net_that_is_not_linear_is_refused():
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)).double()
    data = [(torch.zeros(1, 3).double(), torch.zeros(1, 2).double())]
    net = feed_forward(cs.Problem(model, "mse", data))

    with pytest.raises(ValueError, match=r"`net` must be linear; got tanh"):
        compress(net)


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match=r"`parts` must be among .*; got 'fisher'"):
        kronecker_matrices(feed_forward(make([3, 2])), parts=["fisher"])


def test_only_the_parts_asked_for_are_returned():
    net = feed_forward(make([4, 3, 2]))
    everything = kronecker_matrices(net)

    for name in MATRICES:
        (only,) = kronecker_matrices(net, parts=[name]).items()
        assert only[0] == name
        torch.testing.assert_close(only[1], everything[name])
