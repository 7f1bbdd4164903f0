"""Operators made of what people have: tensors, arrays, SciPy, functions."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from curvescope._core.checks import describe, message
from curvescope._core.fingerprints import checksum
from curvescope.linop.base import LinearOperator
from curvescope.results import Provenance

# A symmetric matrix that was computed as a product is symmetric up to a few roundings.
_SYMMETRY_EPS = 100.0
_ENTRIES_AT_ONCE = 1 << 22

BlockFunction = Callable[[Tensor], Tensor]


@final
class DenseOperator(LinearOperator):
    """A matrix that is kept as a tensor, dense or sparse."""

    def __init__(
        self,
        matrix: Tensor,
        *,
        symmetric: bool = False,
        positive_semidefinite: bool = False,
        info: Provenance | None = None,
    ) -> None:
        super().__init__(
            (matrix.shape[0], matrix.shape[1]),
            dtype=matrix.dtype,
            device=matrix.device,
            symmetric=symmetric,
            positive_semidefinite=positive_semidefinite,
            info=info,
            block_size=256,
        )
        self.matrix = matrix.detach()
        self._fingerprint = ""

    def _matmat(self, V: Tensor) -> Tensor:
        return self.matrix @ V

    def _adjoint_matmat(self, V: Tensor) -> Tensor:
        return self.matrix.T @ V

    def refresh(self) -> str:
        """Return a checksum of the entries, taken once: the matrix is given."""
        self._fingerprint = self._fingerprint or checksum(_entries(self.matrix))
        return self._fingerprint


def _entries(matrix: Tensor) -> Iterator[Tensor]:
    """Yield the entries in pieces: a checksum on a GPU takes a few times their memory."""
    if matrix.layout != torch.strided:
        coo = matrix.to_sparse_coo().coalesce()
        yield from (coo.indices(), coo.values())
    else:
        yield from matrix.split(max(1, _ENTRIES_AT_ONCE // matrix.shape[1]))


@final
class FunctionOperator(LinearOperator):
    """A matrix that is known as the function ``V -> A V`` of blocks ``(n, k)``.

    Args:
        function: Maps a tensor of shape ``(n, k)`` to one of shape ``(m, k)``.
        shape: ``(m, n)``, or ``n`` for a square matrix.
        adjoint: The function ``V -> A' V``; not needed for a symmetric matrix.
        dtype: Of vectors and products.
        device: Likewise.
        symmetric: Whether ``A = A'``; it is believed.
        positive_semidefinite: Whether no eigenvalue is negative; it is believed.
        info: What the matrix is of.
        block_size: Columns that are handed to the function at once, at most.

    Example:
        >>> double = FunctionOperator(lambda V: 2.0 * V, 3, symmetric=True)
        >>> double @ torch.ones(3)
        tensor([2., 2., 2.])
    """

    def __init__(
        self,
        function: BlockFunction,
        shape: int | tuple[int, int],
        *,
        adjoint: BlockFunction | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        symmetric: bool = False,
        positive_semidefinite: bool = False,
        info: Provenance | None = None,
        block_size: int = 64,
    ) -> None:
        rows, columns = (shape, shape) if isinstance(shape, int) else shape
        super().__init__(
            (int(rows), int(columns)),
            dtype=dtype,
            device=torch.device(device),
            symmetric=symmetric,
            positive_semidefinite=positive_semidefinite,
            info=info,
            block_size=block_size,
        )
        self.function = function
        self.adjoint_function = function if self.symmetric else adjoint

    def _call(self, function: BlockFunction, V: Tensor, rows: int) -> Tensor:
        product = function(V)
        shape = (rows, V.shape[1])
        if not isinstance(product, Tensor) or product.shape != shape:
            contract = f"map shape {tuple(V.shape)} to shape {shape}"
            raise ValueError(message("function", contract, describe(product)))
        return product.to(dtype=self.dtype)

    def _matmat(self, V: Tensor) -> Tensor:
        return self._call(self.function, V, self.shape[0])

    def _adjoint_matmat(self, V: Tensor) -> Tensor:
        if self.adjoint_function is None:
            remedy = "Give `adjoint=` to `FunctionOperator`."
            raise TypeError(message("A", "know its adjoint products", "none", remedy))
        return self._call(self.adjoint_function, V, self.shape[1])

    def refresh(self) -> str:
        """Return a constant: what the function depends on cannot be seen."""
        return "function"


@final
class Declared(LinearOperator):
    """Another operator with other structure tags."""

    def __init__(
        self, A: LinearOperator, *, symmetric: bool, positive_semidefinite: bool
    ) -> None:
        super().__init__(
            A.shape,
            dtype=A.dtype,
            device=A.device,
            symmetric=symmetric,
            positive_semidefinite=positive_semidefinite,
            info=A.info,
            passes_per_product=A.passes_per_product,
            block_size=A.block_size,
        )
        self.A = A

    def _matmat(self, V: Tensor) -> Tensor:
        return self.A._matmat(V)

    def _adjoint_matmat(self, V: Tensor) -> Tensor:
        return self.A._adjoint_matmat(V)

    def refresh(self) -> str:
        """Refresh the operand."""
        return self.A.refresh()


def aslinearoperator(
    A: Any, *, symmetric: bool | None = None, positive_semidefinite: bool = False
) -> LinearOperator:
    """Return ``A`` as a `LinearOperator`, so that every algorithm takes it.

    Args:
        A: A `LinearOperator`; a 2-D tensor (dense or sparse) or array; a SciPy sparse
            matrix or ``LinearOperator``; a tuple ``(function, shape)`` or
            ``(function, shape, dtype)`` with a function of blocks ``(n, k)``; or any
            object with ``shape``, ``dtype`` and ``@`` for tensors (CoLA,
            linear_operator).
        symmetric: Whether ``A = A'``. ``None`` keeps an operator's own tag, looks at
            the entries of a matrix (equal up to rounding), and takes anything else
            as not symmetric.
        positive_semidefinite: Declares that no eigenvalue is negative.

    Returns:
        The operator; integer matrices become float64.

    Raises:
        TypeError: If ``A`` is nothing of the above, or is complex.
        ValueError: If ``A`` is not two-dimensional, or is declared symmetric and
            visibly is not.

    Example:
        >>> aslinearoperator(torch.eye(2)).symmetric
        True
    """
    if isinstance(A, LinearOperator):
        wanted = A.symmetric if symmetric is None else symmetric
        psd = positive_semidefinite or (A.positive_semidefinite and wanted)
        if (wanted or psd, psd) == (A.symmetric, A.positive_semidefinite):
            return A
        return Declared(A, symmetric=wanted, positive_semidefinite=psd)
    tags: dict[str, Any] = {
        "symmetric": symmetric,
        "positive_semidefinite": positive_semidefinite,
    }
    if isinstance(A, tuple) and 2 <= len(A) <= 3 and callable(A[0]):
        return FunctionOperator(
            A[0],
            A[1],
            dtype=A[2] if len(A) == 3 else torch.float32,
            symmetric=bool(symmetric),
            positive_semidefinite=positive_semidefinite,
        )
    if isinstance(A, (Tensor, np.ndarray, list)):
        return _from_matrix(torch.as_tensor(A), **tags)
    if _is_scipy(A):
        return _from_scipy(A, **tags)
    if hasattr(A, "shape") and hasattr(A, "dtype") and hasattr(A, "__matmul__"):
        return _from_duck(A, **tags)
    contract = "be an operator, a matrix, a SciPy operator or (function, shape, dtype)"
    raise TypeError(message("A", contract, type(A).__name__))


def _is_scipy(A: Any) -> bool:
    module = type(A).__module__
    return module.startswith("scipy.") or hasattr(A, "matmat")


def _from_matrix(
    matrix: Tensor, *, symmetric: bool | None, positive_semidefinite: bool
) -> DenseOperator:
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(message("A", "be a matrix with entries", describe(matrix)))
    if matrix.is_complex() or matrix.dtype == torch.bool:
        raise TypeError(message("A", "be real", matrix.dtype))
    if not matrix.is_floating_point():
        matrix = matrix.to(torch.float64)
    same = _is_symmetric(matrix)
    if (symmetric or positive_semidefinite) and not same:
        remedy = "Use `(A + A.T) / 2`, or leave `symmetric` out."
        raise ValueError(message("A", "be symmetric", describe(matrix), remedy))
    return DenseOperator(
        matrix,
        symmetric=same if symmetric is None else symmetric,
        positive_semidefinite=positive_semidefinite,
    )


def _is_symmetric(matrix: Tensor) -> bool:
    if matrix.shape[0] != matrix.shape[1]:
        return False
    if matrix.layout != torch.strided:
        entries = matrix.detach().to_sparse_coo().coalesce()
        difference = (entries - entries.T.coalesce()).coalesce().values()
        largest = entries.values().abs().max() if entries.values().numel() else 0.0
    else:
        difference = matrix.detach() - matrix.detach().T
        largest = matrix.detach().abs().max()
    if difference.numel() == 0:
        return True
    eps = torch.finfo(matrix.dtype).eps
    if not bool(torch.isfinite(difference).all()):
        # NaN compares with nothing; products will refuse it with a better text.
        return True
    return bool(difference.abs().max() <= _SYMMETRY_EPS * eps * largest)


def _torch_dtype(dtype: Any) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    kind = torch.as_tensor(np.empty(0, dtype=dtype)).dtype
    if kind.is_complex:
        raise TypeError(message("A", "be real", dtype))
    return kind if kind.is_floating_point else torch.float64


def _from_scipy(
    A: Any, *, symmetric: bool | None, positive_semidefinite: bool
) -> LinearOperator:
    dtype = _torch_dtype(A.dtype)
    if symmetric is None and hasattr(A, "tocoo"):
        eps = torch.finfo(dtype).eps
        square = A.shape[0] == A.shape[1]
        gap = abs(A - A.T).max() if square else np.inf
        symmetric = bool(square and gap <= _SYMMETRY_EPS * eps * abs(A).max())

    def multiply(M: Any, V: Tensor) -> Tensor:
        return torch.as_tensor(np.asarray(M @ V.numpy())).to(dtype)

    return FunctionOperator(
        lambda V: multiply(A, V),
        (int(A.shape[0]), int(A.shape[1])),
        adjoint=lambda V: multiply(A.T, V),
        dtype=dtype,
        symmetric=bool(symmetric),
        positive_semidefinite=positive_semidefinite,
        info=_named(A),
    )


def _from_duck(
    A: Any, *, symmetric: bool | None, positive_semidefinite: bool
) -> LinearOperator:
    transposed = getattr(A, "mT", None) if hasattr(A, "mT") else getattr(A, "T", None)
    adjoint = None if transposed is None else lambda V: transposed @ V
    return FunctionOperator(
        lambda V: A @ V,
        (int(A.shape[-2]), int(A.shape[-1])),
        adjoint=adjoint,
        dtype=_torch_dtype(A.dtype),
        device=getattr(A, "device", "cpu"),
        symmetric=bool(symmetric),
        positive_semidefinite=positive_semidefinite,
        info=_named(A),
    )


def _named(A: Any) -> Provenance:
    plain = Provenance(num_params=int(A.shape[-1]))
    return dataclasses.replace(plain, description=f"{type(A).__name__}")
