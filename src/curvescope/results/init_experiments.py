"""Layers' Hessian norms at initialisations and along trainings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from curvescope.results.base import Result
from curvescope.results.text import format_table

PARTS = ("whole", "linearisation", "curvature")
Records = tuple[Mapping[str, Any], ...]


def norm_column(layer: str, part: str = "whole") -> str:
    """Return the column of a layer's norm.

    Example:
        >>> norm_column("linear1"), norm_column("linear1", "curvature")
        ('linear1_norm', 'linear1_curvature_norm')
    """
    return f"{layer}_norm" if part == "whole" else f"{layer}_{part}_norm"


@dataclass(frozen=True, kw_only=True)
class _LayerNorms(Result):
    """What the results with one record a network and moment share.

    Attributes:
        records: One a network and moment: ``sd``, ``seed``, ``loss`` on the probe batch,
            and for every layer ``LAYER_norm``, ``LAYER_linearisation_norm`` and
            ``LAYER_curvature_norm``, Frobenius norms of its own block; ``None`` where a
            training diverged.
        layers: The layers, first to last.
        num_probe: Samples of the batch at which loss and norms are taken.
    """

    records: Records
    layers: tuple[str, ...]
    num_probe: int

    @property
    def sds(self) -> tuple[float, ...]:
        """The standard deviations, ascending."""
        return tuple(sorted({record["sd"] for record in self.records}))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds."""
        return tuple(sorted({record["seed"] for record in self.records}))


