r"""One layer's factor J for some samples: as rows, or as what the rows are made of.

A row is ``sum_t d_t x_t'`` over the positions t at which a sample uses the layer, with d
a pulled-back row of the loss's factor and x the layer's input.

Shape suffixes: N samples, K rows of each, G groups, A outputs of a group, D inputs of a
group, T positions.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from curvescope.autodiff.layout import Layout
from curvescope.exact.chain_rule.sites import Site
from curvescope.linalg._products import row_products


class Factor(ABC):
    """J of some samples, ``(R, P)``, known by its products."""

    signs: Tensor | None

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """Memory that it holds."""

    @abstractmethod
    def forward(self, V: Tensor) -> Tensor:
        """Return ``J V``, ``(R, k)``."""

    @abstractmethod
    def adjoint(self, Y: Tensor) -> Tensor:
        """Return ``J' Y``, ``(P, k)``."""

    @final
    def multiply(self, V: Tensor) -> Tensor:
        """Return ``J' diag(s) J V``."""
        Y = self.forward(V)
        return self.adjoint(Y if self.signs is None else Y * self.signs[:, None])


@final
@dataclass(frozen=True)
class Rows(Factor):
    """J itself."""

    matrix: Tensor
    signs: Tensor | None

    @property
    def num_bytes(self) -> int:
        """Memory that it holds."""
        return self.matrix.numel() * self.matrix.element_size()

    def forward(self, V: Tensor) -> Tensor:
        """Return ``J V``."""
        return self.matrix @ V

    def adjoint(self, Y: Tensor) -> Tensor:
        """Return ``J' Y``."""
        return self.matrix.T @ Y


@final
@dataclass(frozen=True)
class _PackedSite:
    """Pulled rows ``(N, K, GAT)`` and inputs ``(G, D, NT)``, ready for two products."""

    weight_name: str | None
    bias_name: str | None
    pulled: Tensor
    inputs: Tensor
    outputs: int

    @property
    def _sizes(self) -> tuple[int, int, int, int]:
        """Return N, G, A, T."""
        n, groups = self.pulled.shape[0], self.inputs.shape[0]
        return n, groups, self.outputs, self.inputs.shape[2] // n

    def forward(self, tangents: Mapping[str | None, Tensor]) -> Tensor:
        """Return ``J V``, ``(N, K, k)``, for tangents ``(k, *shape)``."""
        n, g, a, t = self._sizes
        num = len(next(iter(tangents.values())))
        moved = self.inputs.new_zeros(g, num * a, 1)
        if self.weight_name in tangents:
            W = tangents[self.weight_name].reshape(num, g, a, -1).transpose(0, 1)
            moved = W.reshape(g, num * a, -1) @ self.inputs
        if self.bias_name in tangents:
            b = tangents[self.bias_name].reshape(num, g, a).transpose(0, 1)
            moved = moved + b.reshape(g, num * a, 1)
        moved = moved.expand(g, num * a, n * t).view(g, num, a, n, t)
        return self.pulled @ moved.permute(3, 0, 2, 4, 1).reshape(n, g * a * t, num)

    def adjoint(self, Y: Tensor, total: Mapping[str | None, Tensor]) -> None:
        """Add ``J' Y`` for ``Y`` of shape ``(N, K, k)``; sums are ``(k, *shape)``."""
        n, g, a, t = self._sizes
        num = Y.shape[2]
        back = (self.pulled.mT @ Y).view(n, g, a, t, num).permute(1, 4, 2, 0, 3)
        back = back.reshape(g, num * a, n * t)
        if self.weight_name in total:
            found = (back @ self.inputs.mT).view(g, num, a, -1).transpose(0, 1)
            total[self.weight_name].add_(found.reshape(total[self.weight_name].shape))
        if self.bias_name in total:
            found = back.sum(2).view(g, num, a).transpose(0, 1)
            total[self.bias_name].add_(found.reshape(total[self.bias_name].shape))


@final
@dataclass(frozen=True)
class Packed(Factor):
    """What the rows are made of: far smaller for wide layers with few positions."""

    layout: Layout
    sites: tuple[_PackedSite, ...]
    signs: Tensor | None

    @property
    def num_bytes(self) -> int:
        """Memory that it holds."""
        held = [t for site in self.sites for t in (site.pulled, site.inputs)]
        return sum(t.numel() * t.element_size() for t in held)

    def forward(self, V: Tensor) -> Tensor:
        """Return ``J V``."""
        tangents = self._named(self.layout.split(V.T))
        found = self.sites[0].forward(tangents)
        for site in self.sites[1:]:
            found = found + site.forward(tangents)
        return found.flatten(0, 1)

    def adjoint(self, Y: Tensor) -> Tensor:
        """Return ``J' Y``."""
        num, shapes = Y.shape[1], self.layout.shapes
        parts = [Y.new_zeros(num, *shape) for shape in shapes]
        total = self._named(parts)
        for site in self.sites:
            site.adjoint(Y.view(*site.pulled.shape[:2], num), total)
        return self.layout.join(parts).T

    def _named(self, tensors: Sequence[Tensor]) -> dict[str | None, Tensor]:
        return dict(zip(self.layout.names, tensors, strict=True))


