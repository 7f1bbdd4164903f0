"""The interface in the middle: something that multiplies vectors.

It knows shapes, structure and what it is of; it knows neither networks nor algorithms.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, final, overload

import torch
from torch import Tensor

from curvescope._core.checks import describe, message, real
from curvescope._core.errors import MissingExtraError
from curvescope.results import ParamSlice, Provenance


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
        mean that the matrix changed in between, which is an error. Saved states are told
        apart by it; of a function, which returns a constant, by their key alone.
        """

    @overload
    def __matmul__(self, V: Tensor) -> Tensor: ...

    @overload
    def __matmul__(self, V: "LinearOperator") -> "LinearOperator": ...

    @final
    def __matmul__(self, V: "Tensor | LinearOperator") -> "Tensor | LinearOperator":
        """Return ``A v``, ``A V``, or for an operator the composition ``A B``."""
        if isinstance(V, LinearOperator):
            return Composition(self, V)
        return self._checked_product(V, self.shape[1], adjoint=False)

    @final
    def __add__(self, other: "LinearOperator") -> "LinearOperator":
        """Return ``A + B``."""
        if not isinstance(other, LinearOperator):
            return NotImplemented
        return Sum(self, other)

    @final
    def __sub__(self, other: "LinearOperator") -> "LinearOperator":
        """Return ``A - B``."""
        if not isinstance(other, LinearOperator):
            return NotImplemented
        return Sum(self, Scaled(other, -1.0), name="-")

    @final
    def __mul__(self, factor: float) -> "LinearOperator":
        """Return ``c A`` for a number ``c``."""
        return Scaled(self, real("factor", factor))

    __rmul__ = __mul__

    @final
    def __truediv__(self, divisor: float) -> "LinearOperator":
        """Return ``A / c`` for a number ``c`` other than 0."""
        number = real("divisor", divisor)
        if number == 0.0:
            raise ValueError(message("divisor", "not be 0", number))
        return Scaled(self, 1.0 / number)

    @final
    def __neg__(self) -> "LinearOperator":
        """Return ``-A``."""
        return Scaled(self, -1.0)

    @final
    def adjoint(self) -> "LinearOperator":
        """Return ``A'``; a symmetric operator is its own."""
        if isinstance(self, Adjoint):
            return self.A
        return self if self.symmetric else Adjoint(self)

    @final
    def shift(self, sigma: float) -> "LinearOperator":
        """Return ``A + sigma I``."""
        return Shifted(self, real("sigma", sigma))

    @final
    def submatrix(self, index: "slice | Sequence[int] | Tensor") -> "LinearOperator":
        """Return the principal block of the rows and columns in ``index``.

        A product pads the vector with zeros, multiplies by ``A`` and picks the rows,
        so it costs as much as a product with ``A``.

        Args:
            index: A slice, distinct integers, or a mask of length ``n``.
        """
        return PrincipalBlock(self, index)

    @final
    def to_scipy(self) -> Any:
        """Return this as a ``scipy.sparse.linalg.LinearOperator`` with ``matmat``.

        Raises:
            MissingExtraError: If SciPy is not installed.
        """
        try:
            from scipy.sparse.linalg import LinearOperator as ScipyOperator
        except ImportError:
            text = '`to_scipy` needs scipy: pip install "curvescope[interop]".'
            raise MissingExtraError(text) from None
        wide = torch.float32 if self.dtype.itemsize < 4 else self.dtype

        def multiply(X: Any, *, adjoint: bool) -> Any:
            V = torch.as_tensor(X).to(dtype=self.dtype, device=self.device)
            product = self.adjoint_product(V) if adjoint else self @ V
            return product.to(dtype=wide, device="cpu").numpy()

        return ScipyOperator(
            shape=self.shape,
            matvec=lambda x: multiply(x, adjoint=False),
            rmatvec=lambda x: multiply(x, adjoint=True),
            matmat=lambda X: multiply(X, adjoint=False),
            rmatmat=lambda X: multiply(X, adjoint=True),
            dtype=torch.empty(0, dtype=wide).numpy().dtype,
        )

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
        if V.numel() == 0:
            return V.new_zeros((self.shape[1 if adjoint else 0], V.shape[1]))
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


def _common_info(left: Provenance, right: Provenance, *, matrix: str) -> Provenance:
    """Merge what two operands say; what they disagree on is dropped or named."""
    same_problem = left.fingerprint == right.fingerprint

    def agreed(a: Any, b: Any, otherwise: Any) -> Any:
        return a if a == b else otherwise

    descriptions = (left.description, right.description)
    return Provenance(
        matrix=matrix,
        description=agreed(*descriptions, "; ".join(descriptions)),
        reduction=agreed(left.reduction, right.reduction, ""),
        unit=agreed(left.unit, right.unit, f"{left.unit}; {right.unit}"),
        num_params=right.num_params,
        num_samples=agreed(left.num_samples, right.num_samples, None),
        denominator=agreed(left.denominator, right.denominator, None),
        slices=agreed(left.slices, right.slices, ()),
        fingerprint=(
            left.fingerprint
            if same_problem
            else f"{left.fingerprint}+{right.fingerprint}"
        ),
    )


