r"""Layers' own blocks as ``J' diag(s) J``, with J from one sweep over the data.

Products with a block are then products with J, without the network. For a GGN that is
always so; for a Hessian where the layer's curvature part is exactly zero, which every
sample is looked at for.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from curvescope._core.memory import available_memory
from curvescope.analysis.all_layers_pieces import Factor, LayerFactor, Rows, gram
from curvescope.analysis.all_layers_sweep import (
    CHUNK_BYTES,
    Look,
    Sweep,
    chunks,
    loss_factor,
)
from curvescope.curvature.blocks import DiagonalBlocks
from curvescope.linalg._products import row_products
from curvescope.problem.batches import Batch

_SHARE_OF_FREE = 0.7
# Where factors do not fit, blocks up to this size are formed instead.
_MOST_FORMED = 4096

_Form = Literal["dense", "gram", "rows", "packed"]


@final
@dataclass(frozen=True)
class FormedFactor:
    """The smaller of ``J'SJ`` and ``J J'`` of a layer, in float64 on the CPU.

    Attributes:
        matrix: It.
        factor: J, where the matrix is ``J J'``, which needs all s to be 1; else
            ``None``.
    """

    matrix: Tensor
    factor: Rows | None


@final
class FactorBlocks:
    """The factors of some layers: formed, kept, or swept again and again.

    Args:
        blocks: All diagonal blocks.
        names: The layers that have factors.
        seen: What a few samples showed.
        second_order: Whether curvature parts must be seen to be zero.
        formed_below: The smaller side up to which a block is formed.

    Attributes:
        formed: The small blocks.
        traces: Each layer's, exact, with weight decay.
        left_out: Layers whose curvature part showed itself in later samples.
        fits: Whether all that is to be kept fits the memory.
        num_sweeps: Passes over the data.
        work: Of all sweeps and products, in products with the whole matrix.
    """

    def __init__(
        self,
        blocks: DiagonalBlocks,
        names: list[str],
        seen: Look,
        *,
        second_order: bool,
        formed_below: int,
    ) -> None:
        self._problem = blocks.matrix.problem
        self._shift = blocks.matrix._shift
        self._seen = seen
        self._sizes = {name: blocks.num_params[name] for name in names}
        layouts = {name: blocks.layouts[name] for name in names}
        self._sweep = Sweep(self._problem, layouts, second_order=second_order)
        self._forms: dict[str, _Form] = {}
        self._totals: dict[str, Tensor] = {}
        self._budget = self._room()
        self.fits = self._decide(formed_below)
        self._chunks: list[dict[str, Factor] | None] = []
        self.formed: dict[str, FormedFactor] = {}
        self.traces = dict.fromkeys(names, 0.0)
        self.left_out: dict[str, str] = {}
        self.num_sweeps = 0
        self.work = 0.0

    def _room(self) -> int:
        """Return what factors may hold, beside data and a sweep's own chunk."""
        problem = self._problem
        free = int(_SHARE_OF_FREE * available_memory(problem.device))
        room = max(min(problem.memory_limit - problem.kept_data_bytes, free), 0)
        self._chunk_bytes = min(CHUNK_BYTES, room // 4)
        return room - 2 * self._chunk_bytes

    @property
    def num_bytes(self) -> int:
        """Memory that kept factors hold."""
        every = (f for chunk in self._chunks if chunk for f in chunk.values())
        formed = (f.factor for f in self.formed.values() if f.factor is not None)
        return sum(f.num_bytes for group in (every, formed) for f in group)

    def _decide(self, limit: int) -> bool:
        """Choose a form for every layer; tell whether what is kept fits."""
        shapes, rows = self._seen.shapes, self._num_rows
        for name, size in self._sizes.items():
            cheap = shapes[name].by_rows <= shapes[name].by_packed
            self._forms[name] = "rows" if cheap else "packed"
            if size <= min(rows, limit):
                self._forms[name] = "dense"
            elif rows < size and rows <= limit and cheap and not self._seen.signed:
                self._forms[name] = "gram"
        if self._need() <= self._budget:
            return True
        for name, size in sorted(self._sizes.items(), key=lambda pair: pair[1]):
            if self._forms[name] == "dense":
                continue
            small = shapes[name].rows <= shapes[name].packed
            self._forms[name] = "rows" if small else "packed"
            held = self._kept_bytes(name)
            if size <= min(rows, _MOST_FORMED) and 8 * size * size < held:
                self._forms[name] = "dense"
        return self._need() <= self._budget

    @property
    def _num_rows(self) -> int:
        return self._problem.num_samples * self._seen.rows_per_sample

    def _kept_bytes(self, name: str) -> int:
        """Return what a layer's form holds."""
        form, shape = self._forms[name], self._seen.shapes[name]
        if form == "dense":
            return 8 * self._sizes[name] ** 2
        entries = shape.packed if form == "packed" else shape.rows
        return self._problem.dtype.itemsize * self._problem.num_samples * entries

    def _need(self) -> int:
        return sum(self._kept_bytes(name) for name in self._sizes)

    @property
    def multiplied(self) -> list[str]:
        """The layers that are not formed."""
        return [n for n in self._sizes if self._forms[n] in ("rows", "packed")]

    @property
    def work_of_a_sweep(self) -> float:
        """Return that of the first sweep, in products with the whole matrix."""
        return self._seen.setup / max(self._seen.whole, 1)

    @property
    def work_again(self) -> float:
        """Return that of a later sweep, for products of one column each."""
        forward = self._seen.forward + self._seen.pulling
        return forward / max(self._seen.whole, 1) + sum(
            self.work_of_a_product(name) for name in self.multiplied
        )

    def work_of_a_product(self, name: str) -> float:
        """Return the work of one column's product with a block."""
        shape = self._seen.shapes[name]
        by_rows = self._forms[name] in ("rows", "gram")
        flops = shape.by_rows if by_rows else shape.by_packed
        return flops * self._seen.num_samples / max(self._seen.whole, 1)

    def leave_multiplied(self, reason: str) -> None:
        """Leave the layers that are not formed to others."""
        self._forget(dict.fromkeys(self.multiplied, reason))

    def build(self) -> None:
        """Sweep once over the data: form, keep, and look at every sample's curvature."""
        if not self._sizes:
            return
        held = sum(
            self._kept_bytes(n) for n in self._sizes if self._forms[n] == "dense"
        )
        self.num_sweeps += 1
        self.work += self.work_of_a_sweep
        with self._problem.network.running(), torch.enable_grad():
            for batch in self._batches():
                evaluation = self._sweep.evaluate(batch)
                sites, wrong = self._sweep.sites(evaluation)
                wrong |= self._sweep.curved(evaluation, sites, batch.targets)
                if wrong:
                    self._forget(wrong)
                    sites = {n: own for n, own in sites.items() if n not in wrong}
                if not sites:
                    return
                factor = loss_factor(evaluation)
                kept: dict[str, Factor] = {}
                with torch.no_grad():
                    for name, own in self._sweep.factors(evaluation, sites, factor):
                        found = self._take(name, own)
                        if found is not None:
                            kept[name] = found
                size = sum(one.num_bytes for one in kept.values())
                keep = self.fits or held + size <= self._budget
                held += size if keep else 0
                self._chunks.append(kept if keep else None)
        self._finish()

    def _batches(self) -> Iterator[Batch]:
        return chunks(self._problem, self._seen.bytes_per_sample, self._chunk_bytes)

    def _forget(self, wrong: Mapping[str, str]) -> None:
        self.left_out.update(wrong)
        self._sweep.drop(wrong)
        for name in wrong:
            del self._sizes[name], self.traces[name], self._forms[name]
            self._totals.pop(name, None)
        for chunk in self._chunks:
            for name in wrong:
                if chunk is not None:
                    chunk.pop(name, None)

    def _take(self, name: str, own: LayerFactor) -> Factor | None:
        """Add a chunk to a layer's trace and block; return what is kept of it."""
        form = self._forms[name]
        self.traces[name] += own.trace(self._chunk_bytes // 3)
        if form != "dense":
            return own.packed() if form == "packed" else own.rows()
        for rows in own.blocks(self._chunk_bytes // 3):
            J, signs = rows.matrix, rows.signs
            right = J if signs is None else J * signs[:, None]
            total = row_products(J.T.contiguous(), right.T)
            before = self._totals.get(name)
            self._totals[name] = total if before is None else before.add_(total)
        return None

    def _finish(self) -> None:
        """Form what is small, and let go of its rows."""
        for name, size in self._sizes.items():
            self.traces[name] += self._shift * size
        for name, form in self._forms.items():
            if form == "dense":
                total = self._totals.pop(name)
                self.formed[name] = FormedFactor(((total + total.T) / 2).cpu(), None)
            elif form == "gram":
                self._finish_gram(name)
        self._sweep.drop(dict.fromkeys(self.formed, ""))

    def _finish_gram(self, name: str) -> None:
        """Form ``J J'``; where a sample has signs, keep the rows for products instead."""
        chunks = [chunk for chunk in self._chunks if chunk is not None]
        if any(chunk[name].signs is not None for chunk in chunks):
            # J J' would be of J'J; the samples of the look had none.
            self._forms[name] = "rows"
        else:
            parts = [chunk.pop(name) for chunk in chunks]
            self.formed[name] = FormedFactor(*gram(parts))

    def multiply(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the products with some layers' blocks, each ``(n_l, k_l)``."""
        total = {name: self._shift * V for name, V in columns.items()}
        for name, V in columns.items():
            self.work += V.shape[1] * self.work_of_a_product(name)
        with torch.no_grad():
            for chunk in self._chunks:
                if chunk is not None:
                    for name, V in columns.items():
                        total[name].add_(chunk[name].multiply(V))
        if any(chunk is None for chunk in self._chunks):
            self._swept(columns, total)
        return total

    def _swept(
        self, columns: Mapping[str, Tensor], total: Mapping[str, Tensor]
    ) -> None:
        """Add the products of the samples whose factors are not kept."""
        seen = self._seen
        missing = sum(chunk is None for chunk in self._chunks) / len(self._chunks)
        self.num_sweeps += 1
        self.work += missing * (seen.forward + seen.pulling) / max(seen.whole, 1)
        every = self._batches()
        with self._problem.network.running(), torch.enable_grad():
            for chunk, batch in zip(self._chunks, every, strict=True):
                if chunk is not None:
                    continue
                evaluation = self._sweep.evaluate(batch)
                sites, _ = self._sweep.sites(evaluation)
                wanted = {name: sites[name] for name in columns}
                factor = loss_factor(evaluation)
                with torch.no_grad():
                    for name, own in self._sweep.factors(evaluation, wanted, factor):
                        V = columns[name]
                        total[name].add_(self._once(name, own, V.shape[1]).multiply(V))

    def _once(self, name: str, own: LayerFactor, columns: int) -> Factor:
        """Return a factor in the form that takes less work for one product."""
        shape = self._seen.shapes[name]
        size = own.num_rows * self._sizes[name] * self._problem.dtype.itemsize
        by_rows = shape.forming + columns * shape.by_rows
        cheap = by_rows <= columns * shape.by_packed and size <= self._chunk_bytes
        return own.rows() if cheap else own.packed()
