"""The truth: dense float64 matrices by reverse-over-reverse, from torch alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

import curvescope.losses as losses

WEIGHT = torch.tensor([0.3, 2.0, 5.0], dtype=torch.float64)
PARTS = ("hessian", "ggn", "functional")


@dataclass(frozen=True)
class LossCase:
    """A loss of this package, and torch's own sum and denominator."""

    id: str
    loss: object
    targets: Callable[[int], Tensor]
    total: Callable[[Tensor, Tensor], Tensor]
    denominator: Callable[[Tensor], float]


def _labels(n):
    return torch.randint(0, 3, (n,))


def _partly_ignored(n):
    labels = _labels(n)
    labels[::3] = -100
    return labels


def _real(n):
    return torch.randn(n, 3, dtype=torch.float64)


def _probabilities(n):
    return torch.rand(n, 3, dtype=torch.float64).softmax(-1)


def _counted_weight(labels):
    return float(WEIGHT[labels[labels >= 0]].sum())


LOSSES = (
    LossCase(
        "half-squared-error",
        "half_squared_error",
        _real,
        lambda f, y: 0.5 * (f - y).square().sum(),
        len,
    ),
    LossCase("mse", "mse", _real, lambda f, y: (f - y).square().sum(), torch.numel),
    LossCase(
        "cross-entropy",
        "cross_entropy",
        _labels,
        lambda f, y: F.cross_entropy(f, y, reduction="sum"),
        len,
    ),
    LossCase(
        "weighted-ignored-smoothed",
        losses.CrossEntropy(weight=WEIGHT, label_smoothing=0.2),
        _partly_ignored,
        lambda f, y: F.cross_entropy(
            f, y, weight=WEIGHT, label_smoothing=0.2, reduction="sum"
        ),
        _counted_weight,
    ),
    LossCase(
        "soft-targets",
        losses.CrossEntropy(weight=WEIGHT),
        _probabilities,
        lambda f, y: F.cross_entropy(f, y, weight=WEIGHT, reduction="sum"),
        len,
    ),
    LossCase(
        "logcosh",
        "logcosh",
        _real,
        lambda f, y: torch.log(torch.cosh(f - y)).sum(),
        len,
    ),
    LossCase(
        "bce",
        "bce_with_logits",
        _probabilities,
        lambda f, y: F.binary_cross_entropy_with_logits(f, y, reduction="sum"),
        torch.numel,
    ),
    LossCase(
        "huber",
        nn.HuberLoss(delta=0.7),
        _real,
        lambda f, y: F.huber_loss(f, y, delta=0.7, reduction="sum"),
        torch.numel,
    ),
    LossCase(
        "poisson",
        nn.PoissonNLLLoss(),
        lambda n: torch.randint(0, 4, (n, 3)).double(),
        lambda f, y: F.poisson_nll_loss(f, y, reduction="sum"),
        torch.numel,
    ),
)
CROSS_ENTROPY = LOSSES[2]


def mlp(widths, activation=nn.Tanh, *, bias=True):
    """A feed-forward net; ``bias`` may say it layer by layer."""
    biases = [bias] * (len(widths) - 1) if isinstance(bias, bool) else bias
    modules = []
    for inputs, outputs, has in zip(widths[:-1], widths[1:], biases, strict=True):
        modules += [nn.Linear(inputs, outputs, bias=has), activation()]
    return nn.Sequential(*modules[:-1]).double()


def truth(model, total, inputs, targets):
    """Return H, GGN and functional Hessian of the loss sum over all parameters."""
    named = {k: p.detach() for k, p in model.named_parameters()}
    buffers = dict(model.named_buffers())
    sizes = [p.numel() for p in named.values()]
    theta = torch.cat([p.reshape(-1) for p in named.values()])

    def net(theta):
        pieces = zip(named.items(), theta.split(sizes), strict=True)
        state = {name: piece.view(p.shape) for (name, p), piece in pieces}
        return functional_call(model, {**buffers, **state}, (inputs,))

    with sdpa_kernel(SDPBackend.MATH):
        outputs = net(theta).detach()
        size = outputs.numel()
        residual = grad(lambda f: total(f, targets))(outputs)
        middle = jacrev(grad(lambda f: total(f, targets)))(outputs).reshape(size, size)
        J = jacrev(net)(theta).reshape(size, -1)
        return {
            "hessian": jacrev(grad(lambda t: total(net(t), targets)))(theta),
            "ggn": J.T @ middle @ J,
            "functional": jacrev(grad(lambda t: (residual * net(t)).sum()))(theta),
        }


def assert_matrices(found, expected, *, scale=1.0, tolerance=1e-12):
    """Compare every matrix with the truth, relative to the largest entry of H."""
    largest = float(expected["hessian"].abs().max()) * scale
    for part, matrix in found.items():
        off = float((matrix - scale * expected[part]).abs().max())
        assert off <= tolerance * largest, f"{part} is off by {off / largest:.2e}"
        assert torch.equal(matrix, matrix.T), f"{part} is not exactly symmetric"
