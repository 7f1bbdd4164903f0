"""Trap 14: parameters that the loss does not depend on, or depends on linearly only.

Autograd has no gradient, or a gradient without a graph, for them: two libraries crash.
Their rows are zero, or zero on the diagonal; nothing is special about that.
"""

import torch
from torch import Tensor, nn

from curvescope.testing.traps.common import (
    Batches,
    MakeHessian,
    attempt,
    pure,
    reference_hessian,
    require_close,
    small_data,
)


class _Partly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.never = nn.Linear(2, 2)
        self.net = nn.Linear(3, 3)
        self.shift = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.net(x)) + self.shift


class _Linear(nn.Module):
    """Minus the mean of the outputs: no parameter enters it quadratically."""

    reduction = "mean"

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        terms = -outputs + 0.0 * targets
        if self.reduction == "none":
            return terms
        return terms.mean() if self.reduction == "mean" else terms.sum()


def check(make_hessian: MakeHessian) -> None:
    """Check that unused parameters have zero rows, also where the Hessian is zero.

    Raises:
        AssertionError: If they do not.
    """
    X, _ = small_data()
    targets = torch.ones(10, 3, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _Partly().double()
    expected = reference_hessian(model, nn.MSELoss(), X, targets)
    got = attempt(make_hessian, model, nn.MSELoss(), [(X, targets)])
    require_close(got, expected, 1e-12, "a model with unused parameters")
    names = [n for n, p in model.named_parameters() for _ in range(p.numel())]
    idle = torch.tensor([name.startswith("never") for name in names])
    unused = got[idle].abs().max() + got[:, idle].abs().max()
    assert float(unused) == 0.0, "the unused parameters' rows are not zero"
    linear = nn.Linear(3, 3).double()
    got = attempt(make_hessian, linear, _Linear(), [(X, targets)])
    assert got.shape == (12, 12), f"the Hessian has shape {tuple(got.shape)}"
    assert float(got.abs().max()) == 0.0, "the Hessian of a linear function is not zero"


def foil(model: nn.Module, loss: nn.Module, batches: Batches) -> Tensor:
    """Differentiate without allowing for unused parameters, which crashes."""
    outputs, theta = pure(model)
    del outputs
    parameters = list(model.parameters())
    ((X, y),) = list(batches)
    grads = torch.autograd.grad(loss(model(X), y), parameters, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in grads])
    rows = [torch.autograd.grad(e, parameters, retain_graph=True) for e in flat]
    H = [torch.cat([r.reshape(-1) for r in row]) for row in rows]
    return torch.stack(H).reshape(len(theta), len(theta))
