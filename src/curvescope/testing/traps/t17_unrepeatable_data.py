"""Trap 17: data that are not the same the second time.

A generator is empty on its second pass, so the second product is zero; a shuffling or
augmenting loader gives another matrix for every product. Keep the data, or refuse.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from curvescope.testing.traps.common import (
    Batches,
    MakeProduct,
    attempt,
    pure,
    reference_hessian,
    require_close,
    small_data,
    small_net,
    split,
)


class _Noisy:
    """A loader that augments: other inputs in every pass."""

    def __init__(self, X: Tensor, y: Tensor) -> None:
        self.X, self.y = X, y
        self.generator = torch.Generator().manual_seed(0)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        noise = torch.randn(self.X.shape, generator=self.generator, dtype=self.X.dtype)
        yield from split(self.X + noise, self.y, (6, 4))


def check(make_product: MakeProduct) -> None:
    """Check that two products agree for a generator, a shuffling and a noisy loader.

    Raises:
        AssertionError: If they do not, or if the generator's matrix is wrong.
    """
    model, loss, (X, y) = small_net(), nn.CrossEntropyLoss(), small_data()
    _, theta = pure(model)
    v = torch.ones_like(theta)
    once = iter(split(X, y, (6, 4)))
    shuffling = DataLoader(
        TensorDataset(X, y), batch_size=4, shuffle=True, drop_last=True
    )
    expected = reference_hessian(model, loss, X, y) @ v
    for kind, data in (
        ("a generator", once),
        ("a shuffling loader", shuffling),
        ("an augmenting loader", _Noisy(X, y)),
    ):
        product = attempt(make_product, model, loss, data)
        first, second = attempt(product, v), attempt(product, v)
        require_close(second, first, 1e-12, f"the second product with {kind}")
        if kind == "a generator":
            require_close(first, expected, 1e-10, kind)


def foil(
    model: nn.Module, loss: nn.Module, batches: Batches
) -> Callable[[Tensor], Tensor]:
    """Read the data anew for every product, which is wrong for these."""

    def product(v: Tensor) -> Tensor:
        total, num = torch.zeros_like(v), 0
        for X, y in batches:
            total += len(y) * (reference_hessian(model, loss, X, y) @ v)
            num += len(y)
        return total / max(num, 1)

    return product
