"""Trap 21: a rank decided in float32, or from a squared matrix.

Small singular values of a factor J are the squares' square roots: in J'J they sink
below the rounding, and a rank counted there is too small. Float32 does the same
earlier. Decide in float64, from the factor, by the gap; and say how wide the gap is.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from curvescope.testing.traps.common import attempt

# factor -> its rank, and whether that is certain
Rank = Callable[[Tensor], tuple[int, bool]]


def factor(singular_values: Tensor, *, seed: int = 0) -> Tensor:
    """Return a float64 matrix with the given singular values."""
    n = len(singular_values)
    generator = torch.Generator().manual_seed(seed)
    U, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    V, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return (U * singular_values.double()) @ V.T


def check(rank: Rank) -> None:
    """Check the rank of a factor whose smallest singular value is 1e-9 of the largest.

    Raises:
        AssertionError: If it is wrong, or wrong and called certain for float32 input.
    """
    small = torch.zeros(20, dtype=torch.float64)
    small[:6] = torch.logspace(0, -9, 6, dtype=torch.float64)
    J = factor(small)
    found, _ = attempt(rank, J)
    assert found == 6, f"the rank is 6, not {found}"
    found, certain = attempt(rank, J.float())
    assert found == 6 or not certain, f"rank {found} from float32 is called certain"


def foil(matrix: Tensor) -> tuple[int, bool]:
    """Count the eigenvalues of the float32 square, which are too few."""
    square = (matrix.T @ matrix).float()
    return int(torch.linalg.matrix_rank(square, hermitian=True)), True
