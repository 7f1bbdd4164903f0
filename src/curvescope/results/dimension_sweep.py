"""Effective dimension beside losses: along widths or depths, and over both."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from curvescope._core.checks import message
from curvescope.results.base import Result
from curvescope.results.text import format_table

LOSSES = ("train_loss", "test_loss")
_ERRORS = ("train_error", "test_error")
DIMENSION = "effective_dimension"
Axis = Literal["width", "depth"]


@dataclass(frozen=True, kw_only=True)
class DimensionSweep(Result):
    r"""Losses and effective dimension of trained networks along one axis.

    .. math:: N_\mathrm{eff}(z) = \sum_i \frac{\lambda_i}{\lambda_i + z}

    Attributes:
        axis: What varies, a field of every record: ``"width"`` or ``"depth"``.
        z: Where the effective dimension was computed, ascending, in the unit of an
            eigenvalue.
        main_z: The one that figures draw beside the losses.
        records: One a network: the axis, ``seed``, ``num_params``, ``train_loss``,
            ``test_loss``, of classifiers ``train_error`` and ``test_error``, and as
            ``effective_dimension`` its values at ``z``; where these are estimates,
            ``effective_dimension_low`` and ``effective_dimension_high`` too.
        small_train_loss: Below it a network counts as trained: only there the claim
            about the effective dimension is made.
    """

    axis: str
    z: tuple[float, ...]
    main_z: float
    records: tuple[Mapping[str, Any], ...]
    small_train_loss: float = 0.2

    @property
    def places(self) -> tuple[int, ...]:
        """The values on the axis, ascending."""
        return tuple(sorted({record[self.axis] for record in self.records}))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds."""
        return tuple(sorted({record["seed"] for record in self.records}))

    def values(self, quantity: str, *, z: float | None = None) -> Tensor:
        """Return a quantity of all networks.

        Args:
            quantity: A field of the records.
            z: For ``"effective_dimension"``; `main_z` by default.

        Returns:
            Shape ``(places, seeds)``, float64; NaN where there is no such network.

        Raises:
            ValueError: If the effective dimension is not there at this ``z``.
        """
        found = torch.full(
            (len(self.places), len(self.seeds)), math.nan, dtype=torch.float64
        )
        rows = {place: i for i, place in enumerate(self.places)}
        columns = {seed: j for j, seed in enumerate(self.seeds)}
        for record in self.records:
            value = value_of(record, quantity, self.z, self.main_z if z is None else z)
            found[rows[record[self.axis]], columns[record["seed"]]] = value
        return found

    def peak(self, quantity: str, *, z: float | None = None) -> int:
        """Return where on the axis the mean over the seeds is largest."""
        means = self.values(quantity, z=z).nanmean(dim=1)
        return self.places[int(means.nan_to_num(-math.inf).argmax())]

    def peak_distance(self, quantity: str, other: str, *, z: float) -> int:
        """Return how many places lie between two quantities' peaks; 0 for the same."""
        places = [self.peak(name, z=z) for name in (quantity, other)]
        return abs(self.places.index(places[0]) - self.places.index(places[1]))

    def headline(self) -> str:
        """Return the result in one line."""
        return (
            f"{len(self.places)} values of {self.axis}, {len(self.seeds)} seed(s): test "
            f"loss peaks at {self.peak('test_loss')}, N_eff(z = {self.main_z:g}) at "
            f"{self.peak(DIMENSION)}"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a network."""
        return [flat(record, self.z) for record in self.records]

    def __str__(self) -> str:
        return format_table(
            self.headline(), _means(self, (self.axis,)), self.notes, str(self.cost)
        )


@dataclass(frozen=True, kw_only=True)
class DimensionMap(Result):
    """Losses and effective dimension of trained networks over widths and depths.

    Attributes:
        z: As in `DimensionSweep`.
        main_z: As in `DimensionSweep`.
        records: As in `DimensionSweep`, with ``width`` and ``depth``.
        small_train_loss: As in `DimensionSweep`.
    """

    z: tuple[float, ...]
    main_z: float
    records: tuple[Mapping[str, Any], ...]
    small_train_loss: float = 0.2

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths, ascending."""
        return tuple(sorted({record["width"] for record in self.records}))

    @property
    def depths(self) -> tuple[int, ...]:
        """The depths, ascending."""
        return tuple(sorted({record["depth"] for record in self.records}))

    @property
    def num_networks(self) -> int:
        """Pairs of width and depth."""
        return len({(record["width"], record["depth"]) for record in self.records})

    def means(self, quantity: str, *, z: float | None = None) -> Tensor:
        """Return a quantity's means over the seeds, ``(depths, widths)``, float64."""
        at = self.main_z if z is None else z
        cells: dict[tuple[int, int], list[float]] = {}
        for record in self.records:
            place = (
                self.depths.index(record["depth"]),
                self.widths.index(record["width"]),
            )
            cells.setdefault(place, []).append(value_of(record, quantity, self.z, at))
        found = torch.full(
            (len(self.depths), len(self.widths)), math.nan, dtype=torch.float64
        )
        for place, values in cells.items():
            found[place] = sum(values) / len(values)
        return found

    def headline(self) -> str:
        """Return the result in one line."""
        trained = int((self.means("train_loss") < self.small_train_loss).sum())
        return (
            f"{len(self.depths)} depths x {len(self.widths)} widths; {trained} of "
            f"{self.num_networks} networks have a train loss below "
            f"{self.small_train_loss:g}"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a network and seed."""
        return [flat(record, self.z) for record in self.records]

    def __str__(self) -> str:
        return format_table(
            self.headline(),
            _means(self, ("depth", "width")),
            self.notes,
            str(self.cost),
        )


def value_of(
    record: Mapping[str, Any], quantity: str, zs: Sequence[float], z: float
) -> float:
    """Return a field of a record; of the effective dimension that at ``z``.

    Raises:
        ValueError: If there is none at this ``z``.
    """
    if not quantity.startswith(DIMENSION):
        return float(record[quantity])
    for place, there in enumerate(zs):
        if math.isclose(there, z, rel_tol=1e-9):
            return float(record[quantity][place])
    contract = f"be one of {', '.join(f'{there:g}' for there in zs)}"
    raise ValueError(message("z", contract, z))


def flat(record: Mapping[str, Any], zs: Sequence[float]) -> dict[str, Any]:
    """Return a record with a column for each ``z``."""
    row: dict[str, Any] = {}
    for name, value in record.items():
        if name.startswith(DIMENSION):
            row |= {f"{name}_z={z:g}": v for z, v in zip(zs, value, strict=True)}
        else:
            row[name] = value
    return row


def _means(result: DimensionSweep | DimensionMap, axes: tuple[str, ...]) -> list[Any]:
    """Return one row a network with the means over its seeds.

    An estimate stands with its interval, such as ``"80.8 (0 to 231)"``; of several seeds
    with the mean of both ends, as wide as one network's.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for record in result.records:
        groups.setdefault(tuple(record[axis] for axis in axes), []).append(record)
    rows = []
    for place, members in sorted(groups.items()):
        row: dict[str, Any] = dict(zip(axes, place, strict=True))
        row["num_params"] = members[0]["num_params"]
        first = flat(members[0], result.z)
        for name in (
            *LOSSES,
            *_ERRORS,
            *(n for n in first if n.startswith(f"{DIMENSION}_z")),
        ):
            if name in first:
                mean = _mean(members, name, result.z)
                low, high = (
                    name.replace(DIMENSION, f"{DIMENSION}_{end}")
                    for end in ("low", "high")
                )
                row[name.replace(DIMENSION, "n_eff")] = (
                    f"{mean:.4g} ({_mean(members, low, result.z):.4g} to "
                    f"{_mean(members, high, result.z):.4g})"
                    if name.startswith(DIMENSION) and low in first and high in first
                    else mean
                )
        rows.append(row)
    return rows


def _mean(
    members: Sequence[Mapping[str, Any]], name: str, zs: Sequence[float]
) -> float:
    values = [float(flat(member, zs)[name]) for member in members]
    return sum(values) / len(values)
