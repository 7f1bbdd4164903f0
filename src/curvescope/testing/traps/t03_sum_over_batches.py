"""Trap 3: the sum of the batches' means, so that more data mean more curvature.

Four published codes add the batches up; their eigenvalues grow with the loader.
"""

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


def check(make_hessian: MakeHessian) -> None:
    """Check that the same batches twice leave the mean's Hessian unchanged.

    Raises:
        AssertionError: If they do not.
    """
    model, loss, (X, y) = small_net(), nn.CrossEntropyLoss(), small_data()
    once = split(X, y, (6, 4))
    expected = reference_hessian(model, loss, X, y)
    got = attempt(make_hessian, model, loss, once + once)
    require_close(got, expected, 1e-12, "the loader doubled")


def foil(model: nn.Module, loss: nn.Module, batches: Batches) -> Tensor:
    """Add the batches' matrices, which is wrong for a mean."""
    return torch.stack([reference_hessian(model, loss, X, y) for X, y in batches]).sum(
        0
    )