@final
class LayerFactor:
    """One layer's factor of some samples, to be packed or written in rows.

    Args:
        layout: The layer's parameters.
        sites: Where they enter.
        pulled: For each site ``(N, K, G, A, T)``.
        signs: Of the rows, or ``None``.
    """

    def __init__(
        self,
        layout: Layout,
        sites: Sequence[Site],
        pulled: Sequence[Tensor],
        signs: Tensor | None,
    ) -> None:
        self._layout, self._sites = layout, sites
        self._pulled, self._signs = pulled, signs
        self._n = len(pulled[0])
        self._inputs = [site.inputs(self._n) for site in sites]

    @property
    def num_rows(self) -> int:
        """R."""
        return self._n * self._pulled[0].shape[1]

    def rows(self, start: int = 0, stop: int | None = None) -> Rows:
        """Write out J, of the samples from ``start`` to ``stop``."""
        some = slice(start, self._n if stop is None else stop)
        pieces: dict[str, Tensor] = {}
        for site, pulled, x in zip(
            self._sites, self._pulled, self._inputs, strict=True
        ):
            for name in set(site.names) & set(self._layout.names):
                part = site.rows(pulled[some], x[some], [name]).flatten(0, 1)
                pieces[name] = pieces[name] + part if name in pieces else part
        like = self._pulled[0][some].flatten(0, 1)
        full = [
            pieces[name] if name in pieces else like.new_zeros(len(like), shape.numel())
            for name, shape in zip(self._layout.names, self._layout.shapes, strict=True)
        ]
        whole = len(full) == 1 and self._layout.entries is None
        signs = self._signs
        if signs is not None:
            signs = signs.view(self._n, -1)[some].flatten()
        return Rows(full[0] if whole else self._layout.join(full), signs)

    def blocks(self, limit: int) -> Iterator[Rows]:
        """Write out J, as many samples at a time as fit ``limit`` bytes, or one."""
        pulled = self._pulled[0]
        entries = pulled.shape[1] * self._layout.full_size
        step = max(1, limit // (entries * pulled.element_size()))
        for start in range(0, self._n, step):
            yield self.rows(start, min(start + step, self._n))

    def trace(self, limit: int) -> float:
        """Return that of ``J' diag(s) J``; without rows for a map used once a sample."""
        pulled, x = self._pulled[0], self._inputs[0]
        once = len(self._sites) == 1 and pulled.shape[2] == pulled.shape[4] == 1
        if not once or self._layout.entries is not None:
            return sum(_trace(rows) for rows in self.blocks(limit))
        lengths = pulled.square().sum((2, 3, 4), dtype=torch.float64)
        if self._signs is not None:
            lengths = lengths * self._signs.view_as(lengths)
        site = self._sites[0]
        inputs = torch.zeros(self._n, dtype=torch.float64, device=x.device)
        if site.weight_name in self._layout.names:
            inputs += x.square().sum((1, 2, 3), dtype=torch.float64)
        if site.bias_name in self._layout.names:
            inputs += 1.0
        return float(lengths.sum(1) @ inputs)

    def packed(self) -> Packed:
        """Bring it into the form for products without rows."""
        sites = tuple(
            _PackedSite(
                site.weight_name,
                site.bias_name,
                pulled.flatten(2).contiguous(),
                x.permute(1, 2, 0, 3).flatten(2).contiguous(),
                site.outputs,
            )
            for site, pulled, x in zip(
                self._sites, self._pulled, self._inputs, strict=True
            )
        )
        return Packed(self._layout, sites, self._signs)


def _trace(rows: Rows) -> float:
    squares = rows.matrix.square().sum(1, dtype=torch.float64)
    return float((squares if rows.signs is None else squares * rows.signs).sum())


@final
@dataclass(frozen=True)
class Shape:
    """Sizes of one layer's factor, of each sample.

    Attributes:
        rows: Entries of the rows.
        packed: Entries of what they are made of.
        by_rows: Operations of a product with one column by rows.
        by_packed: Likewise, by what they are made of.
        forming: Operations that write the rows, where a trace needs them.
    """

    rows: int
    packed: int
    by_rows: int
    by_packed: int
    forming: int

    @staticmethod
    def of(num_params: int, sites: Sequence[Site], num_samples: int, k: int) -> "Shape":
        """Return the sizes for ``k`` rows a sample."""
        packed = products = forming = 0
        for site in sites:
            u = site.zero.numel() // num_samples
            inputs = u * site.width // site.outputs
            packed += k * u + inputs
            products += 4 * u * site.width + 4 * k * u
            once = site.groups == 1 and site.positions(num_samples) == 1
            forming += 0 if once else 2 * k * u * site.width
        rows = k * num_params
        return Shape(rows, packed, 4 * rows, products, forming)


def gram(factors: Sequence[Factor]) -> tuple[Tensor, Rows]:
    """Return ``J J'`` in float64 on the CPU, and J, from all samples' unsigned rows."""
    parts = [factor.matrix for factor in factors if isinstance(factor, Rows)]
    J = torch.cat(parts) if len(parts) > 1 else parts[0]
    return row_products(J, J).cpu(), Rows(J, None)
