r"""Layers' own blocks as ``J' diag(s) J``, with J from one sweep over the data.

Products with a block are then two matrix products, without the network. For a GGN that
is always so; for a Hessian where the layer's curvature part is exactly zero, which every
sample is looked at for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from curvescope._core.memory import available_memory
from curvescope.analysis.all_layers_sweep import (
    CHUNK_BYTES,
    Look,
    Sweep,
    chunks,
    signed_rows,
)
from curvescope.curvature.blocks import DiagonalBlocks
from curvescope.linalg._products import row_products

# Takes a layer, some of its rows and their signs.
_Add = Callable[[str, Tensor, Tensor | None], None]
_SHARE_OF_FREE = 0.7
# Where the rows do not fit, blocks up to this size are formed instead.
_MOST_FORMED = 4096


@final
@dataclass(frozen=True)
class FormedFactor:
    """The smaller of ``J'SJ`` and ``J J'`` of a layer, in float64 on the CPU.

    Attributes:
        matrix: It.
        rows: J, where the matrix is ``J J'``; else ``None``.
    """

    matrix: Tensor
    rows: Tensor | None


@final
class FactorBlocks:
    """The factors of some layers: formed, kept in rows, or swept again and again.

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
        num_sweeps: Passes over the data.
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
        self._num_rows = self._problem.num_samples * seen.rows_per_sample
        self._dense: dict[str, Tensor] = {}
        self._gram: set[str] = set()
        self._decide(formed_below)
        self._chunks: list[tuple[dict[str, Tensor], Tensor | None] | None] = []
        self.formed: dict[str, FormedFactor] = {}
        self.traces = dict.fromkeys(names, 0.0)
        self.left_out: dict[str, str] = {}
        self.num_sweeps = 0

    def _decide(self, limit: int) -> None:
        """Choose which blocks are formed, which keep rows, and whether all rows fit."""
        problem, rows = self._problem, self._num_rows
        item = problem.dtype.itemsize
        free = int(_SHARE_OF_FREE * available_memory(problem.device)) - 2 * CHUNK_BYTES
        self._budget = max(min(problem.memory_limit - problem.kept_data_bytes, free), 0)
        need = 0
        for name, size in sorted(self._sizes.items(), key=lambda pair: pair[1]):
            if size <= rows and size <= limit:
                self._budget -= self._make_dense(name)
                continue
            if rows < size and rows <= limit and not self._seen.signed:
                self._gram.add(name)
            own = item * rows * size
            small = size <= min(rows, _MOST_FORMED) and 8 * size * size < own
            if small and need + own > self._budget:
                self._budget -= self._make_dense(name)
            else:
                need += own
        self.fits = need <= self._budget
        if not self.fits:
            self._gram.clear()

    def _make_dense(self, name: str) -> int:
        """Make room for a block that is formed; return its bytes."""
        n, device = self._sizes[name], self._problem.device
        self._dense[name] = torch.zeros(n, n, dtype=torch.float64, device=device)
        return 8 * n * n

    @property
    def in_rows(self) -> list[str]:
        """The layers that are multiplied by their rows."""
        return [n for n in self._sizes if n not in self._dense and n not in self._gram]

    @property
    def work_of_a_sweep(self) -> float:
        """Return it in products with the whole matrix."""
        return self._seen.setup / max(self._seen.whole, 1)

    def work_of_a_product(self, name: str) -> float:
        """Return the work of one column by kept rows, likewise."""
        flops = 4.0 * self._seen.rows_per_sample * self._sizes[name]
        return flops * self._seen.num_samples / max(self._seen.whole, 1)

    def leave_rows(self, reason: str) -> None:
        """Leave the layers that would be multiplied by rows to others."""
        self._forget(dict.fromkeys(self.in_rows, reason))

    def build(self) -> None:
        """Sweep once over the data: form, keep, and look at every sample's curvature."""
        if not self._sizes:
            return
        held = 0
        self.num_sweeps += 1
        with self._problem.network.running(), torch.enable_grad():
            for batch in chunks(self._problem, self._seen.bytes_per_sample):
                evaluation = self._sweep.evaluate(batch)
                sites, wrong = self._sweep.sites(evaluation)
                wrong |= self._sweep.curved(evaluation, sites, batch.targets)
                if wrong:
                    self._forget(wrong)
                    sites = {n: own for n, own in sites.items() if n not in wrong}
                if not sites:
                    return
                factor, signs = signed_rows(evaluation)
                kept: dict[str, Tensor] = {}
                for name, J in self._sweep.rows(evaluation, sites, factor):
                    self._take(name, J, signs)
                    if name not in self._dense:
                        kept[name] = J
                size = sum(J.numel() * J.element_size() for J in kept.values())
                keep = held + size <= self._budget
                held += size if keep else 0
                self._chunks.append((kept, signs) if keep else None)
        self._finish()

    def _forget(self, wrong: Mapping[str, str]) -> None:
        self.left_out.update(wrong)
        self._sweep.drop(wrong)
        for name in wrong:
            del self._sizes[name], self.traces[name]
            self._dense.pop(name, None)
            self._gram.discard(name)
        for chunk in self._chunks:
            for name in wrong:
                if chunk is not None:
                    chunk[0].pop(name, None)

    def _take(self, name: str, J: Tensor, signs: Tensor | None) -> None:
        squares = J.square().sum(1, dtype=torch.float64)
        signed = squares if signs is None else squares * signs
        self.traces[name] += float(signed.sum())
        if name in self._dense:
            with torch.no_grad():
                right = J if signs is None else J * signs[:, None]
                self._dense[name] += row_products(J.T.contiguous(), right.T)

    def _finish(self) -> None:
        """Form what is small, and let go of its rows."""
        for name, size in self._sizes.items():
            self.traces[name] += self._shift * size
        for name, total in self._dense.items():
            self.formed[name] = FormedFactor(((total + total.T) / 2).cpu(), None)
        for name in self._gram:
            parts = [chunk[0].pop(name) for chunk in self._chunks if chunk is not None]
            J = torch.cat(parts) if len(parts) > 1 else parts[0]
            self.formed[name] = FormedFactor(row_products(J, J).cpu(), J)
        for name in self.formed:
            self._dense.pop(name, None)
        self._sweep.drop(dict.fromkeys(self.formed, ""))

    def multiply(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the products with some layers' blocks, each ``(n_l, k_l)``."""
        total = {name: torch.zeros_like(V) for name, V in columns.items()}

        def add(name: str, J: Tensor, signs: Tensor | None) -> None:
            Y = J @ columns[name]
            total[name].addmm_(J.T, Y if signs is None else Y * signs[:, None])

        with torch.no_grad():
            for chunk in self._chunks:
                if chunk is not None:
                    for name in columns:
                        add(name, chunk[0][name], chunk[1])
        if any(chunk is None for chunk in self._chunks):
            self.num_sweeps += 1
            self._swept(columns, add)
        if self._shift:
            for name, V in columns.items():
                total[name].add_(V, alpha=self._shift)
        return total

    def _swept(self, columns: Mapping[str, Tensor], add: _Add) -> None:
        """Compute the rows that are not kept once more."""
        every = chunks(self._problem, self._seen.bytes_per_sample)
        with self._problem.network.running(), torch.enable_grad():
            for chunk, batch in zip(self._chunks, every, strict=True):
                if chunk is not None:
                    continue
                evaluation = self._sweep.evaluate(batch)
                sites, _ = self._sweep.sites(evaluation)
                wanted = {name: sites[name] for name in columns}
                factor, signs = signed_rows(evaluation)
                with torch.no_grad():
                    for name, J in self._sweep.rows(evaluation, wanted, factor):
                        add(name, J, signs)