def _joint(A: LinearOperator, B: LinearOperator, operation: str) -> dict[str, Any]:
    """Check that two operators can meet, and return what their union has in common."""
    if A.dtype != B.dtype or A.device != B.device:
        contract = f"be {A.dtype} on {A.device} to {operation}"
        raise TypeError(message("B", contract, f"{B.dtype} on {B.device}"))
    return {
        "dtype": A.dtype,
        "device": A.device,
        "passes_per_product": A.passes_per_product + B.passes_per_product,
        "block_size": min(A.block_size, B.block_size),
    }


def _own(A: LinearOperator) -> dict[str, Any]:
    return {
        "dtype": A.dtype,
        "device": A.device,
        "passes_per_product": A.passes_per_product,
        "block_size": A.block_size,
    }


@final
class Sum(LinearOperator):
    """``A + B``."""

    def __init__(
        self, A: LinearOperator, B: LinearOperator, *, name: str = "+"
    ) -> None:
        if A.shape != B.shape:
            raise ValueError(message("B", f"have shape {A.shape} to be added", B.shape))
        # A difference stores -B, whose name already begins with the factor.
        right = B.A.info if name == "-" and isinstance(B, Scaled) else B.info
        matrix = f"{A.info.matrix} {name} {right.matrix}"
        super().__init__(
            A.shape,
            symmetric=A.symmetric and B.symmetric,
            positive_semidefinite=A.positive_semidefinite and B.positive_semidefinite,
            info=_common_info(A.info, right, matrix=matrix),
            **_joint(A, B, "be added"),
        )
        self.A, self.B = A, B

    def _matmat(self, V: Tensor) -> Tensor:
        return self.A._matmat(V) + self.B._matmat(V)

    def _adjoint_matmat(self, V: Tensor) -> Tensor:
        return self.A._adjoint_matmat(V) + self.B._adjoint_matmat(V)

    def refresh(self) -> str:
        """Refresh both terms."""
        return f"({self.A.refresh()}+{self.B.refresh()})"


@final
class Scaled(LinearOperator):
    """``c A``; the unit says so."""

    def __init__(self, A: LinearOperator, factor: float) -> None:
        info = dataclasses.replace(
            A.info,
            matrix=f"{factor:g} x {A.info.matrix}",
            unit=f"{factor:g} x {A.info.unit}",
            description=f"{A.info.description}, scaled by {factor:g}",
        )
        super().__init__(
            A.shape,
            symmetric=A.symmetric,
            positive_semidefinite=A.positive_semidefinite and factor >= 0,
            info=info,
            **_own(A),
        )
        self.A, self.factor = A, factor

    def _matmat(self, V: Tensor) -> Tensor:
        return self.factor * self.A._matmat(V)

    def _adjoint_matmat(self, V: Tensor) -> Tensor:
        return self.factor * self.A._adjoint_matmat(V)

    def refresh(self) -> str:
        """Refresh the operand."""
        return f"{self.factor!r}*{self.A.refresh()}"


@final
class Shifted(LinearOperator):
    """``A + sigma I``."""

    def __init__(self, A: LinearOperator, sigma: float) -> None:
        if A.shape[0] != A.shape[1]:
            raise ValueError(message("A", "be square to be shifted", A.shape))
        info = dataclasses.replace(A.info, matrix=f"{A.info.matrix} + {sigma:g} I")
        super().__init__(
            A.shape,
            symmetric=A.symmetric,
            positive_semidefinite=A.positive_semidefinite and sigma >= 0,
            info=info,
            **_own(A),
        )
        self.A, self.sigma = A, sigma

    def _matmat(self, V: Tensor) -> Tensor:
        return self.A._matmat(V) + self.sigma * V

    def _adjoint_matmat(self, V: Tensor) -> Tensor:
        return self.A._adjoint_matmat(V) + self.sigma * V

    def refresh(self) -> str:
        """Refresh the operand."""
        return f"({self.A.refresh()}+{self.sigma!r}I)"


@final
class Adjoint(LinearOperator):
    """``A'``."""

    def __init__(self, A: LinearOperator) -> None:
        info = dataclasses.replace(
            A.info,
            matrix=f"adjoint {A.info.matrix}",
            num_params=A.shape[0],
            slices=(),
        )
        super().__init__((A.shape[1], A.shape[0]), info=info, **_own(A))
        self.A = A

    def _matmat(self, V: Tensor) -> Tensor:
        return self.A._adjoint_matmat(V)

    def _adjoint_matmat(self, V: Tensor) -> Tensor:
        return self.A._matmat(V)

    def refresh(self) -> str:
        """Refresh the operand."""
        return f"{self.A.refresh()}'"


