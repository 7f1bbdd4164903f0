"""What is kept of every chunk of samples, and the block that comes of it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from curvescope.exact.chain_rule.blocks import (
    DenseBlock,
    FactorBlock,
    KroneckerBlock,
    OwnBlock,
)
from curvescope.exact.chain_rule.evaluation import SecondDerivatives, SignedFactor
from curvescope.exact.chain_rule.sites import Site


class Collector(ABC):
    """Gathers one layer's share of every chunk."""

    @abstractmethod
    def add(
        self,
        site: Site,
        pulled: Tensor,
        factor: SignedFactor,
        second: SecondDerivatives,
    ) -> str | None:
        """Add a chunk; return what is in the way, or ``None``."""

    @abstractmethod
    def finish(self, name: str, **settings: Any) -> OwnBlock:
        """Return the block."""


def joined(parts: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor | None:
    """Concatenate; parts that are ``None`` count as what their partner is replaced by."""
    if all(part is None for part in parts):
        return None
    filled = [o if p is None else p for p, o in zip(parts, like, strict=True)]
    return filled[0] if len(filled) == 1 else torch.cat(filled)


@final
class KroneckerCollector(Collector):
    """For a layer that every unit uses once.

    Args:
        names: The layer's parameters, in order.
        scale: What the sum over the data is multiplied by.
    """

    def __init__(self, names: Sequence[str], scale: float) -> None:
        self._names, self._scale = names, scale
        self._factors: list[Tensor] = []
        self._signs: list[Tensor | None] = []
        self._curvature: list[Tensor | None] = []
        self._inputs: list[Tensor] = []
        self._pieces: tuple[str, ...] = ()

    def add(
        self,
        site: Site,
        pulled: Tensor,
        factor: SignedFactor,
        second: SecondDerivatives,
    ) -> str | None:
        """Add a chunk; return what is in the way, or ``None``."""
        units = len(pulled)
        self._pieces = tuple(
            "weight" if name == site.weight_name else "bias" for name in self._names
        )
        self._factors.append(pulled[:, :, 0, :, 0] * math.sqrt(self._scale))
        self._signs.append(factor.signs)
        if "weight" in self._pieces:
            self._inputs.append(site.inputs(units)[:, 0, :, 0].clone())
        own = None
        if not second.vanishes(site):
            own = second.columns(site, units=units) * self._scale
        self._curvature.append(own)
        return None

    def finish(self, name: str, **settings: Any) -> OwnBlock:
        """Return the block."""
        factors = torch.cat(self._factors)
        zeros = [
            f.new_zeros(1, 1, 1).expand(len(f), f.shape[2], f.shape[2])
            for f in self._factors
        ]
        ones = [f.new_ones(f.shape[:2]) for f in self._factors]
        return KroneckerBlock(
            name,
            factors=factors,
            signs=joined(self._signs, ones),
            curvature=joined(self._curvature, zeros),
            inputs=torch.cat(self._inputs) if self._inputs else None,
            pieces=self._pieces,
            **settings,
        )


@final
class FactorCollector(Collector):
    """For a layer with several positions a unit, whose curvature part vanishes.

    Args:
        names: The layer's parameters, in order.
        scale: What the sum over the data is multiplied by.
        num_params: P.
        num_rows: Units times outputs over all data.
    """

    def __init__(
        self, names: Sequence[str], scale: float, *, num_params: int, num_rows: int
    ) -> None:
        self._names, self._scale = names, scale
        self._forms = num_params <= num_rows
        self._total: Tensor | None = None
        self._rows: list[Tensor] = []
        self._signs: list[Tensor | None] = []

    def add(
        self,
        site: Site,
        pulled: Tensor,
        factor: SignedFactor,
        second: SecondDerivatives,
    ) -> str | None:
        """Add a chunk; return what is in the way, or ``None``."""
        if not second.vanishes(site):
            count = site.positions(len(pulled)) * site.groups
            return (
                f"its curvature part is not zero, and it is used {count} times a unit"
            )
        rows = site.rows(pulled, site.inputs(len(pulled)), self._names).flatten(0, 1)
        rows = rows * math.sqrt(self._scale)
        signs = None if factor.signs is None else factor.signs.flatten()
        if not self._forms:
            self._rows.append(rows)
            self._signs.append(signs)
            return None
        if self._total is None:
            self._total = rows.new_zeros(rows.shape[1], rows.shape[1])
        signed = rows if signs is None else rows * signs[:, None]
        self._total.addmm_(rows.T, signed)
        return None

    def finish(self, name: str, **settings: Any) -> OwnBlock:
        """Return the block."""
        if self._total is not None:
            linearisation = (self._total + self._total.T) / 2
            return DenseBlock(
                name, linearisation=linearisation, curvature=None, **settings
            )
        ones = [r.new_ones(len(r)) for r in self._rows]
        rows = torch.cat(self._rows)
        return FactorBlock(name, rows=rows, signs=joined(self._signs, ones), **settings)
