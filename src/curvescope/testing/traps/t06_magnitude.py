"""Trap 6: "largest magnitude" that means "largest algebraic".

A library's `which="LM"` returns the most positive eigenvalues, and loses a dominant
negative one: the sharpest direction of a saddle.
"""

import torch
from torch import Tensor

from curvescope.testing.traps.common import (
    TopEigenvalues,
    attempt,
    planted,
    require_close,
)


def check(top_eigenvalues: TopEigenvalues) -> None:
    """Check that a dominant negative eigenvalue is found by LM, and each end by its name.

    Raises:
        AssertionError: If it is not.
    """
    bulk = torch.linspace(-1.0, 1.0, 96, dtype=torch.float64)
    A = planted(torch.cat([torch.tensor([-100.0, -7.0, 10.0, 5.0]), bulk]))
    expected = {
        "LM": [10.0, -7.0, -100.0],
        "LA": [10.0, 5.0, 1.0],
        "SA": [-1.0, -7.0, -100.0],
    }
    for which, values in expected.items():
        got = attempt(top_eigenvalues, A, 3, which).double()
        truth = torch.tensor(values, dtype=torch.float64)
        require_close(got.sort(descending=True).values, truth, 1e-5, which)


def foil(matrix: Tensor, k: int, which: str) -> Tensor:
    """Take the algebraically largest for LM, which is wrong."""
    values = torch.linalg.eigvalsh(matrix)
    return values[:k] if which == "SA" else values[-k:]
