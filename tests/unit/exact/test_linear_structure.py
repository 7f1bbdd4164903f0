"""Structure of linear nets' spectra, against dense autodiff."""

import itertools

import pytest
import torch
from torch import nn

import curvescope as cs
from curvescope.exact.linear_structure import (
    functional_eigenvalues,
    ggn_eigenvalues,
    plateaus,
)
from curvescope.exact.network import feed_forward


def problem(widths, *, bias=False, loss="half_squared_error", inputs=None, n=30):
    """Return a linear net with orthogonal weights."""
    torch.manual_seed(3)
    pairs = itertools.pairwise(widths)
    model = nn.Sequential(*[nn.Linear(i, o, bias=bias) for i, o in pairs]).double()
    for layer in model:
        nn.init.orthogonal_(layer.weight)
    x = torch.randn(n, widths[0]).double() if inputs is None else inputs
    y = torch.randn(len(x), widths[-1]).double()
    return cs.Problem(model, loss, [(x, y)], reduction="sum")


def dense(problem, *, functional):
    """Return H_F or the GGN of a squared error by reverse over reverse."""
    model = problem.model
    batch = next(iter(problem.batches()))
    names = [name for name, _ in model.named_parameters()]
    values = [p.detach() for p in model.parameters()]
    sizes = [v.numel() for v in values]

    def outputs(vector):
        parts = [p.view_as(v) for p, v in zip(vector.split(sizes), values, strict=True)]
        named = dict(zip(names, parts, strict=True))
        return torch.func.functional_call(model, named, batch.inputs)

    theta = torch.cat([v.flatten() for v in values])
    if not functional:
        jacobian = torch.func.jacrev(outputs)(theta).flatten(0, 1)
        return jacobian.T @ jacobian
    delta = outputs(theta) - batch.targets
    return torch.func.jacrev(torch.func.grad(lambda v: (outputs(v) * delta).sum()))(
        theta
    )


@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("widths", [[4, 3], [5, 4, 6, 3], [3, 7, 2]])
def test_the_ggn_has_the_eigenvalues_of_a_small_matrix(widths, bias):
    case = problem(widths, bias=bias)
    expected = torch.linalg.eigvalsh(dense(case, functional=False)).flip(0)

    found = ggn_eigenvalues(feed_forward(case))

    common = min(len(found), len(expected))
    torch.testing.assert_close(found[:common], expected[:common])
    assert float(found[common:].abs().sum() + expected[common:].abs().sum()) < 1e-10


@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
def test_one_hidden_layer_has_the_residuals_singular_values_in_pairs(bias):
    case = problem([5, 4, 3], bias=bias)
    expected = torch.linalg.eigvalsh(dense(case, functional=True))

    found = functional_eigenvalues(feed_forward(case))

    assert len(found) == 2 * 4 * 3
    padded = torch.zeros_like(expected)
    padded[: len(found)] = found
    torch.testing.assert_close(padded.sort().values, expected)
    assert [count for _, count in plateaus(found)] == [4] * 6


def test_two_hidden_layers_have_no_symmetric_spectrum():
    values = torch.linalg.eigvalsh(dense(problem([5, 4, 4, 3]), functional=True))

    assert float((values + values.flip(0)).abs().max()) > 1e-2 * float(values.max())


def test_orthogonal_weights_give_plateaus_as_long_as_there_are_outputs():
    case = problem([4, 6, 6, 3])

    groups = plateaus(ggn_eigenvalues(feed_forward(case)))

    assert [count for _, count in groups] == [3] * 4


def test_whitened_inputs_give_one_plateau_at_the_number_of_layers():
    white = torch.linalg.qr(torch.randn(20, 4).double()).Q
    case = problem([4, 6, 6, 3], inputs=white)

    groups = plateaus(ggn_eigenvalues(feed_forward(case)))

    assert [count for _, count in groups] == [12]
    assert groups[0][0] == pytest.approx(3.0, rel=1e-12)


def test_losses_and_depths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="constant output Hessian; got LogCosh"):
        ggn_eigenvalues(feed_forward(problem([4, 3], loss="logcosh")))
    with pytest.raises(ValueError, match="one hidden layer; got 2 hidden layers"):
        functional_eigenvalues(feed_forward(problem([4, 3, 3, 2])))
    with pytest.raises(ValueError, match="`eigenvalues` must be a vector"):
        plateaus(torch.zeros(2, 2))
    assert plateaus(torch.zeros(0)) == []
