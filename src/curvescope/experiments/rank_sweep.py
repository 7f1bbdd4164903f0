"""Ranks against samples, width and depth: one sweep, three axes.

The defaults are those of the published sweeps: linear networks without biases, MNIST,
one seed, the summed half squared error.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from curvescope._core.checks import message, positive_int
from curvescope.experiments import rank
from curvescope.experiments.base import Experiment, decisive
from curvescope.experiments.rank import RankPoint, RankSettings
from curvescope.experiments.sweep import run_points
from curvescope.results import Cost, Provenance, RankSweep, Result
from curvescope.results.ranks import MATRICES

Axis = Literal["num_samples", "width", "depth"]
# Of what `rank.measure` records: a higher one begins saved sweeps afresh.
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class RankSweepConfig(RankSettings, ABC):
    """What the three sweeps share; each says what its axis is."""

    AXIS: ClassVar[Axis]

    seeds: int = 1
    """Networks drawn at every point; several give the figure a band."""
    jobs: int | None = None
    """Worker processes; chosen by processors, memory and work by default."""

    @property
    @abstractmethod
    def values(self) -> tuple[int, ...]:
        """Where on the axis."""

    @abstractmethod
    def at(self, value: int, seed: int) -> RankPoint:
        """Return the point at a value of the axis."""


@dataclass(frozen=True, kw_only=True)
class RankVsSamples(RankSweepConfig):
    """Ranks against the number of samples."""

    AXIS: ClassVar[Axis] = "num_samples"

    units: tuple[int, ...] = (10, 10)
    """Widths of the hidden layers, such as 10,10."""
    num_samples: tuple[int, ...] = tuple(range(10, 401, 10))
    """The numbers of samples, such as 10,20,50; always the first so many."""
    normalise: bool = False
    """Draw the ranks divided by the number of parameters."""

    @property
    def values(self) -> tuple[int, ...]:
        """The numbers of samples."""
        return self.num_samples

    def at(self, value: int, seed: int) -> RankPoint:
        """Return the point of so many samples."""
        return self.point(units=self.units, num_samples=value, seed=seed)


@dataclass(frozen=True, kw_only=True)
class RankVsWidth(RankSweepConfig):
    """Ranks against the width of the hidden layers."""

    AXIS: ClassVar[Axis] = "width"

    widths: tuple[int, ...] = tuple(range(4, 57, 4))
    """The widths of all hidden layers, such as 4,8,16."""
    depth: int = 2
    """Number of hidden layers."""
    num_samples: int = 100
    """The first so many samples."""
    normalise: bool = True
    """Draw the ranks divided by the number of parameters."""

    @property
    def values(self) -> tuple[int, ...]:
        """The widths."""
        return self.widths

    def at(self, value: int, seed: int) -> RankPoint:
        """Return the point of a width."""
        units = (value,) * self.depth
        return self.point(units=units, num_samples=self.num_samples, seed=seed)


@dataclass(frozen=True, kw_only=True)
class RankVsDepth(RankSweepConfig):
    """Ranks against the number of hidden layers."""

    AXIS: ClassVar[Axis] = "depth"

    dim: int = 16
    """Pixels of an image after down-scaling, a square number; features of a mixture."""
    width: int = 25
    """Width of every hidden layer."""
    depths: tuple[int, ...] = tuple(range(1, 10))
    """The numbers of hidden layers, such as 1,2,3."""
    num_samples: int = 50
    """The first so many samples."""
    normalise: bool = True
    """Draw the ranks divided by the number of parameters."""

    @property
    def values(self) -> tuple[int, ...]:
        """The numbers of hidden layers."""
        return self.depths

    def at(self, value: int, seed: int) -> RankPoint:
        """Return the point of a number of hidden layers."""
        units = (self.width,) * value
        return self.point(units=units, num_samples=self.num_samples, seed=seed)


def rank_sweep(
    config: RankSweepConfig, *, folder: Path | None = None
) -> dict[str, Result]:
    """Measure the ranks of H, GGN and functional Hessian along an axis.

    Args:
        config: Which axis, and everything that stays the same along it.
        folder: Where finished points are kept, so that a later call goes on there.

    Returns:
        The sweep under the name ``rank_sweep``.

    Raises:
        PointError: If a point failed; finished ones are saved.
        ValueError: If the configuration is wrong.

    Cost:
        About half a second for every point of up to 1,000 parameters; beyond, the
        cube of their number.

    Example:
        >>> config = RankVsWidth(data="digits", dim=16, widths=(4, 8), jobs=1)
        >>> sweep = rank_sweep(config)["rank_sweep"]
        >>> [record["width"] for record in sweep.records]
        [4, 8]

    References:
        Singh, Bachmann, Hofmann (2021), arXiv:2106.16225, and its published code.
    """
    check_sweep(config)
    start = time.perf_counter()
    places = _places(config)
    points = [config.at(value, seed) for value, seed in places]
    values = run_points(
        points,
        rank.measure,
        folder=folder,
        version=_VERSION,
        jobs=config.jobs,
        seconds=rank.guess_seconds,
        memory=rank.guess_memory,
        description=f"ranks against {config.AXIS}",
    )
    records = tuple(
        {**measured, config.AXIS: value, "seed": seed}
        for (value, seed), measured in zip(places, values, strict=True)
    )
    sweep = RankSweep(
        axis=config.AXIS,
        records=_ordered(records, config.AXIS),
        of=_provenance(config, points),
        cost=Cost(seconds=time.perf_counter() - start),
        settings=decisive(config),
        notes=(*doubts(records), *successes(records)),
    )
    return {"rank_sweep": sweep}


def check_sweep(config: RankSweepConfig) -> None:
    """Check a sweep's configuration, and that its data are there.

    Raises:
        FileNotFoundError: If the data are absent.
        ValueError: If a value is out of range.
    """
    positive_int("seeds", config.seeds)
    if config.jobs is not None:
        positive_int("jobs", config.jobs)
    plural = "num_samples" if config.AXIS == "num_samples" else f"{config.AXIS}s"
    if not config.values:
        raise ValueError(message(plural, "hold at least one number", "none"))
    for value in config.values:
        positive_int(plural, value)
    if len(set(config.values)) != len(config.values):
        raise ValueError(message(plural, "have no repetition", config.values))
    if isinstance(config, RankVsWidth):
        positive_int("depth", config.depth)
    rank.check_points(config.at(value, seed) for value, seed in _places(config))


def _places(config: RankSweepConfig) -> list[tuple[int, int]]:
    return [(value, seed) for value in config.values for seed in range(config.seeds)]


def _ordered(
    records: Sequence[Mapping[str, Any]], axis: str
) -> tuple[dict[str, Any], ...]:
    """Sort by axis and seed, which become the first columns of the table."""
    ordered = sorted(records, key=lambda record: (record[axis], record["seed"]))
    return tuple({axis: r[axis], "seed": r["seed"], **r} for r in ordered)


def _provenance(config: RankSweepConfig, points: Sequence[RankPoint]) -> Provenance:
    sizes = [rank.guess_params(point) for point in points]
    kind = f"{config.activation} networks{' with biases' if config.bias else ''}"
    return Provenance(
        matrix="Hessian, GGN and functional Hessian",
        description=(
            f"{kind}, {config.loss}, {config.data} ({config.dim} inputs, "
            f"{config.classes} classes), {config.init} weights"
        ),
        reduction="sum",
        unit="loss (sum over the data) per parameter squared",
        num_params=max(sizes),
        num_samples=max(point.num_samples for point in points),
    )


def doubts(records: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Say how many numerical ranks are in doubt, and how many are not the exact one."""
    places = [(record, name) for record in records for name in MATRICES]
    doubtful = sum(r[f"{name}_verdict"] == "undetermined" for r, name in places)
    differing = sum(
        r[f"{name}_certified"] not in (None, r[f"{name}_rank"]) for r, name in places
    )
    notes = []
    if doubtful:
        notes.append(f"{doubtful} of {len(places)} numerical ranks are undetermined")
    if differing:
        text = f"{differing} of {len(places)} numerical ranks are not the exact rank"
        notes.append(text)
    return tuple(notes)


