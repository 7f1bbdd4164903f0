"""What the sweeps over trained networks share: from records to what a reader sees."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from curvescope._core.checks import message, positive_int
from curvescope.experiments.correlations import correlate
from curvescope.results import (
    CorrelationTable,
    Cost,
    DimensionMap,
    DimensionSweep,
    MeasureComparison,
    Provenance,
)
from curvescope.results.dimension_sweep import DIMENSION, value_of

# Below this train loss the published comparison counts a network as trained.
SMALL_TRAIN_LOSS = 0.2
# On the mean loss; 1/391 is z = 1 of the published sum over 391 batches.
PUBLISHED_Z = (1e-3, 1 / 391, 1e-2, 1e-1)
MEAN_UNIT = "loss (mean over the data) per parameter squared"


def given(value: Any) -> Any:
    """Return a value that a preset has filled in."""
    assert value is not None
    return value


def check_axis(name: str, values: tuple[int, ...] | None, *, minimum: int = 1) -> None:
    """Check the values of an axis.

    Raises:
        ValueError: If there are none, one is too small, or one stands twice.
    """
    if not values:
        raise ValueError(message(name, "hold at least one number", "none"))
    for value in values:
        positive_int(name, value, minimum=minimum)
    if len(set(values)) != len(values):
        raise ValueError(message(name, "have no repetition", values))


def provenance(
    matrix: str, description: str, records: Sequence[Mapping[str, Any]], samples: int
) -> Provenance:
    """Return what a sweep over networks is of."""
    return Provenance(
        matrix=matrix,
        description=description,
        reduction="mean",
        unit=MEAN_UNIT,
        num_params=max(record["num_params"] for record in records),
        num_samples=samples,
    )


def middle(z: Sequence[float]) -> float:
    """Return the one that is drawn beside the losses: the larger middle one."""
    return z[len(z) // 2]


def with_peaks(sweep: DimensionSweep) -> DimensionSweep:
    """Note where test loss and effective dimension are largest, and what that is worth."""
    if len(sweep.places) < 3:
        return sweep
    peaks = ", ".join(f"{sweep.peak(DIMENSION, z=z)} (z = {z:g})" for z in sweep.z)
    where = sweep.peak("test_loss")
    means = sweep.values("train_loss").nanmean(dim=1)
    trained = [
        p
        for p, mean in zip(sweep.places, means, strict=True)
        if mean < sweep.small_train_loss
    ]
    text = f"mean test loss is largest at {sweep.axis} {where}, N_eff at {peaks}"
    claim = (
        "N_eff is said to follow the test loss only among networks whose train loss is "
        f"near zero: here below {sweep.small_train_loss:g} at {len(trained)} of "
        f"{len(sweep.places)} values of {sweep.axis}"
    )
    return replace(sweep, notes=(*sweep.notes, text, claim))


def compared(
    result: DimensionMap | DimensionSweep, axes: Sequence[str], cost: Cost
) -> tuple[MeasureComparison, CorrelationTable]:
    """Compare effective dimension and parameter count as foretellers of the test loss.

    Seeds of one network are averaged: they are no independent witnesses.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for record in result.records:
        groups.setdefault(tuple(record[axis] for axis in axes), []).append(record)
    points = []
    for place, members in sorted(groups.items()):
        point: dict[str, Any] = dict(zip(axes, place, strict=True))
        point["num_params"] = members[0]["num_params"]
        for name in ("train_loss", "test_loss", DIMENSION):
            values = [value_of(m, name, result.z, result.main_z) for m in members]
            point[name] = sum(values) / len(values)
        point["trained"] = point["train_loss"] < result.small_train_loss
        points.append(point)
    comparison = MeasureComparison(
        of=result.of,
        cost=cost,
        settings=result.settings,
        target="test_loss",
        measures=(DIMENSION, "num_params"),
        records=tuple(points),
        words={
            DIMENSION: f"effective dimension N_eff(z = {result.main_z:g})",
            "num_params": "number of parameters",
            "test_loss": "test loss",
        },
        chosen="trained",
        chosen_words=f"train loss below {result.small_train_loss:g}",
    )
    return comparison, correlate(comparison)
