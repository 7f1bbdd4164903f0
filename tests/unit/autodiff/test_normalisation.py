"""Layer normalisation's own second derivative, against finite differences and torch's."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, jacrev

from curvescope.autodiff.normalisation import layer_norm
from curvescope.curvature import GGN, Hessian
from curvescope.problem import Problem


def _tensors(*shapes):
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_()
        for s in shapes
    ]


@pytest.mark.parametrize("shape", [(6,), (5, 6)], ids=str)
@pytest.mark.parametrize("affine", ["weight and bias", "weight", "none"])
def test_layer_norm_s_derivatives_are_those_of_finite_differences(shape, affine):
    x, w, b = _tensors((3, 5, 6), shape, shape)

    def normalised(*given):
        x, w, b = (*given, None, None)[:3]
        return layer_norm(x, shape, w, b, 1e-2, second_order=True)

    given = {"weight and bias": (x, w, b), "weight": (x, w), "none": (x,)}[affine]
    weight, bias = (*given[1:], None, None)[:2]

    torch.testing.assert_close(
        normalised(*given), F.layer_norm(x, shape, weight, bias, 1e-2)
    )
    assert torch.autograd.gradcheck(normalised, given)
    assert torch.autograd.gradgradcheck(normalised, given)


def test_a_jacobian_s_product_through_layer_norm_is_right():
    x, w, b = _tensors((4, 6), (6,), (6,))
    u = torch.zeros(4, 6, dtype=torch.float64, requires_grad=True)
    v = _tensors((4, 6), (6,), (6,))
    outputs = layer_norm(x, (6,), w, b, 1e-5, second_order=False)
    gradients = torch.autograd.grad(outputs, (x, w, b), u, create_graph=True)

    (found,) = torch.autograd.grad(gradients, u, [t.detach() for t in v])

    _, expected = torch.func.jvp(
        lambda x, w, b: F.layer_norm(x, (6,), w, b),
        (x, w, b),
        tuple(t.detach() for t in v),
    )
    torch.testing.assert_close(found, expected)


class _Net(nn.Module):
    def __init__(self, *, affine):
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
        self.norm = nn.LayerNorm(5, elementwise_affine=affine)

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.first(x))))


@pytest.mark.parametrize("affine", [True, False])
def test_hessian_and_ggn_of_a_net_with_layer_norm_equal_dense_autodiff(affine):
    torch.manual_seed(0)
    net = _Net(affine=affine).double()
    x, y = torch.randn(7, 4, dtype=torch.float64), torch.arange(7) % 3
    problem = Problem(net, "cross_entropy", (x, y))
    names = list(dict(net.named_parameters()))
    shapes = [p.shape for p in net.parameters()]
    flat = torch.cat([p.detach().reshape(-1) for p in net.parameters()])

    def outputs(flat):
        parts = flat.split([s.numel() for s in shapes])
        weights = {
            n: p.reshape(s) for n, p, s in zip(names, parts, shapes, strict=True)
        }
        return functional_call(net, weights, (x,))

    dense = jacrev(grad(lambda f: F.cross_entropy(outputs(f), y)))(flat)
    jacobian = torch.func.jacfwd(outputs)(flat)
    p = outputs(flat).softmax(dim=1)
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    ggn = torch.einsum("nip,nij,njq->pq", jacobian, middle, jacobian) / len(x)

    torch.testing.assert_close(Hessian(problem).to_dense(), dense)
    torch.testing.assert_close(GGN(problem).to_dense(), ggn)
    torch.testing.assert_close(Hessian(problem, columns=4).to_dense(), dense)