def successes(records: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Say how many ranks, exact ones where known, keep what is claimed of them."""
    held: dict[str, list[bool]] = {"equal": [], "at_most": []}
    for record in records:
        for name in MATRICES:
            exact, predicted = record[f"{name}_certified"], record[f"{name}_predicted"]
            found = record[f"{name}_rank"] if exact is None else exact
            if predicted is not None:
                claim = record[f"{name}_claim"]
                right = found == predicted if claim == "equal" else found <= predicted
                held[claim].append(right)
    words = {"equal": "equal the prediction", "at_most": "keep below their ceiling"}
    return tuple(
        f"{sum(kept)} of {len(kept)} ranks {words[claim]}"
        for claim, kept in held.items()
        if kept
    )


EXPERIMENTS = (
    Experiment(
        name="rank-vs-samples",
        config=RankVsSamples,
        run=rank_sweep,
        check=check_sweep,
        summary="Ranks of H, GGN and functional Hessian against the number of samples.",
    ),
    Experiment(
        name="rank-vs-width",
        config=RankVsWidth,
        run=rank_sweep,
        check=check_sweep,
        summary="Ranks of H, GGN and functional Hessian against the layers' width.",
    ),
    Experiment(
        name="rank-vs-depth",
        config=RankVsDepth,
        run=rank_sweep,
        check=check_sweep,
        summary="Ranks of H, GGN and functional Hessian against the number of layers.",
    ),
)
