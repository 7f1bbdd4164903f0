"""Functions of torch whose second derivative is wrong, against central differences."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from curvescope.autodiff.repairs import weight_norm as repaired
from curvescope.curvature import GGN, FunctionalHessian, Hessian
from curvescope.problem import Problem
from curvescope.testing import check_against_central_differences

X = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)).double()
Y = torch.tensor([0, 1, 2, 0, 1, 2, 0])


def net(*, dim):
    torch.manual_seed(1)
    layers = (weight_norm(nn.Linear(4, 5), dim=dim), nn.Tanh(), nn.Linear(5, 3))
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_agrees_with_central_differences(dim):
    problem = Problem(net(dim=dim), "cross_entropy", (X, Y))
    H = Hessian(problem)

    check_against_central_differences(problem, H)
    total = GGN(problem).to_dense() + FunctionalHessian(problem).to_dense()
    torch.testing.assert_close(H.to_dense(), total, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_the_written_form_is_torchs_own_value(dim):
    v = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(2)).double()
    shape = [1, 1, 1]
    if dim >= 0:
        shape[dim] = v.shape[dim]
    g = torch.rand(shape, generator=torch.Generator().manual_seed(3)).double()

    torch.testing.assert_close(repaired(v, g, dim), torch._weight_norm(v, g, dim))


def test_torchs_own_double_backward_of_weight_norm_is_still_wrong():
    """When this fails, torch has mended it and the repair can go."""
    v = torch.randn(5, 4, generator=torch.Generator().manual_seed(4)).double()
    g = torch.rand(5, 1, generator=torch.Generator().manual_seed(5)).double() + 0.5
    u = torch.randn(5, 4, generator=torch.Generator().manual_seed(6)).double()

    def second(function):
        leaf = v.clone().requires_grad_()
        (first,) = torch.autograd.grad(
            torch.tanh(function(leaf, g, 0)).sum(), leaf, create_graph=True
        )
        return torch.autograd.grad(first, leaf, u)[0]

    assert not torch.allclose(second(torch._weight_norm), second(repaired), rtol=1e-3)
