"""Trap 18: the Krylov space ends early.

With fewer distinct eigenvalues than are asked for, the recurrence breaks down; a
library then returned 5 of 6 values, others divide by a constant and invent some.
"""

import torch
from torch import Tensor

from curvescope.testing.traps.common import (
    TopEigenvalues,
    attempt,
    planted,
)


def problems() -> dict[str, tuple[Tensor, int]]:
    """Return (matrix, k) of operators on which a Krylov space ends early."""
    low = torch.zeros(30, dtype=torch.float64)
    low[:3] = torch.tensor([5.0, 3.0, -2.0])
    twice = torch.tensor([4.0, 4.0, 4.0, 1.0] + [0.0] * 8, dtype=torch.float64)
    return {
        "rank 3, k = 6": (planted(low), 6),
        "rank 3, k = n": (planted(low), 30),
        "the zero matrix": (torch.zeros(6, 6, dtype=torch.float64), 3),
        "the identity": (torch.eye(9, dtype=torch.float64), 4),
        "a threefold eigenvalue": (planted(twice), 4),
        "one parameter": (torch.tensor([[-2.5]], dtype=torch.float64), 1),
    }


def check(top_eigenvalues: TopEigenvalues) -> None:
    """Check that k values come back, with multiplicities and zeros.

    Raises:
        AssertionError: If they do not.
    """
    for what, (A, k) in problems().items():
        got = attempt(top_eigenvalues, A, k, "LM").double().reshape(-1)
        assert len(got) == k, f"{what}: {len(got)} values instead of {k}"
        truth = torch.linalg.eigvalsh(A)
        truth = truth[truth.abs().argsort(descending=True)][:k]
        off = float((got.sort().values - truth.sort().values).abs().max())
        bound = 1e-7 * max(float(A.norm()), 1e-300)
        assert off <= bound, f"{what}: a value is off by {off:.2e}"


def foil(matrix: Tensor, k: int, which: str) -> Tensor:
    """Return what a single Krylov space holds when it breaks down, which is too little."""
    del which
    v = torch.ones(len(matrix), dtype=torch.float64)
    basis: list[Tensor] = []
    for _ in range(len(matrix)):
        for _ in range(2):
            for u in basis:
                v = v - (u @ v) * u
        if float(v.norm()) <= 1e-10 * max(float(matrix.norm()), 1.0):
            break
        basis.append(v / v.norm())
        v = matrix @ basis[-1]
    Q = torch.stack(basis, dim=1)
    values = torch.linalg.eigvalsh(Q.T @ matrix @ Q)
    return values[values.abs().argsort(descending=True)][:k]
