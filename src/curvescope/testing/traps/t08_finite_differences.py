"""Trap 8: finite differences of a ReLU network's gradient in float32.

The step crosses kinks and the difference drowns in rounding: a library's default was
5.5 times too large, and flagged as converged. Exact differentiation costs the same.
"""

import torch
from torch import Tensor, nn

from curvescope.testing.traps.common import (
    Batches,
    MakeHessian,
    attempt,
    gradient,
    pure,
    reference_hessian,
    require_close,
    small_data,
)


def check(make_hessian: MakeHessian) -> None:
    """Check the Hessian of a ReLU network in float32 against float64.

    Raises:
        AssertionError: If it is off by more than 1e-4 of its norm.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    X, y = small_data(400)
    for p in net.parameters():  # the same network in both precisions
        p.data = p.data.float().double()
    X = X.float().double()
    expected = reference_hessian(net, nn.CrossEntropyLoss(), X, y)
    got = attempt(make_hessian, net.float(), nn.CrossEntropyLoss(), [(X.float(), y)])
    require_close(got, expected, 1e-4, "a ReLU network in float32")


def foil(model: nn.Module, loss: nn.Module, batches: Batches) -> Tensor:
    """Take central differences in the model's precision, which is wrong here."""
    _, theta = pure(model)
    step = 1e-3
    columns = torch.zeros(len(theta), len(theta), dtype=theta.dtype)
    data = list(batches)
    for i, e in enumerate(torch.eye(len(theta), dtype=theta.dtype)):
        for X, y in data:
            above = gradient(model, loss, X, y, theta + step * e).detach()
            below = gradient(model, loss, X, y, theta - step * e).detach()
            columns[:, i] += (above - below) / (2 * step) / len(data)
    return columns
