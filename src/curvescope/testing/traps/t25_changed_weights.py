"""Trap 25 (our own): products with the weights of yesterday.

Whoever keeps graphs between products must notice that the weights changed. Version
counters do not: fused optimisers and writes through ``.data`` leave them as they are.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from curvescope.testing.traps.common import (
    Batches,
    MakeProduct,
    attempt,
    gradient,
    pure,
    reference_hessian,
    require_close,
    small_data,
    small_net,
    split,
)


def _through_data(model: nn.Module) -> None:
    for p in model.parameters():
        p.data.mul_(1.25)


def _through_numpy(model: nn.Module) -> None:
    next(model.parameters()).detach().numpy()[0, 0] += 0.5


def _by_fused_optimiser(model: nn.Module) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimiser.step()
    optimiser.zero_grad()


def _by_loading(model: nn.Module) -> None:
    model.load_state_dict({k: 0.5 * v for k, v in model.state_dict().items()})


def _by_new_tensors(model: nn.Module) -> None:
    for p in model.parameters():
        p.data = p.data + 0.1


def changes() -> Iterator[tuple[str, Callable[[nn.Module], None]]]:
    """Yield ways to change a model's weights."""
    yield "a write through .data", _through_data
    yield "a write through NumPy", _through_numpy
    yield "a fused optimiser", _by_fused_optimiser
    yield "load_state_dict", _by_loading
    yield "new tensors in .data", _by_new_tensors


def check(make_product: MakeProduct) -> None:
    """Check that a product after a change is one with the changed weights.

    Raises:
        AssertionError: If it is one with the old.
    """
    loss, (X, y) = nn.CrossEntropyLoss(), small_data()
    for what, change in changes():
        model = small_net()
        _, theta = pure(model)
        v = torch.ones_like(theta)
        product = attempt(make_product, model, loss, split(X, y, (6, 4)))
        attempt(product, v)
        change(model)
        expected = reference_hessian(model, loss, X, y) @ v
        require_close(attempt(product, v), expected, 1e-10, f"after {what}")


def foil(
    model: nn.Module, loss: nn.Module, batches: Batches
) -> Callable[[Tensor], Tensor]:
    """Keep the gradient's graph whatever happens to the weights, which is wrong."""
    _, theta = pure(model)
    leaf = theta.clone().requires_grad_()
    data = list(batches)
    num = sum(len(y) for _, y in data)
    parts = [len(y) / num * gradient(model, loss, X, y, leaf) for X, y in data]
    kept = torch.stack(parts).sum(0)
    return lambda v: torch.autograd.grad(kept, leaf, v, retain_graph=True)[0]
