"""Trap 5: ghosts, copies of an eigenvalue that Lanczos finds again and again.

Without reorthogonalisation the basis loses its orthogonality once a pair has
converged; three outliers became 60 Ritz values in a published library, and another
returned the largest ten times, some of them flagged as converged.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from curvescope.testing.traps.common import attempt, planted, three_term_lanczos

OUTLIERS = (50.0, 30.0, 20.0)


def check(
    ritz_values: Callable[[Tensor, int], Tensor], *, num_steps: int = 120
) -> None:
    """Check that each of three outliers appears exactly once.

    Args:
        ritz_values: From (symmetric matrix, steps) to all Ritz values.
        num_steps: Of the Krylov space.

    Raises:
        AssertionError: If one is missing or there more than once.
    """
    bulk = torch.linspace(0.0, 1.0, 297, dtype=torch.float64)
    outliers = torch.tensor(OUTLIERS, dtype=torch.float64)
    A = planted(torch.cat([bulk, outliers]))
    values = attempt(ritz_values, A, num_steps).double().reshape(-1)
    for outlier in OUTLIERS:
        copies = int(((values - outlier).abs() < 1e-4 * outlier).sum())
        assert copies == 1, f"the eigenvalue {outlier:g} appears {copies} times"
    spurious = int((values > 1.001).sum()) - len(OUTLIERS)
    assert spurious == 0, f"{spurious} values lie where there are no eigenvalues"


def foil(matrix: Tensor, num_steps: int) -> Tensor:
    """Run the three-term recurrence, which makes ghosts."""
    T, _ = three_term_lanczos(lambda v: matrix @ v, len(matrix), num_steps)
    return torch.linalg.eigvalsh(T)
