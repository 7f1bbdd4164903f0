"""The parts of layers' blocks against the scale of the weights, and laws beside them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from curvescope.results.base import Result
from curvescope.results.text import format_table

Records = tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class LawCheck:
    """One law at one place, beside what was measured there.

    Attributes:
        law: Its name in `curvescope.theory`.
        statement: In words and formulas.
        status: How far it is known.
        where: Of which network, layer or matrix.
        predicted: What it says.
        measured: What was found.
        tolerance: How far apart the two may lie.
    """

    law: str
    statement: str
    status: str
    where: str
    predicted: float
    measured: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the measured value lies within the tolerance."""
        return abs(self.measured - self.predicted) <= self.tolerance


@dataclass(frozen=True, kw_only=True)
class LawTable(Result):
    """Laws of the Hessian chain rule, each beside its measurement."""

    NESTED: ClassVar[Mapping[str, type]] = {"laws": LawCheck}
    laws: tuple[LawCheck, ...]

    def headline(self) -> str:
        """Return the result in one line."""
        kept = sum(law.holds for law in self.laws)
        return f"{kept} of {len(self.laws)} laws hold within their tolerance"

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a law and place."""
        return [
            {
                "law": law.law,
                "status": law.status,
                "where": law.where,
                "predicted": law.predicted,
                "measured": law.measured,
                "tolerance": law.tolerance,
                "holds": law.holds,
            }
            for law in self.laws
        ]


@dataclass(frozen=True, kw_only=True)
class ChainRule(Result):
    r"""Curvature over linearisation part of every layer's block, against the scale.

    With all weights of deviation s, :math:`\|F_{kk}\| / \|G_{kk}\| \sim s^p`.

    Attributes:
        records: One a network and layer: ``activation``, ``depth`` (linear layers),
            ``layer`` (from 1), ``scale``, ``seed``, the norms ``whole``,
            ``linearisation`` and ``curvature``, and ``ratio``.
        powers: One a kind of network and layer: ``activation``, ``depth``, ``layer``,
            ``measured``, the power at the smallest scales, and ``predicted``; ``None``
            where there is no power, because the curvature part is zero.
    """

    records: Records
    powers: Records

    @property
    def kinds(self) -> tuple[tuple[str, int], ...]:
        """Activation and depth of the networks, in the order of the records."""
        return tuple(dict.fromkeys((r["activation"], r["depth"]) for r in self.records))

    @property
    def scales(self) -> tuple[float, ...]:
        """The scales, ascending."""
        return tuple(sorted({record["scale"] for record in self.records}))

    def ratios(self, activation: str, depth: int, layer: int) -> Tensor:
        """Return the ratios of one layer, shape ``(scales, seeds)``, float64."""
        seeds = sorted({record["seed"] for record in self.records})
        shape = (len(self.scales), len(seeds))
        found = torch.full(shape, math.nan, dtype=torch.float64)
        for record in self.records:
            key = record["activation"], record["depth"], record["layer"]
            if key == (activation, depth, layer):
                place = self.scales.index(record["scale"]), seeds.index(record["seed"])
                found[place] = math.nan if record["ratio"] is None else record["ratio"]
        return found

    def power(self, activation: str, depth: int, layer: int) -> Mapping[str, Any]:
        """Return the measured and predicted power of a layer.

        Raises:
            KeyError: If there is no such layer.
        """
        wanted = activation, depth, layer
        for row in self.powers:
            if (row["activation"], row["depth"], row["layer"]) == wanted:
                return row
        raise KeyError(wanted)

    def headline(self) -> str:
        """Return the result in one line."""
        known = [row for row in self.powers if row["predicted"] is not None]
        zero = sum(row["measured"] is None for row in self.powers)
        worst = max(
            (abs(row["measured"] - row["predicted"]) for row in known), default=0.0
        )
        return (
            f"{len(known)} powers of the scale, at most {worst:.2g} from the law; "
            f"{zero} layers without a curvature part"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a network and layer."""
        return [dict(record) for record in self.records]

    def __str__(self) -> str:
        rows = [dict(row) for row in self.powers]
        return format_table(self.headline(), rows, self.notes, str(self.cost))
