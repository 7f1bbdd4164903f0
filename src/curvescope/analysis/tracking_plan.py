"""What a measurement will cost: rules of thumb at first, then what the last ones took."""

import statistics
from functools import cached_property
from typing import Any, final

from curvescope.analysis.tracking_layers import LayerPrices, layer_prices, left_out_note
from curvescope.analysis.tracking_measures import DENSE_BELOW, Row, Settings
from curvescope.problem import Problem
from curvescope.results import PlannedPart, TrackingPlan

# Products of `eigsh`, and of `eigsh_from` the vectors before, as `base + slope k`.
# Measured on networks in training; eigenvalues that lie close take more.
_FIRST = (16.0, 6.0)
_LATER = (4.0, 2.7)
_RECENT = 8
_GRAPH = 1.0


@final
class Prices:
    """What products and parts cost on a problem, and what they have cost so far.

    Attributes:
        num_params: Dimension of the matrices.
        num_samples: Of the probe set.
        seen: What every measurement so far took.
        per_product: Gradients a product.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.num_params = problem.num_params
        self.num_samples = problem.num_samples
        self.seen: list[dict[str, Any]] = []
        self.per_product = 2.0

    @cached_property
    def layers(self) -> LayerPrices:
        """What the layers' norms take: a look at two samples, when it is asked for."""
        return layer_prices(self._problem)

    def learn(self, row: Row) -> None:
        """Take in what a measurement took."""
        self.seen.append(row["cost"])
        self.per_product = row.get("per_product", self.per_product)

    def recent(self, part: str) -> int | None:
        """Return the products that a part took lately, or ``None`` if it never ran."""
        # The first measurement is another matter: it starts from nothing.
        costs = [cost[part]["num_matvecs"] for cost in self.seen[1:] if part in cost]
        return round(statistics.mean(costs[-_RECENT:])) if costs else None


def planned(settings: Settings, prices: Prices) -> TrackingPlan:
    """Return what measurements with these settings will cost."""
    first = _parts(settings, prices, first=True)
    later = _parts(settings, prices, first=False)
    most = sum(_at_most(part, prices) for part in first)
    known = len(prices.seen) > 1
    return TrackingPlan(
        first=first,
        later=later,
        most=most,
        num_samples=prices.num_samples,
        basis=(
            f"eigenpairs as the last {min(len(prices.seen) - 1, _RECENT)} measurements "
            "took them"
            if known
            else "eigenpairs by a rule of thumb: isolated ones take less, close ones more"
        ),
        notes=notes_before(settings, prices),
    )


def notes_before(settings: Settings, prices: Prices) -> tuple[str, ...]:
    """Return what can be said of the results before anything is measured."""
    left_out = settings.layers_left_out
    return (left_out_note(left_out, prices.layers),) if left_out else ()


def _at_most(part: PlannedPart, prices: Prices) -> float:
    """Return a part's gradients at its bound; graphs may have to be built each time."""
    extra = part.most - part.num_matvecs
    rebuilt = 3.0 - prices.per_product
    return part.gradients + extra * prices.per_product + part.most * rebuilt


def _parts(
    settings: Settings, prices: Prices, *, first: bool
) -> tuple[PlannedPart, ...]:
    found: list[PlannedPart] = []

    def add(name: str, products: int, most: int | None = None, **fixed: float) -> None:
        work = fixed.get("gradients", prices.per_product * products)
        bound = products if most is None else most
        found.append(
            PlannedPart(name=name, num_matvecs=products, most=bound, gradients=work)
        )

    measures, n = set(settings.measures), prices.num_params
    add("loss", 0, gradients=1.0 / 3.0)
    if "gradient" in measures:
        add("gradient", 0, gradients=1.0)
    if measures & {"eigenvalues", "preconditioned", "trace", "effective_dimension"}:
        add("graphs", 0, gradients=_GRAPH)
    for part, k in (("eigenvalues", settings.k), ("preconditioned", 1)):
        if part in measures:
            about, most = _pairs(part, k, settings, prices, first=first)
            add(part, about, most)
    if "trace" in measures:
        add("trace", min(max(4, settings.num_probes), n))
    if "effective_dimension" in measures:
        # Below 512 the matrix is diagonalised: that takes a product a column.
        steps = min(settings.num_steps, n)
        exact = n <= 512 or settings.num_probes >= n
        add("effective_dimension", n if exact else settings.num_probes * steps)
    if "layers" in measures:
        m = settings.num_probes
        layers = prices.layers
        if settings.layers_left_out:
            layers = layers.only_exact()
        add("layers", layers.num_matvecs(m), gradients=layers.gradients(m))
    return tuple(found)


def _pairs(
    part: str, k: int, settings: Settings, prices: Prices, *, first: bool
) -> tuple[int, int]:
    """Return the products of one set of eigenpairs: about, and at most."""
    n = prices.num_params
    if n <= max(DENSE_BELOW, 2 * k):
        return n, n
    # Where Lanczos would take more than n products, `eigsh` diagonalises instead.
    most = settings.max_matvecs
    if n <= 2048 and most >= 4 * n:
        most = max(most, 3 * n)
    seen = None if first else prices.recent(part)
    if seen is not None:
        return min(seen, most), most
    cold, warm = (base + slope * k for base, slope in (_FIRST, _LATER))
    if not first and settings.warm_start:
        # Every `check_every`-th is searched as thoroughly as the first.
        cold = warm + (cold - warm) / settings.check_every
    return min(round(cold), most), most
