"""The cards at the top of the page: the numbers a reader came for, with their errors.

A card never says more than its result proves: the smallest of the ten largest
eigenvalues is not the lowest eigenvalue, and is not shown as one.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from curvescope._core.predictions import PredictedRank
from curvescope.report.formatting import MINUS, number, with_error
from curvescope.report.ranks import (
    MATRIX_NAMES,
    Tally,
    certificate_differs,
    prediction_text,
    rank_text,
)
from curvescope.results import (
    EffectiveDimension,
    Eigenpairs,
    Estimate,
    RankEstimate,
    RankReport,
    RankSweep,
    Result,
)

_MAX_CHOSEN = 3


@dataclass(frozen=True)
class Card:
    """One number of the summary; ``warn`` marks one that was not certified."""

    label: str
    value: str
    detail: str
    target: str
    warn: bool = False


def cards(results: Mapping[str, Result]) -> list[Card]:
    """Return the summary's cards: eigenvalues, then estimates, then dimensions."""
    return [
        *_extreme_cards(results),
        *(c for name, r in results.items() for c in _other_cards(name, r)),
    ]


def certifies_top(pairs: Eigenpairs) -> bool:
    """Tell whether the first pair is the matrix's largest eigenvalue.

    Of the largest in magnitude it is if it is positive: a larger one would be there.
    """
    values = pairs.eigenvalues
    if len(values) == 0:
        return False
    first = float(values[0])
    named = pairs.which in ("LA", "BE") or (pairs.which == "LM" and first > 0)
    return named or len(values) == pairs.of.num_params


def certifies_lowest(pairs: Eigenpairs) -> bool:
    """Tell whether the last pair is the matrix's lowest eigenvalue."""
    values = pairs.eigenvalues
    if len(values) == 0:
        return False
    last = float(values[-1])
    both = pairs.which == "BE" and len(values) > 1
    named = pairs.which == "SA" or both or (pairs.which == "LM" and last < 0)
    return named or len(values) == pairs.of.num_params


def _extreme_cards(results: Mapping[str, Result]) -> Iterator[Card]:
    pairs = {name: r for name, r in results.items() if isinstance(r, Eigenpairs)}
    several = len({r.of.matrix for r in results.values()}) > 1
    seen: set[tuple[str, str]] = set()
    for name, result in pairs.items():
        of = f" of the {result.of.matrix}" if several else ""
        key = result.of.matrix
        if certifies_top(result) and ("top", key) not in seen:
            seen.add(("top", key))
            yield _pair_card(f"Top eigenvalue{of}", name, result, 0)
        if certifies_lowest(result) and ("low", key) not in seen:
            seen.add(("low", key))
            yield _pair_card(f"Lowest eigenvalue{of}", name, result, -1)
    for name, result in pairs.items():
        bounded = result.which == "LM" and bool(result.converged.all())
        if (
            bounded
            and ("low", result.of.matrix) not in seen
            and len(result.eigenvalues)
        ):
            bound = float(result.eigenvalues.abs().min())
            of = f" of the {result.of.matrix}" if several else ""
            yield Card(
                label=f"Lowest eigenvalue{of}",
                value=f"\u2265 {MINUS}{number(bound)}",
                detail=f"none of the {len(result.eigenvalues)} largest in magnitude "
                "is negative",
                target=name,
            )


def _pair_card(label: str, name: str, pairs: Eigenpairs, index: int) -> Card:
    value = float(pairs.eigenvalues[index])
    residual = float(pairs.relative_residuals[index])
    done = bool(pairs.converged[index])
    state = "converged" if done else "not converged"
    return Card(
        label=label,
        value=number(value),
        detail=f"{state}; relative residual {number(residual, digits=2)}",
        target=name,
        warn=not done,
    )


def _other_cards(name: str, result: Result) -> Iterator[Card]:
    if isinstance(result, Estimate):
        low, high = result.interval()
        interval = f"95 %: {number(low, digits=4)} to {number(high, digits=4)}"
        exact = low == high
        quantity = result.quantity.replace("_", " ")
        yield Card(
            label=quantity[:1].upper() + quantity[1:],
            value=with_error(result.value, result.standard_error),
            detail="exact" if exact else interval,
            target=name,
            warn=not math.isfinite(result.value),
        )
    elif isinstance(result, EffectiveDimension):
        yield from _dimension_cards(name, result)
    elif isinstance(result, RankEstimate):
        yield _rank_card(name, result.of.matrix, result)
    elif isinstance(result, RankReport):
        for matrix, rank in result.measured.items():
            prediction = result.predicted.get(matrix)
            yield _rank_card(name, MATRIX_NAMES[matrix], rank, prediction)
    elif isinstance(result, RankSweep):
        yield from _sweep_cards(name, result)


def _rank_card(
    name: str, matrix: str, rank: RankEstimate, prediction: PredictedRank | None = None
) -> Card:
    details: list[str] = [rank.verdict]
    if math.isfinite(rank.gap) and rank.verdict != "certified":
        details.append(f"gap {number(rank.gap, digits=2)}")
    if certificate_differs(rank):
        details.append(f"exact rank {rank.certified}")
    if prediction is not None:
        differs = "" if prediction.agrees(rank.rank) else " (differs)"
        details.append(f"predicted {prediction_text(prediction)}{differs}")
    return Card(
        label=f"Rank of the {matrix}",
        value=rank_text(rank),
        detail="; ".join(details),
        target=name,
        warn=not rank.certain
        or certificate_differs(rank)
        or (prediction is not None and not prediction.agrees(rank.rank)),
    )


def _sweep_cards(name: str, sweep: RankSweep) -> Iterator[Card]:
    tally = Tally(sweep)
    if tally.compared:
        yield Card(
            label="Ranks that are as predicted",
            value=f"{tally.agreeing} of {tally.compared}",
            detail=f"{tally.undetermined} undetermined",
            target=name,
            warn=tally.agreeing < tally.compared,
        )
    if tally.certified:
        yield Card(
            label="Ranks confirmed by exact arithmetic",
            value=f"{tally.exact} of {tally.certified}",
            detail="modulo primes, at the stored weights and data",
            target=name,
            warn=tally.exact < tally.certified,
        )


def _dimension_cards(name: str, result: EffectiveDimension) -> Iterator[Card]:
    low, high = result.band()
    bound = "\u2265 " if result.method == "lower_bound" else ""
    for place in chosen_places(result):
        error = float(result.standard_errors[place])
        interval = (
            f"95 %: {number(float(low[place]), digits=4)} to "
            f"{number(float(high[place]), digits=4)}"
        )
        kind = "lower bound from the top eigenvalues" if bound else "exact"
        yield Card(
            label=f"Effective dimension at z = {number(float(result.z[place]), digits=3)}",
            value=bound + with_error(float(result.values[place]), error),
            detail=interval if error else kind,
            target=name,
        )


def chosen_places(result: EffectiveDimension) -> list[int]:
    """Return the places on the curve that were asked for, else its middle."""
    asked = result.settings.get("z", ())
    asked = asked if isinstance(asked, (list, tuple)) else (asked,)
    grid = [float(z) for z in result.z]
    if not grid:
        return []
    places = []
    for z in asked:
        if not isinstance(z, (int, float)):
            continue
        place = min(range(len(grid)), key=lambda i: abs(grid[i] - z))
        if math.isclose(grid[place], z, rel_tol=1e-6) and place not in places:
            places.append(place)
    if 0 < len(places) <= _MAX_CHOSEN:
        return places
    return [len(grid) // 2]
