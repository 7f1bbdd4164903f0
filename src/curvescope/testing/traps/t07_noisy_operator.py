"""Trap 7: residual ESTIMATES trusted where products are noisy.

With dropout left on, every product is of another matrix. The recurrence of Lanczos
cannot see that: it claimed residuals of 1e-10, "converged". Only one more product with
the returned vector shows the true residual.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from curvescope.testing.traps.common import planted, three_term_lanczos

Multiply = Callable[[Tensor], Tensor]
# (product with v or with columns V, n, k) -> eigenvalues, vectors (n, k), converged (k,)
Solve = Callable[[Multiply, int, int], tuple[Tensor, Tensor, Tensor]]

_CLAIM = 1e-3


def check(solve: Solve, *, noise: float = 0.05) -> None:
    """Check that no pair of a noisy operator is called converged when it is not.

    Raising an error is as good an answer.

    Raises:
        AssertionError: If a pair is flagged whose true relative residual is above 1e-3.
    """
    n, k = 60, 3
    spectrum = torch.cat(
        [torch.linspace(0.0, 1.0, n - k), torch.tensor([8.0, 6.0, 4.0])]
    )
    A = planted(spectrum)
    generator = torch.Generator().manual_seed(0)

    def multiply(V: Tensor) -> Tensor:
        kicks = torch.randn(V.shape, generator=generator, dtype=torch.float64)
        return A @ V.double() + noise * kicks * V.norm() / n**0.5

    try:
        values, vectors, converged = solve(multiply, n, k)
    except Exception:
        return
    for i in range(len(values)):
        v = vectors[:, i].double()
        v = v / v.norm()
        value = float(values[i])
        residual = float((A @ v - value * v).norm()) / abs(value)
        assert residual <= _CLAIM or not bool(converged[i]), (
            f"the pair at {value:.4g} is flagged as converged; its residual is {residual:.1e}"
        )


def foil(multiply: Multiply, n: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Trust the last entries of the projected eigenvectors, which is wrong."""
    T, Q = three_term_lanczos(multiply, n, 40)
    values, S = torch.linalg.eigh(T)
    beta = T[-1, -2].abs()
    estimates = beta * S[-1].abs() / values.abs()
    return values[-k:], (Q @ S)[:, -k:], estimates[-k:] < _CLAIM
