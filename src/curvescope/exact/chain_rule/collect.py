"""What is kept of every chunk of samples, and the block that comes of it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, final

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


class _Rows:
    """Rows that arrive in parts, written into one tensor: nothing is held twice.

    Args:
        total: How many there will be.
        filler: What stands in rows of parts that were ``None``.
    """

    def __init__(self, total: int, *, filler: float = 0.0) -> None:
        self._total, self._filler = total, filler
        self._rows: Tensor | None = None
        self._count = 0

    def add(self, part: Tensor | None, num: int) -> None:
        """Write ``num`` rows."""
        if part is not None:
            if self._rows is None:
                shape = (self._total, *part.shape[1:])
                self._rows = part.new_full(shape, self._filler)
            self._rows[self._count : self._count + num] = part
        self._count += num

    def all(self) -> Tensor | None:
        """Return all rows; ``None`` if every part was."""
        return self._rows


@final
class KroneckerCollector(Collector):
    """For a layer that every unit uses once.

    Args:
        names: The layer's parameters, in order.
        scale: What the sum over the data is multiplied by.
        num_units: Over all data.
    """

    def __init__(self, names: Sequence[str], scale: float, *, num_units: int) -> None:
        self._names, self._scale = names, scale
        self._factors = _Rows(num_units)
        self._signs = _Rows(num_units, filler=1.0)
        self._curvature = _Rows(num_units)
        self._inputs = _Rows(num_units, filler=1.0)
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
        self._factors.add(pulled[:, :, 0, :, 0] * math.sqrt(self._scale), units)
        self._signs.add(factor.signs, units)
        self._inputs.add(site.vectors(units), units)
        own = None
        if not second.vanishes(site):
            own = second.columns(site, units=units) * self._scale
        self._curvature.add(own, units)
        return None

    def finish(self, name: str, **settings: Any) -> OwnBlock:
        """Return the block."""
        factors, inputs = self._factors.all(), self._inputs.all()
        assert factors is not None
        assert inputs is not None
        return KroneckerBlock(
            name,
            factors=factors,
            signs=self._signs.all(),
            curvature=self._curvature.all(),
            inputs=inputs,
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
        self._rows = _Rows(num_rows)
        self._signs = _Rows(num_rows, filler=1.0)

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
        rows *= math.sqrt(self._scale)
        signs = None if factor.signs is None else factor.signs.flatten()
        if not self._forms:
            self._rows.add(rows, len(rows))
            self._signs.add(signs, len(rows))
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
        rows = self._rows.all()
        assert rows is not None
        return FactorBlock(name, rows=rows, signs=self._signs.all(), **settings)
