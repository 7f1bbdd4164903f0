"""Small nets, and their ranks with primes that agree."""

import torch
from torch import nn

import curvescope as cs
from curvescope.exact.modular import (
    PRIMES,
    certified_ranks,
)
from curvescope.exact.network import feed_forward

PRIME = PRIMES[0]
LOSSES = ("half_squared_error", "mse", "logcosh", "bce_with_logits", "cross_entropy")
ACTIVATIONS = {
    "linear": None,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
}


def mlp(widths, *, activation=None, bias=False, init=nn.init.xavier_normal_):
    modules = []
    for index in range(len(widths) - 1):
        linear = nn.Linear(widths[index], widths[index + 1], bias=bias)
        linear = linear.double()
        init(linear.weight)
        modules.append(linear)
        if activation is not None and index < len(widths) - 2:
            modules.append(activation())
    return nn.Sequential(*modules)


def data(widths, n, loss, *, rank=None):
    X = torch.randn(n, rank or widths[0], dtype=torch.float64)
    if rank is not None:
        # Small integers, so that the product has exactly this rank.
        X = (X * 8).round() @ torch.randint(-4, 5, (rank, widths[0])).double()
    y = torch.randint(0, widths[-1], (n,))
    if loss == "cross_entropy":
        return X, y
    return X, nn.functional.one_hot(y, widths[-1]).double()


def net_of(model, loss, pair, **options):
    return feed_forward(cs.Problem(model, loss, pair, **options))


def ranks(net, **options):
    """Return the ranks of GGN, functional Hessian and Hessian; the primes must agree."""
    certificate = certified_ranks(net, **options)
    assert certificate.agreed
    return tuple(certificate.ranks[part] for part in ("ggn", "functional", "hessian"))


def linear_net(widths, loss, n, *, seed=0, init=nn.init.xavier_normal_):
    torch.manual_seed(seed)
    return net_of(mlp(widths, init=init), loss, data(widths, n, loss))


def dense_hessian(problem):
    """Return the loss sum's Hessian by torch's autodiff of the plain model."""
    model = problem.model
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def total(theta):
        pieces = theta.split([s.numel() for s in shapes])
        named = {n: p.view(s) for n, p, s in zip(names, pieces, shapes, strict=True)}
        return sum(
            problem.loss.total(
                torch.func.functional_call(model, named, (b.inputs,)), b.targets
            )
            for b in problem.batches()
        )

    return torch.func.jacrev(torch.func.grad(total))(flat).numpy()
