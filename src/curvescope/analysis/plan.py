"""The plan of a whole analysis, before it starts: products, seconds, bytes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from curvescope._core.memory import format_bytes
from curvescope.curvature.matrices import CurvatureOperator
from curvescope.curvature.planner import ProductPlan
from curvescope.linalg.eigsh import working_vectors

# Products of `eigsh` for each wanted pair, residuals and check included; isolated ones
# take fewer, crowded ones more.
_PRODUCTS_A_PAIR = 5
_DENSE_BELOW = 64


@final
@dataclass(frozen=True, kw_only=True)
class PartPlan:
    """What one part of an analysis is expected to cost.

    Attributes:
        name: Of the part.
        num_matvecs: Products; ``None`` where it goes ways of its own.
        columns: Of one block product.
        seconds: Of all of them; ``None`` likewise.
        vectors: Of the matrix's size, held at the peak.
    """

    name: str
    num_matvecs: int | None
    columns: int
    seconds: float | None
    vectors: int


@final
@dataclass(frozen=True, kw_only=True)
class AnalysisPlan:
    """What an analysis will do, and what that is expected to cost.

    Attributes:
        products: The plans of its products, by columns of one product.
        parts: The parts, in their order.
        seconds: Of all parts that can be foreseen.
        peak: Bytes at the peak, besides libraries and model.
    """

    products: tuple[ProductPlan, ...]
    parts: tuple[PartPlan, ...]
    seconds: float
    peak: int

    def __str__(self) -> str:
        lines = [str(plan) for plan in self.products]
        lines.append("plan of the analysis    products      seconds    vectors")
        for part in self.parts:
            many = "-" if part.num_matvecs is None else f"about {part.num_matvecs}"
            time = "-" if part.seconds is None else f"{part.seconds:.3g}"
            lines.append(f"  {part.name:20s}{many:>10s}{time:>13s}{part.vectors:11d}")
        lines.append(
            f"  expected: {self.seconds:.3g} s and {format_bytes(self.peak)} at the peak, "
            "besides libraries and model"
        )
        if any(part.seconds is None for part in self.parts):
            lines.append("  (without the layer table, which goes its own ways)")
        return "\n".join(lines)


def plan_analysis(
    operator: CurvatureOperator, arguments: Mapping[str, Any]
) -> AnalysisPlan:
    """Measure products, and return what `analyze` with these arguments will cost.

    Args:
        operator: The matrix.
        arguments: ``parts``, ``k``, ``max_matvecs``, ``num_probes``, ``num_steps``.

    Cost:
        That of two plans of products: some products of one batch.
    """
    size = operator.shape[0]
    block = min(arguments["num_probes"], operator.block_size)
    plans = {columns: operator.plan(columns) for columns in sorted({1, block})}
    vectors = vectors_of(size, arguments)
    parts = []
    for name, count in _expected(size, arguments).items():
        columns = 1 if name == "eigenpairs" else block
        plan = plans[columns]
        seconds = None if count is None else math.ceil(count / columns) * plan.seconds
        parts.append(
            PartPlan(
                name=name,
                num_matvecs=count,
                columns=columns,
                seconds=seconds,
                vectors=vectors[name],
            )
        )
    most = max((part.vectors for part in parts), default=0)
    return AnalysisPlan(
        products=tuple(plans.values()),
        parts=tuple(parts),
        seconds=plans[1].first_seconds + sum(part.seconds or 0.0 for part in parts),
        peak=max(p.peak for p in plans.values()) + most * plans[1].vector,
    )


def vectors_of(size: int, arguments: Mapping[str, Any]) -> dict[str, int]:
    """Return how many vectors each part holds at most; they run one after another."""
    parts, probes = arguments["parts"], arguments["num_probes"]
    # A lockstep quadrature holds every probe's whole basis; a trace its probes, thrice.
    needs = {
        "eigenpairs": working_vectors(size, arguments["k"]),
        "density": probes * (min(arguments["num_steps"], size) + 3),
        "trace": 3 * min(12 * probes, size),
        "frobenius_norm": 2 * min(4 * probes, size),
        "effective_dimension": probes * (min(arguments["num_steps"], size) + 3),
        "layers": working_vectors(size, 1) + 5 * probes,
    }
    return {part: need for part, need in needs.items() if part in parts}


def _expected(size: int, arguments: Mapping[str, Any]) -> dict[str, int | None]:
    """Return about how many products each part takes."""
    parts, probes = arguments["parts"], arguments["num_probes"]
    k, limit = arguments["k"], arguments["max_matvecs"] or math.inf
    dense = size <= max(_DENSE_BELOW, 2 * k)
    quadrature = probes * min(arguments["num_steps"], size)
    exact = size <= 2 * probes * arguments["num_steps"]
    shared = 0 if "density" in parts else quadrature
    counts: dict[str, int | None] = {
        "eigenpairs": int(min(size if dense else _PRODUCTS_A_PAIR * k, limit)),
        "density": quadrature,
        "trace": min(12 * probes, size),
        "frobenius_norm": min(4 * probes, size),
        "effective_dimension": size if exact else shared,
        "layers": None,
    }
    return {part: count for part, count in counts.items() if part in parts}
