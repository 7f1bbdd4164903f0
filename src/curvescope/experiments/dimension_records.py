"""What the sweeps over trained networks share: from records to what a reader sees."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

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
MAIN_PUBLISHED_Z = 1 / 391
PUBLISHED_Z = (1e-3, MAIN_PUBLISHED_Z, 1e-2, 1e-1)
_BOOTSTRAP = 2000
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


def main_z(z: Sequence[float]) -> float:
    """Return the one that stands for all: the published, else the larger middle one.

    Example:
        >>> main_z((1e-3, 1 / 391, 1e-2, 1e-1)) == 1 / 391, main_z((1e-4, 1e-3, 1e-2))
        (True, 0.001)
    """
    for place in z:
        if math.isclose(place, MAIN_PUBLISHED_Z, rel_tol=1e-9):
            return place
    return z[len(z) // 2]


def with_peaks(sweep: DimensionSweep) -> DimensionSweep:
    """Note how far apart the peaks are, how sure that is, and what it is worth."""
    if len(sweep.places) < 3:
        return sweep
    means = sweep.values("train_loss").nanmean(dim=1)
    trained = int((means < sweep.small_train_loss).sum())
    claim = (
        "N_eff is said to follow the test loss only among networks whose train loss is "
        f"near zero: here below {sweep.small_train_loss:g} at {trained} of "
        f"{len(sweep.places)} values of {sweep.axis}"
    )
    return replace(sweep, notes=(*sweep.notes, *verdicts(sweep), claim))


def verdicts(sweep: DimensionSweep) -> tuple[str, ...]:
    """Say in words how far apart the test loss's and N_eff's peaks are, at every z.

    The uncertainty is that of the seeds: the means are taken again over seeds that are
    drawn with repetition, test loss and effective dimension of the same ones.
    """
    axis, where = sweep.axis, sweep.peak("test_loss")
    apart = {z: sweep.peak_distance("test_loss", DIMENSION, z=z) for z in sweep.z}
    close = [z for z, distance in apart.items() if distance <= 1]
    scope = "all" if len(close) == len(apart) else f"{len(close)} of"
    text = (
        f"mean test loss is largest at {axis} {where}; N_eff is largest there or at the "
        f"next {axis} at {scope} {len(apart)} z"
    )
    notes = [text]
    for z, distance in apart.items():
        text = f"z = {z:.3g}: N_eff is largest at {axis} {sweep.peak(DIMENSION, z=z)}, "
        text += f"{_counted(distance, axis)} from the test loss's peak"
        if len(sweep.seeds) > 1:
            drawn = peak_distances(sweep, z=z)
            far = int(drawn.double().quantile(0.95))
            part = float((drawn <= 1).double().mean())
            text += (
                f"; of {len(drawn):,} bootstrap draws of the {len(sweep.seeds)} seeds "
                f"{100 * part:.0f} % are at most one {axis} apart, 95 % at most {far}"
            )
        notes.append(text)
    if len(sweep.seeds) == 1:
        notes.append("one seed: nothing tells how sure the places of the peaks are")
    return tuple(notes)


def peak_distances(sweep: DimensionSweep, *, z: float) -> Tensor:
    """Return how many places lie between the two peaks in bootstrap draws of the seeds.

    Example:
        >>> import torch
        >>> from curvescope.results import DimensionSweep, Provenance
        >>> sweep = DimensionSweep(
        ...     of=Provenance(), axis="width", z=(1.0,), main_z=1.0, records=[
        ...         dict(width=w, seed=s, test_loss=-((w - 2) ** 2), num_params=w,
        ...              train_loss=0.0, effective_dimension=[-((w - 3) ** 2)])
        ...         for w in (1, 2, 3) for s in (0, 1)
        ...     ],
        ... )
        >>> peak_distances(sweep, z=1.0).unique().tolist()
        [1]
    """
    generator = torch.Generator().manual_seed(0)
    count = len(sweep.seeds)
    drawn = torch.randint(count, (_BOOTSTRAP, count), generator=generator)
    peaks = []
    for name in ("test_loss", DIMENSION):
        # Of a seed that was not drawn anywhere nothing is left to average.
        means = sweep.values(name, z=z)[:, drawn].nanmean(dim=2)
        peaks.append(means.nan_to_num(-math.inf).argmax(dim=0))
    return (peaks[0] - peaks[1]).abs()


def _counted(number: int, axis: str) -> str:
    return f"{number} {axis}" if number == 1 else f"{number} {axis}s"


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
