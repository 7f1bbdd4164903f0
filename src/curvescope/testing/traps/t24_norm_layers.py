"""Trap 24: reverse mode inside reverse mode under vmap, on norm layers.

`torch.func.hessian`, and `jacrev` of anything but a gradient, are silently wrong by 5
to 10 % in float64 on LayerNorm, affine InstanceNorm and train-mode BatchNorm (torch
2.13 and 2.15). `jacrev(grad)`, `jvp(grad)` and double backward are right. Whoever uses
the former as an oracle checks one error against itself; central differences do not.
"""

import torch
from torch import Tensor, nn

from curvescope.testing.traps.common import (
    MakeHessian,
    attempt,
    gradient,
    pure,
    require_close,
)


def _net(norm: nn.Module) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(3, 8), nn.Unflatten(1, (2, 4)), norm, nn.Tanh(), nn.Flatten(),
            nn.Linear(8, 3),
        ).double()  # fmt: skip
        for p in norm.parameters():
            nn.init.normal_(p, mean=1.0, std=0.3)
    return net.eval()


def norm_layers() -> dict[str, nn.Module]:
    """Return one layer of every kind, for inputs (N, 2, 4)."""
    return {
        "LayerNorm": nn.LayerNorm(4),
        "LayerNorm without bias": nn.LayerNorm(4, bias=False),
        "InstanceNorm": nn.InstanceNorm1d(2, affine=True),
        "GroupNorm": nn.GroupNorm(2, 2),
        "RMSNorm": nn.RMSNorm(4),
        "BatchNorm": nn.BatchNorm1d(2),
    }


def check(make_hessian: MakeHessian) -> None:
    """Check every norm layer against central differences of the gradient.

    Raises:
        AssertionError: If one is off by more than 1e-7 of its norm.
    """
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (7,), generator=generator)
    loss = nn.CrossEntropyLoss()
    for kind, layer in norm_layers().items():
        model = _net(layer)
        size = sum(p.numel() for p in model.parameters())
        V = torch.randn(size, 4, generator=generator, dtype=torch.float64)
        expected = difference_products(model, loss, X, y, V)
        got = attempt(make_hessian, model, loss, [(X, y)])
        assert got.shape == (size, size), f"{kind}: shape {tuple(got.shape)}"
        require_close(got @ V, expected, 1e-7, kind)


def difference_products(
    model: nn.Module,
    loss: nn.Module,
    X: Tensor,
    y: Tensor,
    V: Tensor,
    *,
    step: float = 1e-3,
) -> Tensor:
    """Return ``H V`` by central differences of the gradient, extrapolated once."""
    _, theta = pure(model)

    def central(v: Tensor, h: float) -> Tensor:
        above = gradient(model, loss, X, y, theta + h * v).detach()
        return (above - gradient(model, loss, X, y, theta - h * v).detach()) / (2 * h)

    columns = []
    for v in V.T:
        size = v.norm()
        unit = v / size
        extrapolated = (4 * central(unit, step / 2) - central(unit, step)) / 3
        columns.append(size * extrapolated)
    return torch.stack(columns, dim=1)