@dataclass(frozen=True, kw_only=True)
class InitScan(_LayerNorms):
    """Losses and layers' Hessian norms of untrained networks against the weights' sd.

    Attributes:
        vary: Which layers have the sd: ``"layer1"``, the others being Glorot's, or
            ``"all"``.
        power: Where all layers vary: the exponent of the sd in every layer's norm while
            the predictions are uniform, ``2 (L - 1)``; ``None`` without such a law.
    """

    vary: Literal["layer1", "all"]
    power: int | None = None

    def values(self, column: str) -> Tensor:
        """Return a column, shape ``(sds, seeds)``, float64."""
        found = torch.full(
            (len(self.sds), len(self.seeds)), math.nan, dtype=torch.float64
        )
        for record in self.records:
            place = self.sds.index(record["sd"]), self.seeds.index(record["seed"])
            found[place] = _number(record[column])
        return found

    def headline(self) -> str:
        """Return the result in one line."""
        first = norm_column(self.layers[0])
        means = self.values(first).nanmean(dim=1)
        which = "layer 1" if self.vary == "layer1" else "all layers"
        return (
            f"sd of {which} from {self.sds[0]:g} to {self.sds[-1]:g}: the Hessian norm of "
            f"{self.layers[0]} is from {float(means.min()):.3g} to {float(means.max()):.3g}"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a network."""
        return [dict(record) for record in self.records]

    def means(self) -> list[dict[str, Any]]:
        """Return one row a standard deviation: means and deviations over the seeds."""
        columns = ("loss", *(norm_column(layer) for layer in self.layers))
        values = {column: self.values(column) for column in columns}
        table = []
        for place, sd in enumerate(self.sds):
            row: dict[str, Any] = {"sd": sd}
            for column in columns:
                row |= _mean_and_sd(column, values[column][place].tolist())
            table.append(row)
        return table

    def __str__(self) -> str:
        return format_table(self.headline(), self.means(), self.notes, str(self.cost))


@dataclass(frozen=True, kw_only=True)
class InitTraining(_LayerNorms):
    """Loss and layers' Hessian norms along trainings from several initial weights.

    Every record has further ``batches``: ``"fresh"`` (each step new samples) or
    ``"same"`` (every step the same few), ``iteration``, ``hessian_norm``, that of the
    first layer's kernel, ``trained_loss``, on the samples that the steps draw from,
    ``test_loss`` and ``test_accuracy``.

    Attributes:
        batch_size: Samples of a step.
    """

    batch_size: int

    @property
    def iterations(self) -> tuple[int, ...]:
        """The moments, ascending."""
        return tuple(sorted({record["iteration"] for record in self.records}))

    @property
    def batches(self) -> tuple[str, ...]:
        """The kinds of batches."""
        return tuple(dict.fromkeys(record["batches"] for record in self.records))

    def curve(self, column: str, *, sd: float, batches: str) -> Tensor:
        """Return a column of one kind of training, shape ``(seeds, iterations)``."""
        shape = (len(self.seeds), len(self.iterations))
        found = torch.full(shape, math.nan, dtype=torch.float64)
        rows = {seed: i for i, seed in enumerate(self.seeds)}
        columns = {step: j for j, step in enumerate(self.iterations)}
        for record in self.records:
            if record["sd"] == sd and record["batches"] == batches:
                place = rows[record["seed"]], columns[record["iteration"]]
                found[place] = _number(record[column])
        return found

    def peak(self, *, sd: float, batches: str) -> int:
        """Return at which iteration the median norm of the first layer is largest."""
        norms = self.curve("hessian_norm", sd=sd, batches=batches)
        medians = norms.nanquantile(0.5, dim=0)
        return self.iterations[int(medians.nan_to_num(-math.inf).argmax())]

    def headline(self) -> str:
        """Return the result in one line."""
        peaks = ", ".join(
            f"{self.peak(sd=sd, batches=kind)} ({kind} batches, sd {sd:g})"
            for kind in self.batches
            for sd in self.sds
        )
        return (
            f"{self.iterations[-1]} iterations, {len(self.seeds)} seed(s): the Hessian "
            f"norm of {self.layers[0]} is largest at {peaks}"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a network and moment: the published columns, then ours."""
        return [dict(record) for record in self.records]

    def medians(self, *, most: int = 6) -> list[dict[str, Any]]:
        """Return medians over the seeds at a few moments, evenly spaced.

        Args:
            most: Moments of each kind of training.
        """
        count = len(self.iterations)
        most = min(most, count)
        places = [round(i * (count - 1) / max(most - 1, 1)) for i in range(most)]
        columns = ("loss", "hessian_norm", "trained_loss", "test_loss", "test_accuracy")
        table = []
        for kind in self.batches:
            for sd in self.sds:
                curves = {
                    column: self.curve(column, sd=sd, batches=kind)
                    for column in columns
                }
                for place in places:
                    row = {
                        "sd": sd,
                        "batches": kind,
                        "iteration": self.iterations[place],
                    }
                    for column, curve in curves.items():
                        row[column] = float(curve[:, place].nanquantile(0.5))
                    table.append(row)
        return table

    def __str__(self) -> str:
        rows = self.medians()
        return format_table(self.headline(), rows, self.notes, str(self.cost))


def summary_rows(training: InitTraining) -> list[dict[str, Any]]:
    """Return one row a kind of training, over all iterations and seeds.

    That is what grouping the published table by sd gives; and first, largest and last
    norm, each the median over the seeds.
    """
    table = []
    for kind in training.batches:
        for sd in training.sds:
            row: dict[str, Any] = {"sd": sd, "batches": kind}
            for column in ("loss", "hessian_norm"):
                curve = training.curve(column, sd=sd, batches=kind)
                row |= _mean_and_sd(column, curve.flatten().tolist())
            curve = training.curve("hessian_norm", sd=sd, batches=kind)
            medians = curve.nanquantile(0.5, dim=0)
            row["first_norm"] = float(medians[0])
            row["largest_norm"] = float(medians.nan_to_num(-math.inf).max())
            row["at_iteration"] = training.peak(sd=sd, batches=kind)
            row["last_norm"] = float(medians[-1])
            table.append(row)
    return table


@dataclass(frozen=True, kw_only=True)
class InitSummary(Result):
    """Loss and Hessian norm by standard deviation: means and deviations.

    Attributes:
        table: One row a standard deviation and kind of batches.
    """

    table: Records

    def headline(self) -> str:
        """Return the result in one line."""
        return f"{len(self.table)} kinds of training, over all iterations and seeds"

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a kind of training."""
        return [dict(row) for row in self.table]


@dataclass(frozen=True, kw_only=True)
class InitComparison(Result):
    """Trainings that differ in their initial weights only.

    Attributes:
        schemes: The initialisations.
        layers: The layers, first to last.
        records: One a network and moment: ``scheme``, ``seed``, ``iteration``,
            ``train_loss``, ``test_loss``, ``test_accuracy``; ``None`` once diverged.
        starts: One an untrained network: ``scheme``, ``seed``, ``loss``, and norms by
            layer.
    """

    CURVES: ClassVar[tuple[str, ...]] = ("train_loss", "test_loss", "test_accuracy")

    schemes: tuple[str, ...]
    layers: tuple[str, ...]
    records: Records
    starts: Records = field(default_factory=tuple)

    @property
    def iterations(self) -> tuple[int, ...]:
        """The moments, ascending."""
        return tuple(sorted({record["iteration"] for record in self.records}))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds."""
        return tuple(sorted({record["seed"] for record in self.records}))

    def curve(self, column: str, scheme: str) -> Tensor:
        """Return a column of one scheme, shape ``(seeds, iterations)``, float64."""
        shape = (len(self.seeds), len(self.iterations))
        found = torch.full(shape, math.nan, dtype=torch.float64)
        rows = {seed: i for i, seed in enumerate(self.seeds)}
        columns = {step: j for j, step in enumerate(self.iterations)}
        for record in self.records:
            if record["scheme"] == scheme:
                place = rows[record["seed"]], columns[record["iteration"]]
                found[place] = _number(record[column])
        return found

    def norms(self, scheme: str, part: str = "whole") -> Tensor:
        """Return the layers' norms of the untrained networks, ``(seeds, layers)``."""
        rows = sorted(
            (r for r in self.starts if r["scheme"] == scheme), key=lambda r: r["seed"]
        )
        columns = [norm_column(layer, part) for layer in self.layers]
        values = [[_number(row[column]) for column in columns] for row in rows]
        return torch.tensor(values, dtype=torch.float64)

    def spread(self, scheme: str) -> float:
        """Return the largest over the smallest layer's norm, the mean over the seeds."""
        norms = self.norms(scheme)
        return float((norms.amax(dim=1) / norms.amin(dim=1)).nanmean())

    def headline(self) -> str:
        """Return the result in one line."""
        last = {
            s: float(self.curve("test_loss", s)[:, -1].mean()) for s in self.schemes
        }
        finite = {s: value for s, value in last.items() if math.isfinite(value)}
        if not finite:
            return f"{len(self.schemes)} initialisations; all trainings diverged"
        best = min(finite, key=lambda s: finite[s])
        return (
            f"{len(self.schemes)} initialisations, {len(self.seeds)} seed(s): the last "
            f"test loss is lowest from {best} ({finite[best]:.4g})"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a network and moment."""
        return [dict(record) for record in self.records]

    def __str__(self) -> str:
        table = []
        for scheme in self.schemes:
            row: dict[str, Any] = {"scheme": scheme}
            for column in self.CURVES:
                row |= _mean_and_sd(column, self.curve(column, scheme)[:, -1].tolist())
            row["norm_spread"] = self.spread(scheme)
            table.append(row)
        return format_table(self.headline(), table, self.notes, str(self.cost))


@dataclass(frozen=True, kw_only=True)
class InitRanking(Result):
    """Initialisations in the order of what their trainings reached.

    Attributes:
        quantity: What is compared; lower is better.
        confidence: Of all intervals.
        table: One row a scheme, best first: ``scheme``, ``mean``, ``low`` and ``high``
            (Student's t over the seeds), ``difference`` from the best scheme, paired over
            the seeds, with ``difference_low`` and ``difference_high``, ``rank`` with
            ``rank_low`` and ``rank_high`` (a bootstrap over the seeds), and ``diverged``.
        num_seeds: Pairs.
    """

    quantity: str
    confidence: float
    table: Records
    num_seeds: int

    def headline(self) -> str:
        """Return the result in one line."""
        best = self.table[0]
        if best["mean"] is None:
            return f"{self.quantity}: trainings of every scheme diverged"
        level = [
            row["scheme"]
            for row in self.table[1:]
            if row["difference_low"] is not None and row["difference_low"] <= 0.0
        ]
        same = f"; not told apart from it: {', '.join(level)}" if level else ""
        return f"lowest {self.quantity}: {best['scheme']} ({best['mean']:.4g}){same}"

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a scheme."""
        return [dict(row) for row in self.table]


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _mean_and_sd(name: str, values: Sequence[float]) -> dict[str, float]:
    """Return mean and sample deviation of the finite values."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return {name: math.nan, f"{name}_sd": math.nan}
    mean = sum(finite) / len(finite)
    rest = sum((value - mean) ** 2 for value in finite)
    deviation = math.sqrt(rest / (len(finite) - 1)) if len(finite) > 1 else math.nan
    return {name: mean, f"{name}_sd": deviation}
