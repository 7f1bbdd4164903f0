"""The flat parameter vector: which named tensor lies where."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from curvescope.results import ParamSlice

# Entries that are transposed at once: what lies in the caches is read and written there.
_TILE = 2**17


def as_rows(V: Tensor) -> Tensor:
    """Return the columns of ``V`` as rows of a contiguous tensor."""
    rows = V.T
    if rows.is_contiguous():
        return rows
    n, k = V.shape
    out = torch.empty(k, n, dtype=V.dtype, device=V.device)
    step = max(1, _TILE // max(k, 1)) if V.device.type == "cpu" else max(n, 1)
    for start in range(0, n, step):
        out[:, start : start + step].copy_(rows[:, start : start + step])
    return out


@final
@dataclass(frozen=True)
class Layout:
    """Named parameters in order, and optionally the entries of them that count.

    Attributes:
        names: Names, as ``named_parameters()`` gives them.
        shapes: Their shapes.
        entries: Indices into the concatenated vector that are selected, ascending;
            ``None`` for all.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    entries: Tensor | None = None

    @staticmethod
    def of(
        parameters: Mapping[str, Tensor], *, entries: Tensor | None = None
    ) -> "Layout":
        """Return the layout of named tensors."""
        return Layout(
            tuple(parameters), tuple(p.shape for p in parameters.values()), entries
        )

    @property
    def full_size(self) -> int:
        """Entries of all named parameters together."""
        return sum(shape.numel() for shape in self.shapes)

    @property
    def size(self) -> int:
        """Length of the vectors: the selected entries."""
        return self.full_size if self.entries is None else len(self.entries)

    def slices(self) -> tuple[ParamSlice, ...]:
        """Return each parameter's place in the vector."""
        bounds = [0]
        for shape in self.shapes:
            bounds.append(bounds[-1] + shape.numel())
        if self.entries is not None:
            edges = torch.tensor(bounds, device=self.entries.device)
            bounds = [int(i) for i in torch.searchsorted(self.entries, edges)]
        return tuple(
            ParamSlice(name=name, start=start, stop=stop, shape=tuple(shape))
            for name, shape, start, stop in zip(
                self.names, self.shapes, bounds[:-1], bounds[1:], strict=True
            )
        )

    def split(self, V: Tensor) -> list[Tensor]:
        """Split vectors of shape ``(k, n)`` into tensors of shape ``(k, *shape)``."""
        if self.entries is not None:
            full = V.new_zeros(V.shape[0], self.full_size)
            full[:, self.entries] = V
            V = full
        pieces = V.split([shape.numel() for shape in self.shapes], dim=1)
        k = V.shape[0]
        return [p.reshape(k, *s) for p, s in zip(pieces, self.shapes, strict=True)]

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """Undo `split`."""
        V = torch.cat([t.reshape(t.shape[0], -1) for t in tensors], dim=1)
        return V if self.entries is None else V[:, self.entries]

    def put(
        self, V: Tensor, tensors: Sequence[Tensor], factor: float, *, add: bool
    ) -> None:
        """Write ``factor`` times what `join` would give into the vectors ``V``.

        Args:
            V: Shape ``(k, n)``.
            tensors: As of `join`.
            factor: Any.
            add: To what is there, or in its place.
        """
        if self.entries is not None:
            joined = self.join(tensors)
            V.add_(joined, alpha=factor) if add else torch.mul(joined, factor, out=V)
            return
        pieces = V.split([shape.numel() for shape in self.shapes], dim=1)
        for piece, tensor in zip(pieces, tensors, strict=True):
            there = piece.view(tensor.shape)
            if add:
                there.add_(tensor, alpha=factor)
            else:
                torch.mul(tensor, factor, out=there)