@final
class Composition(LinearOperator):
    """``A B``; ``A' A`` and ``A A'`` are known to be positive semidefinite."""

    def __init__(self, A: LinearOperator, B: LinearOperator) -> None:
        if A.shape[1] != B.shape[0]:
            contract = f"have {A.shape[1]} rows to follow A of shape {A.shape}"
            raise ValueError(message("B", contract, B.shape))
        gram = (isinstance(A, Adjoint) and A.A is B) or (
            isinstance(B, Adjoint) and B.A is A
        )
        square = A is B and A.symmetric
        matrix = f"{A.info.matrix} @ {B.info.matrix}"
        info = _common_info(A.info, B.info, matrix=matrix)
        units = f"({A.info.unit}) x ({B.info.unit})"
        super().__init__(
            (A.shape[0], B.shape[1]),
            symmetric=gram or square,
            positive_semidefinite=gram or square,
            info=dataclasses.replace(info, unit=units, slices=B.info.slices),
            **_joint(A, B, "be composed"),
        )
        self.A, self.B = A, B

    def _matmat(self, V: Tensor) -> Tensor:
        return self.A._matmat(self.B._matmat(V))

    def _adjoint_matmat(self, V: Tensor) -> Tensor:
        return self.B._adjoint_matmat(self.A._adjoint_matmat(V))

    def refresh(self) -> str:
        """Refresh both factors."""
        return f"({self.A.refresh()}@{self.B.refresh()})"


@final
class PrincipalBlock(LinearOperator):
    """Rows and columns ``index`` of a square operator, by padding with zeros."""

    def __init__(
        self, A: LinearOperator, index: slice | Sequence[int] | Tensor
    ) -> None:
        if A.shape[0] != A.shape[1]:
            raise ValueError(message("A", "be square to have blocks", A.shape))
        chosen, slices = _resolve_index(A, index)
        super().__init__(
            (len(chosen), len(chosen)),
            symmetric=A.symmetric,
            positive_semidefinite=A.positive_semidefinite,
            info=dataclasses.replace(
                A.info,
                matrix=f"block of the {A.info.matrix}",
                num_params=len(chosen),
                slices=slices,
            ),
            **_own(A),
        )
        self.A, self.index = A, chosen

    def _restricted(self, V: Tensor, *, adjoint: bool) -> Tensor:
        padded = V.new_zeros(self.A.shape[0], V.shape[1])
        padded[self.index] = V
        multiply = self.A._adjoint_matmat if adjoint else self.A._matmat
        return multiply(padded)[self.index]

    def _matmat(self, V: Tensor) -> Tensor:
        return self._restricted(V, adjoint=False)

    def _adjoint_matmat(self, V: Tensor) -> Tensor:
        return self._restricted(V, adjoint=True)

    def refresh(self) -> str:
        """Refresh the whole operator."""
        return self.A.refresh()


def _resolve_index(
    A: LinearOperator, index: slice | Sequence[int] | Tensor
) -> tuple[Tensor, tuple[ParamSlice, ...]]:
    """Return distinct positions, and the parameters that lie wholly in a slice."""
    n = A.shape[0]
    if isinstance(index, slice):
        chosen = torch.arange(n)[index] if (index.step or 1) > 0 else torch.empty(0)
    else:
        chosen = torch.as_tensor(index)
        if chosen.dtype == torch.bool and chosen.shape == (n,):
            chosen = chosen.nonzero().reshape(-1)
    whole = chosen.dtype in (torch.int64, torch.int32) and chosen.ndim == 1
    if not whole or len(chosen) == 0:
        contract = f"be a slice, positions, or a mask that picks some of {n} entries"
        raise ValueError(message("index", contract, describe(index)))
    if int(chosen.min()) < 0 or int(chosen.max()) >= n:
        bounds = f"{int(chosen.min())} to {int(chosen.max())}"
        raise ValueError(message("index", f"lie within 0 to {n - 1}", bounds))
    if len(chosen.unique()) != len(chosen):
        raise ValueError(message("index", "have no repetition", describe(index)))
    first, last = int(chosen[0]), int(chosen[-1]) + 1
    slices: tuple[ParamSlice, ...] = ()
    if last > first and torch.equal(chosen.long(), torch.arange(first, last)):
        slices = tuple(
            dataclasses.replace(p, start=p.start - first, stop=p.stop - first)
            for p in A.info.slices
            if first <= p.start and p.stop <= last
        )
    return chosen.to(device=A.device, dtype=torch.int64), slices
