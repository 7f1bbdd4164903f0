"""Own blocks by dense second derivatives, and small problems to compare on."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, jacrev

from curvescope.exact import own_blocks

PARTS = ("whole", "linearisation", "curvature")


def dense_blocks(problem, sum_loss, layer):
    """Return H, G, F of a layer by reverse mode over reverse mode, and by J' H_z J."""
    model = problem.model
    state = {k: v.detach().double() for k, v in model.named_parameters()}
    state |= {k: v.detach().clone() for k, v in model.named_buffers()}
    names = problem.layers()[layer]
    shapes = [state[n].shape for n in names]
    flat = torch.cat([state[n].reshape(-1) for n in names])
    batches = list(problem.batches())
    x = torch.cat([b.inputs for b in batches])
    y = torch.cat([b.targets for b in batches])
    model.eval()

    def outputs(theta):
        pieces = theta.split([s.numel() for s in shapes])
        own = {n: p.view(s) for n, p, s in zip(names, pieces, shapes, strict=True)}
        return functional_call(model, {**state, **own}, (x,))

    scale = problem.scale
    H = scale * jacrev(grad(lambda t: sum_loss(outputs(t), y)))(flat)
    J = jacrev(outputs)(flat).flatten(0, -2)
    z = outputs(flat)
    Hz = jacrev(grad(lambda v: sum_loss(v.view_as(z), y)))(z.reshape(-1))
    G = scale * J.T @ Hz @ J
    eye = torch.eye(len(flat)).double()
    return H + problem.weight_decay * eye, G + problem.weight_decay * eye, H - G


def cross_entropy_sum(z, y):
    return F.cross_entropy(z, y, reduction="sum")


def assert_blocks(problem, sum_loss, *, layers=None, rtol=1e-12, method=None):
    blocks = own_blocks(problem, layers=layers)
    assert set(blocks) == set(layers or problem.layers()), blocks.left_out
    for name, block in blocks.items():
        H, G, curvature = dense_blocks(problem, sum_loss, name)
        size = float(H.norm() + G.norm())
        norms, traces = block.frobenius_norms(), block.traces()
        spectral = block.spectral_norms(tol=1e-12)
        for part, truth in zip(PARTS, (H, G, curvature), strict=True):
            assert block.num_params == len(truth)
            assert float((block.to_dense(part) - truth).norm()) <= rtol * size, part
            assert abs(getattr(norms, part) - float(truth.norm())) <= rtol * size, part
            error = abs(getattr(traces, part) - float(truth.trace()))
            assert error <= rtol * size * len(truth) ** 0.5, part
            top = float(torch.linalg.matrix_norm(truth, 2))
            assert abs(getattr(spectral, part) - top) <= 1e-9 * size, part
        if method is not None:
            assert block.method == method
    return blocks


ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "linear": nn.Identity,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
}


def mlp(activation, *, bias=True, widths=(5, 6, 4, 3)):
    layers = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b, bias=bias), activation()]
    return nn.Sequential(*layers[:-1]).double()


def labelled(n=14, width=5, classes=3):
    return torch.randn(n, width).double(), torch.randint(0, classes, (n,))
