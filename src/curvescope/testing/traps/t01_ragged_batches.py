"""Trap 1: the mean over batches of unequal sizes.

Averaging the batches' means gives a short last batch the weight of a full one. Errors
of up to 85 % were measured in a published library.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from curvescope.testing.traps.common import (
    Batches,
    MakeHessian,
    attempt,
    reference_hessian,
    require_close,
    small_data,
    small_net,
    split,
)

SPLITS = ((10,), (8, 2), (1, 9), (3, 3, 3, 1))


def check(
    make_hessian: MakeHessian, *, splits: Sequence[Sequence[int]] = SPLITS
) -> None:
    """Check that every split of ten samples gives the full batch's Hessian.

    Raises:
        AssertionError: If one does not, to 1e-12 in float64.
    """
    model, loss, (X, y) = small_net(), nn.CrossEntropyLoss(), small_data()
    expected = reference_hessian(model, loss, X, y)
    for sizes in splits:
        got = attempt(make_hessian, model, loss, split(X, y, sizes))
        require_close(got, expected, 1e-12, f"batches of {tuple(sizes)}")


def foil(model: nn.Module, loss: nn.Module, batches: Batches) -> Tensor:
    """Average the batches' matrices, which is wrong."""
    matrices = [reference_hessian(model, loss, X, y) for X, y in batches]
    return torch.stack(matrices).mean(0)
