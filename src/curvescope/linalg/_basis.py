"""Where the rows of a basis lie: on the device, in bfloat16, on the CPU, or on a disk.

Algorithms read and write rows in the vectors' own dtype, and combine them a few columns
at a time; only the way in which rows are kept differs.
"""

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from curvescope._core import memory
from curvescope._core.checks import message, writable_folder
from curvescope.linalg._products import length_of_copies

BASES = ("device", "bfloat16", "cpu", "disk")
_MEMORY_SHARE = 0.6


class Basis(ABC):
    """Rows of length ``n``, of which the first ``m`` are combined with other vectors.

    Attributes:
        shape: Rows there is room for, and their length.
        dtype: Of the rows that are read and written.
        device: Where they are read to.
    """

    def __init__(
        self, rows: int, n: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.shape = (rows, n)
        self.dtype = dtype
        self.device = device

    Q: Tensor

    def kept(self, m: int) -> Tensor:
        """Return the first ``m`` rows as they lie there, of a basis without a head."""
        return self.Q[:m]

    @abstractmethod
    def write(self, first: int, rows: Tensor) -> None:
        """Store ``rows`` at the places from ``first`` on."""

    @abstractmethod
    def part(self, m: int, columns: slice) -> Tensor:
        """Return some columns of the first ``m`` rows, on the device; not to be edited."""

    @abstractmethod
    def rows(self, first: int, last: int) -> Tensor:
        """Return whole rows, on the device; not to be edited."""

    @abstractmethod
    def _write_part(self, first: int, rows: Tensor, columns: slice) -> None:
        """Store some columns of rows."""

    def _pieces(self, m: int, vectors: Tensor) -> Iterator[slice]:
        length = length_of_copies(m, self.Q, vectors)
        for start in range(0, self.shape[1], length):
            yield slice(start, start + length)

    def project_out(self, W: Tensor, m: int) -> Tensor:
        """Make the rows of ``W`` orthogonal to the first ``m``, in place.

        Returns:
            The coefficients, shape ``(m, b)``, float64 on the device.
        """
        if m == 0:
            return torch.zeros(0, W.shape[0], dtype=torch.float64, device=self.device)
        total = torch.zeros(m, W.shape[0], dtype=torch.float64, device=self.device)
        again = torch.zeros_like(total)
        for piece in self._pieces(m, W):
            total += self.part(m, piece) @ W[:, piece].T
        # Twice is enough (Parlett, The Symmetric Eigenvalue Problem, section 6.9). One
        # sweep takes away the first coefficients and sums the second ones: the basis
        # comes from memory three times, not four.
        first = total.T.to(W.dtype)
        for piece in self._pieces(m, W):
            Q, part = self.part(m, piece), W[:, piece]
            part.addmm_(first, Q, alpha=-1.0)
            again += Q @ part.T
        second = again.T.to(W.dtype)
        for piece in self._pieces(m, W):
            W[:, piece].addmm_(second, self.part(m, piece), alpha=-1.0)
        return total + again

    def combine(self, coefficients: Tensor) -> Tensor:
        """Return ``C' Q`` for coefficients ``C`` of shape ``(m, b)``: rows ``(b, n)``."""
        m, b = coefficients.shape
        weights = coefficients.T.to(dtype=self.dtype, device=self.device).contiguous()
        result = torch.empty(b, self.shape[1], dtype=self.dtype, device=self.device)
        for piece in self._pieces(m, weights):
            torch.mm(weights, self.part(m, piece), out=result[:, piece])
        return result

    def rotate(self, first: int, S: Tensor) -> None:
        """Replace the rows from ``first`` on by ``S'`` times them, in place."""
        weights = S.T.to(dtype=self.dtype, device=self.device).contiguous()
        last = first + S.shape[0]
        for piece in self._pieces(last, weights):
            self._write_part(first, weights @ self.part(last, piece)[first:], piece)


@final
class DeviceBasis(Basis):
    """Rows as one tensor, beside the vectors."""

    def __init__(
        self, rows: int, n: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(rows, n, dtype, device)
        self.Q = torch.empty(rows, n, dtype=dtype, device=device)

    def write(self, first: int, rows: Tensor) -> None:
        """Copy them."""
        self.Q[first : first + rows.shape[0]] = rows

    def part(self, m: int, columns: slice) -> Tensor:
        """Return a view."""
        return self.Q[:m, columns]

    def rows(self, first: int, last: int) -> Tensor:
        """Return a view."""
        return self.Q[first:last]

    def _write_part(self, first: int, rows: Tensor, columns: slice) -> None:
        self.Q[first : first + rows.shape[0], columns] = rows


@final
class MovedBasis(Basis):
    """Rows in the CPU's memory, or in a file that is mapped into it.

    The file has no name from the beginning on: whatever ends the process, its space is
    free again.
    """

    def __init__(
        self,
        rows: int,
        n: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        folder: Path | None = None,
    ) -> None:
        super().__init__(rows, n, dtype, device)
        if folder is None:
            self.Q = torch.empty(rows, n, dtype=dtype)
        else:
            self.Q = mapped_rows(rows, n, dtype, folder)

    def write(self, first: int, rows: Tensor) -> None:
        """Copy them over."""
        self.Q[first : first + rows.shape[0]] = rows.to("cpu")

    def part(self, m: int, columns: slice) -> Tensor:
        """Return a copy on the device."""
        return self.Q[:m, columns].to(self.device)

    def rows(self, first: int, last: int) -> Tensor:
        """Return a copy on the device."""
        return self.Q[first:last].to(self.device)

    def _write_part(self, first: int, rows: Tensor, columns: slice) -> None:
        self.Q[first : first + rows.shape[0], columns] = rows.to("cpu")


@final
class RoundedBasis(Basis):
    """Rows in bfloat16, but the first ``head`` and the last ``tail`` that were written.

    Against earlier rows a new one is only cleaned of rounding: rows with three digits
    do that as well as exact ones. Those it is large against are the last ones.
    """

    def __init__(
        self,
        rows: int,
        n: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        head: int,
        tail: int,
    ) -> None:
        super().__init__(rows, n, dtype, device)
        self.head = min(head, rows)
        self.first = torch.empty(self.head, n, dtype=dtype, device=device)
        self.last = torch.empty(tail, n, dtype=dtype, device=device)
        self.places = [-1] * tail
        self.Q = torch.empty(rows - self.head, n, dtype=torch.bfloat16, device=device)

    def write(self, first: int, rows: Tensor) -> None:
        """Round a copy, and keep the rows themselves for a while."""
        for i, row in enumerate(rows, start=first):
            self._write_part(i, row[None], slice(None))
            slot = i % len(self.places)
            self.last[slot] = row
            self.places[slot] = i

    def _write_part(self, first: int, rows: Tensor, columns: slice) -> None:
        for i, row in enumerate(rows, start=first):
            if i < self.head:
                self.first[i, columns] = row
            else:
                self.Q[i - self.head, columns] = row.to(torch.bfloat16)

    def part(self, m: int, columns: slice) -> Tensor:
        """Return the most accurate columns that are kept."""
        low = self.Q[: max(0, m - self.head), columns].to(self.dtype)
        whole = torch.cat([self.first[:m, columns], low])
        for slot, i in enumerate(self.places):
            if 0 <= i < m:
                whole[i] = self.last[slot, columns]
        return whole

    def rows(self, first: int, last: int) -> Tensor:
        """Return the most accurate rows that are kept."""
        result = torch.empty(
            last - first, self.shape[1], dtype=self.dtype, device=self.device
        )
        for i in range(first, last):
            slot = i % len(self.places)
            if i < self.head:
                result[i - first] = self.first[i]
            elif self.places[slot] == i:
                result[i - first] = self.last[slot]
            else:
                result[i - first] = self.Q[i - self.head]
        return result

    def rotate(self, first: int, S: Tensor) -> None:
        """Replace rows, which from then on are those that were written last."""
        super().rotate(first, S)
        self.places = [i if i < first else -1 for i in self.places]


def mapped_rows(rows: int, n: int, dtype: torch.dtype, folder: Path) -> Tensor:
    """Return rows in a file of ``folder`` that is removed before it is used."""
    size = rows * n * dtype.itemsize
    free = shutil.disk_usage(folder).free
    if size > free:
        got = f"{str(folder)!r} with {memory.format_bytes(free)} free"
        contract = f"hold the basis of {memory.format_bytes(size)}"
        raise OSError(message("basis", contract, got, "Give another folder."))
    handle, name = tempfile.mkstemp(prefix="curvescope-basis-", dir=folder)
    try:
        # Reserved, not only promised: a full disk is an error here, not a crash later.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, size)
        else:
            os.truncate(handle, size)
        mapped = torch.from_file(name, shared=True, size=rows * n, dtype=dtype)
    finally:
        os.close(handle)
        Path(name).unlink()
    return mapped.reshape(rows, n)


def basis_folder(basis: str | Path) -> tuple[str, Path | None]:
    """Return the kind of basis and, for one on a disk, its folder.

    Raises:
        ValueError: If it is no kind that there is.
        OSError: If the folder cannot be written into.
    """
    if isinstance(basis, Path):
        return "disk", writable_folder("basis", basis)
    if basis not in BASES:
        names = ", ".join(repr(name) for name in BASES)
        raise ValueError(
            message(
                "basis", f"be one of {names}, or a folder as a `pathlib.Path`", basis
            )
        )
    return basis, Path(tempfile.gettempdir()) if basis == "disk" else None


def make_basis(
    kind: str | Path,
    rows: int,
    n: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    head: int = 0,
    tail: int = 2,
) -> Basis:
    """Return room for ``rows`` rows; ``head`` and ``tail`` stay exact in bfloat16."""
    name, folder = basis_folder(kind)
    if name == "device" or (name == "cpu" and device.type == "cpu"):
        return DeviceBasis(rows, n, dtype, device)
    if name == "bfloat16":
        return RoundedBasis(rows, n, dtype, device, head=head, tail=tail)
    return MovedBasis(rows, n, dtype, device, folder=folder)


def room_for_rows(
    kind: str | Path,
    n: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    others: int,
) -> tuple[int, float]:
    """Return how many rows fit, and the bytes they are taken from.

    ``others`` are the vectors beside the basis that the device has to hold.
    """
    name, folder = basis_folder(kind)
    vector = n * dtype.itemsize
    room = _MEMORY_SHARE * memory.available_memory(device)
    beside = int(room // vector) - others
    if name == "bfloat16":
        return beside * dtype.itemsize // 2, room
    if name == "device" or (name == "cpu" and device.type == "cpu"):
        return beside, room
    if name == "cpu":
        room = _MEMORY_SHARE * memory.available_memory(torch.device("cpu"))
    else:
        assert folder is not None
        room = _MEMORY_SHARE * shutil.disk_usage(folder).free
    return (int(room // vector) if beside >= 0 else -1), room
