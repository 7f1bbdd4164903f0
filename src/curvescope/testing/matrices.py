"""Matrices whose spectrum is known, and an operator that counts its products."""

from typing import Any, final

import torch
from torch import Tensor

from curvescope._core.checks import describe, message
from curvescope._core.random import resolve_generator
from curvescope.linop.base import LinearOperator
from curvescope.linop.convert import aslinearoperator


def matrix_with_spectrum(
    eigenvalues: Any,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Return a symmetric matrix with these eigenvalues and random eigenvectors.

    Args:
        eigenvalues: Numbers, shape ``(n,)``.
        generator: Source of the eigenvectors, uniform over rotations; a fresh one
            with a fixed seed if ``None``.
        dtype: Of the matrix; it is computed in float64.

    Cost:
        A QR decomposition, ``O(n^3)``.

    Example:
        >>> matrix = matrix_with_spectrum([1.0, 2.0])
        >>> torch.linalg.eigvalsh(matrix).round(decimals=6)
        tensor([1., 2.], dtype=torch.float64)
    """
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(message("eigenvalues", "have shape (n,)", describe(values)))
    n = len(values)
    draw = torch.randn(
        n, n, generator=resolve_generator(generator), dtype=torch.float64
    )
    Q, R = torch.linalg.qr(draw)
    # The signs make the distribution of Q uniform (Mezzadri 2007).
    Q = Q * R.diagonal().sign()
    matrix = (Q * values) @ Q.T
    return ((matrix + matrix.T) / 2).to(dtype)


@final
class CountingOperator(LinearOperator):
    """Another operator, counting what it is asked for.

    Attributes:
        num_matvecs: Columns multiplied so far, adjoint products among them.
        num_calls: Blocks multiplied so far.
    """

    def __init__(self, A: LinearOperator) -> None:
        super().__init__(
            A.shape,
            dtype=A.dtype,
            device=A.device,
            symmetric=A.symmetric,
            positive_semidefinite=A.positive_semidefinite,
            info=A.info,
            passes_per_product=A.passes_per_product,
            block_size=A.block_size,
        )
        self.A = A
        self.num_matvecs = 0
        self.num_calls = 0

    def _count(self, V: Tensor) -> None:
        self.num_matvecs += V.shape[1]
        self.num_calls += 1

    def _matmat(self, V: Tensor) -> Tensor:
        self._count(V)
        return self.A._matmat(V)

    def _adjoint_matmat(self, V: Tensor) -> Tensor:
        self._count(V)
        return self.A._adjoint_matmat(V)

    def refresh(self) -> str:
        """Refresh the operand."""
        return self.A.refresh()


def counting(A: Any) -> CountingOperator:
    """Return ``A`` as an operator that counts its products.

    Example:
        >>> A = counting(torch.eye(3))
        >>> _ = A @ torch.ones(3, 2)
        >>> A.num_matvecs
        2
    """
    return CountingOperator(aslinearoperator(A))
