"""The interface in the middle: something that multiplies vectors.

It knows shapes, structure and what it is of; it knows neither networks nor algorithms.
"""

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from curvescope._core.checks import describe, message
from curvescope.results import Provenance


class LinearOperator(ABC):
    """An ``m x n`` matrix known by its products, real, of one dtype on one device.

    A subclass is final and gives `_matmat` and `_adjoint_matmat`; the public methods
    check and are never overridden. Columns in blocks are the native case.

    Attributes:
        shape: ``(m, n)``.
        dtype: Of the entries, the vectors and the products.
        device: Likewise.
        symmetric: Whether ``A = A'``.
        positive_semidefinite: Whether all eigenvalues are known to be >= 0.
        info: What the matrix is of, its unit, its parameters.
        passes_per_product: Passes over the data of one block product.
        block_size: Columns that are best multiplied at once.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        dtype: torch.dtype,
        device: torch.device,
        symmetric: bool = False,
        positive_semidefinite: bool = False,
        info: Provenance | None = None,
        passes_per_product: int = 0,
        block_size: int = 64,
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self.device = device
        self.symmetric = symmetric or positive_semidefinite
        self.positive_semidefinite = positive_semidefinite
        self.info = info or Provenance(num_params=shape[1])
        self.passes_per_product = passes_per_product
        self.block_size = block_size

    @abstractmethod
    def _matmat(self, V: Tensor) -> Tensor:
        """Return ``A V`` for ``V`` of shape ``(n, k)``; must not change ``V``."""

    @abstractmethod
    def _adjoint_matmat(self, V: Tensor) -> Tensor:
        """Return ``A' V`` for ``V`` of shape ``(m, k)``; must not change ``V``."""

    @abstractmethod
    def refresh(self) -> str:
        """Bring what is kept for products up to date, and return a fingerprint.

        The fingerprint is of everything the matrix depends on (weights, buffers, data).
        Algorithms call this when they begin and when they end: two different answers
        mean that the matrix changed in between, which is an error. A plain matrix
        returns a constant.
        """

    @final
    def __matmul__(self, V: Tensor) -> Tensor:
        """Return ``A v`` for shape ``(n,)`` or ``A V`` for shape ``(n, k)``."""
        return self._checked_product(V, self.shape[1], adjoint=False)

    @final
    def adjoint_product(self, V: Tensor) -> Tensor:
        """Return ``A' v`` for shape ``(m,)`` or ``A' V`` for shape ``(m, k)``."""
        return self._checked_product(V, self.shape[0], adjoint=True)

    def _checked_product(self, V: Tensor, rows: int, *, adjoint: bool) -> Tensor:
        if not isinstance(V, Tensor):
            remedy = "Convert it with `torch.as_tensor`."
            raise TypeError(message("V", "be a tensor", type(V).__name__, remedy))
        if V.ndim not in (1, 2) or V.shape[0] != rows:
            contract = f"have shape ({rows},) or ({rows}, k)"
            raise ValueError(message("V", contract, tuple(V.shape)))
        if V.dtype != self.dtype or V.device != self.device:
            contract = f"be {self.dtype} on {self.device}"
            raise TypeError(message("V", contract, describe(V), "Use `V.to(...)`."))
        self.refresh()
        multiply = self._adjoint_matmat if adjoint else self._matmat
        with torch.no_grad():
            product = multiply(V.detach().reshape(rows, -1))
        return product.reshape(-1) if V.ndim == 1 else product

    @final
    def to_dense(self) -> Tensor:
        """Return the matrix as a tensor, by products with the columns of the identity.

        Cost:
            ``n`` products in blocks of ``block_size``.
        """
        self.refresh()
        rows, columns = self.shape
        dense = torch.empty(rows, columns, dtype=self.dtype, device=self.device)
        with torch.no_grad():
            for start in range(0, columns, self.block_size):
                stop = min(start + self.block_size, columns)
                E = torch.zeros(
                    columns, stop - start, dtype=self.dtype, device=self.device
                )
                E[start:stop].fill_diagonal_(1.0)
                dense[:, start:stop] = self._matmat(E)
        return dense

    def __repr__(self) -> str:
        rows, columns = self.shape
        return (
            f"<{type(self).__name__} {rows} x {columns}, {self.dtype}, {self.device}>"
        )


class SymmetricOperator(LinearOperator):
    """A square operator with ``A = A'``; a subclass gives `_matmat` only."""

    @final
    def _adjoint_matmat(self, V: Tensor) -> Tensor:
        return self._matmat(V)
