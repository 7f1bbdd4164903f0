"""All layers of losses whose curvature by the outputs changes sign."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jacrev

import curvescope as cs


def robust(outputs, targets):
    """A loss that is concave where a residual exceeds one."""
    return torch.log1p((outputs - targets).square()).mean()


def hessian(net, loss, X, y):
    """All weights' Hessian, by jacrev of grad: the GGN too where outputs are linear."""
    shapes = {n: p.shape for n, p in net.named_parameters()}
    flat = torch.cat([p.detach().flatten() for p in net.parameters()])

    def objective(flat):
        pieces = flat.split([shape.numel() for shape in shapes.values()])
        named = {n: v.view(shapes[n]) for n, v in zip(shapes, pieces, strict=True)}
        return loss(functional_call(net, named, (X,)), y)

    return jacrev(grad(objective))(flat)


def by_magnitude(D):
    values = torch.linalg.eigvalsh(D)
    return values[values.abs().argsort(descending=True)]


@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
@pytest.mark.parametrize("batch_size", [100, 32])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_signs_that_only_later_samples_show_are_kept(matrix, batch_size, weight_decay):
    torch.manual_seed(0)
    net = nn.Linear(200, 1).double()
    X = torch.randn(100, 200, dtype=torch.float64)
    residuals = 3 + torch.rand(100, 1, dtype=torch.float64)
    residuals[:2] = 0.1  # all that a look at a few samples sees
    y = net(X).detach() + residuals
    problem = cs.Problem(
        net,
        cs.Loss(robust, reduction="mean"),
        (X, y),
        batch_size=batch_size,
        weight_decay=weight_decay,
    )

    row = cs.all_layers(problem, matrix=matrix, k=3, tol=1e-9).layers[0]

    D = hessian(net, robust, X, y)
    D = D + weight_decay * torch.eye(201, dtype=torch.float64)
    assert row.converged
    assert row.eigenvalues == pytest.approx(by_magnitude(D)[:3].tolist(), rel=1e-7)
    assert row.trace == pytest.approx(float(D.trace()), rel=1e-9)
    off = abs(row.frobenius_norm - float(D.norm()))
    assert off <= 5 * row.frobenius_norm_error + 1e-9 * float(D.norm())


@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
def test_the_top_pairs_of_a_signed_block_are_those_with_weight_decay(matrix):
    net = nn.Linear(2, 1, bias=False).double()
    X = torch.eye(2, dtype=torch.float64).repeat(20, 1)
    y = torch.tensor([[-1.0], [0.95]], dtype=torch.float64).repeat(20, 1) / 20
    loss = cs.Loss(lambda f, c: (0.5 * c * f.square()).sum(), reduction="sum")
    problem = cs.Problem(net, loss, (X, y), weight_decay=0.1)

    one = cs.all_layers(problem, matrix=matrix, k=1).layers[0]
    both = cs.all_layers(problem, matrix=matrix, k=2).layers[0]

    # The block is diag(-1, 0.95) + 0.1.
    assert one.eigenvalues == pytest.approx((1.05,), rel=1e-12)
    assert both.eigenvalues == pytest.approx((1.05, -0.9), rel=1e-12)
