"""One algorithm's dealings with one operator: counted, checked, scaled, timed."""

import math
import time
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from curvescope._core import memory, progress
from curvescope._core.checks import message
from curvescope._core.errors import ChangedDuringComputationError
from curvescope.linop.base import LinearOperator
from curvescope.linop.convert import aslinearoperator
from curvescope.results import Cost


class Session:
    """Products with ``A / scale``, where ``scale`` is a power of two near ``||A||``.

    The division makes every later computation free of overflow and underflow: a
    matrix of norm 1e-30 has columns whose squared entries vanish in float32. A power
    of two changes no digit, so results do not depend on the scale of the matrix.

    Attributes:
        A: The operator.
        dtype: Of vectors and products: that of ``A``, but at least float32.
        scale: What products were divided by; 0 until the first that is not zero.
        num_matvecs: Columns that were multiplied.
        num_data_passes: Passes over the data that this took.
    """

    def __init__(
        self, A: LinearOperator, description: str, *, total: int | None
    ) -> None:
        self.A = A
        self.dtype = torch.float32 if A.dtype.itemsize < 4 else A.dtype
        self.device = A.device
        self.n = A.shape[1]
        self.scale = 0.0
        self.num_matvecs = 0
        self.num_data_passes = 0
        self.earlier_seconds = 0.0
        self._description = f"{description} of {A.info.matrix}"
        self._total = total
        self._finite: Tensor | None = None

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        self._track = progress.track(self._description, total=self._total)
        self._task = self._track.__enter__()
        self._fingerprint = self.A.refresh()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._track.__exit__(kind, error, trace)
        if kind is None:
            self.check()
        elif isinstance(error, Exception) and self._saw_not_finite():
            # With NaN any step may fail, and would blame something else.
            raise self._not_finite() from error

    @property
    def fingerprint(self) -> str:
        """What the matrix was when the computation began."""
        return self._fingerprint

    def check(self) -> None:
        """Raise if the matrix changed since the beginning, or a product was not finite."""
        if self._saw_not_finite():
            raise self._not_finite()
        if self.A.refresh() != self._fingerprint:
            text = message(
                "A",
                f"stay the same while its {self._description} is computed",
                "another fingerprint (weights, buffers or data changed)",
                "Do not train or edit the model until the call returns.",
            )
            raise ChangedDuringComputationError(text)

    def _saw_not_finite(self) -> bool:
        return self._finite is not None and not bool(self._finite)

    def _not_finite(self) -> ValueError:
        self._finite = None  # it is said once
        text = message(
            "A",
            "have finite products",
            f"NaN or infinity in the {self._description}",
            "Look for NaN in weights and data, and for overflow in the dtype.",
        )
        return ValueError(text)

    def product(self, V: Tensor, *, adjoint: bool = False) -> Tensor:
        """Return ``A V / scale`` as a new tensor, in blocks of the operator's width."""
        width = self.A.block_size
        if V.shape[1] <= width:
            return self._block(V, adjoint=adjoint)
        parts = [
            self._block(V[:, i : i + width], adjoint=adjoint)
            for i in range(0, V.shape[1], width)
        ]
        return torch.cat(parts, dim=1)

    def _block(self, V: Tensor, *, adjoint: bool) -> Tensor:
        multiply = self.A._adjoint_matmat if adjoint else self.A._matmat
        with torch.no_grad():
            product = multiply(V.to(self.A.dtype)).to(self.dtype)
        self.num_matvecs += V.shape[1]
        self.num_data_passes += self.A.passes_per_product
        self._task.advance(V.shape[1])
        finite = torch.isfinite(product).all()
        if self.device.type == "cpu":
            if not bool(finite):
                raise self._not_finite()
        else:
            # Reading the flag would wait for the device; `check` reads it later.
            self._finite = finite if self._finite is None else self._finite & finite
        if self.scale == 0.0:
            self.set_scale(float(product.abs().max()))
        return product * (1.0 / self.scale if self.scale else 1.0)

    def set_scale(self, size: float) -> None:
        """Take the power of two near ``size``, unless it is 0, as the scale."""
        if not math.isfinite(size):
            raise self._not_finite()
        largest = 126 if self.dtype == torch.float32 else 1000
        if size > 0.0:
            exponent = max(-largest, min(largest, math.frexp(size)[1]))
            self.scale = math.ldexp(1.0, exponent)

    def status(self, text: str) -> None:
        """Show a remark at the end of the progress line."""
        self._task.update(status=text)

    def expect(self, total: int) -> None:
        """Tell the progress line how many products the whole run may take."""
        self._task.update(completed=self.num_matvecs, total=total)

    def seconds(self) -> float:
        """Return the wall time so far, that of an interrupted run included."""
        return self.earlier_seconds + time.perf_counter() - self._began

    def cost(self) -> Cost:
        """Return what was spent so far."""
        return Cost(
            num_matvecs=self.num_matvecs,
            num_data_passes=self.num_data_passes,
            seconds=self.seconds(),
            peak_memory=memory.peak_memory(self.device),
        )

    def dense(self) -> Tensor:
        """Return ``A / scale`` in float64 on the CPU, by products with the identity."""
        n = self.n
        width = min(self.A.block_size, n)
        blocks = []
        for start in range(0, n, width):
            E = torch.zeros(
                n, min(width, n - start), dtype=self.dtype, device=self.device
            )
            E[start : start + width].fill_diagonal_(1.0)
            blocks.append(self.product(E).to(device="cpu", dtype=torch.float64))
        return torch.cat(blocks, dim=1)


def symmetric_operator(A: Any) -> LinearOperator:
    """Return ``A`` as an operator that is square, symmetric and not empty."""
    operator = aslinearoperator(A)
    rows, columns = operator.shape
    if rows != columns:
        remedy = "Use `A.adjoint() @ A` for singular values."
        raise ValueError(message("A", "be square", operator.shape, remedy))
    if not operator.symmetric:
        remedy = (
            "Use `aslinearoperator(A, symmetric=True)` if you know that it is, "
            "`A.adjoint() @ A` for singular values."
        )
        raise ValueError(
            message("A", "be symmetric", f"{operator!r}, not symmetric", remedy)
        )
    return operator


def square_operator(A: Any) -> LinearOperator:
    """Return ``A`` as a square operator."""
    operator = aslinearoperator(A)
    if operator.shape[0] != operator.shape[1]:
        raise ValueError(message("A", "be square", operator.shape))
    return operator
