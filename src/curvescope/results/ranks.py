"""Ranks: one, the three of a problem beside the theory, and sweeps of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor

from curvescope._core.predictions import PredictedRank
from curvescope.results.base import Result

MATRICES = ("hessian", "ggn", "functional")


@dataclass(frozen=True, kw_only=True)
class RankEstimate(Result):
    """A numerical rank and the gap that it was read from.

    Attributes:
        rank: Number of singular values above ``tolerance``.
        gap: Ratio of the last singular value kept to the first one dropped.
        tolerance: Absolute threshold.
        certain: Whether the gap is wide, no value lies near the threshold, and nothing
            that was computed besides (factor, certificate) disagrees.
        singular_values: All of them that are not zero by structure, descending.
        method: What was decomposed: ``"matrix"``, ``"factor"`` (its singular values are
            square roots of the matrix's), ``"compressed"``, ``"quadrature"``.
        certified: The exact rank at the weights and data as they are stored, from
            arithmetic modulo primes; ``None`` where there is no certificate.
        primes: The primes of the certificate.
        standard_error: Of the rank, where it is an estimate from random probes.
    """

    rank: int
    gap: float
    tolerance: float
    certain: bool
    singular_values: Tensor
    method: str = "matrix"
    certified: int | None = None
    primes: tuple[int, ...] = ()
    standard_error: float = 0.0

    @property
    def verdict(self) -> Literal["certified", "certain", "undetermined", "estimated"]:
        """How sure: exact arithmetic agrees, the gap is clear, neither, or by probes."""
        if self.method == "quadrature":
            return "estimated"
        if not self.certain:
            return "undetermined"
        return "certified" if self.certified == self.rank else "certain"

    @property
    def kept(self) -> float:
        """The last singular value kept, relative to the largest."""
        return self._relative(self.rank - 1)

    @property
    def dropped(self) -> float:
        """The first singular value dropped, relative to the largest."""
        return self._relative(self.rank)

    def _relative(self, index: int) -> float:
        values = self.singular_values
        if not 0 <= index < len(values) or float(values[0]) == 0.0:
            return 0.0
        return float(values[index] / values[0])

    def headline(self) -> str:
        """Return the result in one line."""
        error = f" +- {self.standard_error:.2g}" if self.standard_error else ""
        proof = "" if self.certified is None else f", exact rank {self.certified}"
        gap = f", gap {self.gap:.3g}"
        if math.isinf(self.gap):
            # What is zero by the structure of the matrix was never computed.
            gap = ", all else is zero by structure" if self.rank else ""
        if math.isnan(self.gap):
            gap = ""
        return f"rank {self.rank}{error} ({self.verdict}{gap}{proof})"


@dataclass(frozen=True, kw_only=True)
class RankReport(Result):
    """Ranks of H, GGN and functional Hessian, beside what theory says.

    Attributes:
        hessian: Rank of H.
        ggn: Rank of the GGN, the outer-product part.
        functional: Rank of the functional Hessian.
        predictions: One a matrix and claim, at the facts as float64 tells them: to be
            compared with measured ranks.
        eigenvalues: Of H, descending, float64; empty where they were not computed.
        facts: What the predictions were computed from, in the glossary's words:
            ``num_params``, ``num_samples``, ``widths``, ``activation``, ``bias``,
            ``input_rank`` r, ``output_rank`` k, ``residual_rank`` s, ``bottleneck`` q.
        exact_predictions: Likewise at the facts of the stored numbers without rounding:
            to be compared with certified ranks. Empty without a certificate.
    """

    NESTED: ClassVar[Mapping[str, type]] = {
        "predictions": PredictedRank,
        "exact_predictions": PredictedRank,
    }
    hessian: RankEstimate
    ggn: RankEstimate
    functional: RankEstimate
    predictions: tuple[PredictedRank, ...]
    eigenvalues: Tensor
    facts: Mapping[str, Any] = field(default_factory=dict)
    exact_predictions: tuple[PredictedRank, ...] = ()

    @property
    def measured(self) -> dict[str, RankEstimate]:
        """The three ranks by the matrix's name."""
        return {name: getattr(self, name) for name in MATRICES}

    @property
    def predicted(self) -> dict[str, PredictedRank]:
        """The prediction of each matrix, by its name."""
        return {p.matrix: p for p in self.predictions}

    @property
    def certified_predictions(self) -> dict[str, PredictedRank]:
        """What theory says of each certified rank, by the matrix's name."""
        return {p.matrix: p for p in self.exact_predictions}

    @property
    def agrees(self) -> bool:
        """Whether every measured rank is what theory claims."""
        return all(
            prediction.agrees(getattr(self, prediction.matrix).rank)
            for prediction in self.predictions
        )

    def headline(self) -> str:
        """Return the result in one line."""
        ranks = ", ".join(f"{name} {r.rank}" for name, r in self.measured.items())
        return f"ranks of {self.of.description}: {ranks}"

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a matrix."""
        return [self._row(name, rank) for name, rank in self.measured.items()]

    def _row(self, name: str, rank: RankEstimate) -> dict[str, Any]:
        prediction = self.predicted.get(name)
        exact = self.certified_predictions.get(name)
        return {
            "matrix": name,
            "rank": rank.rank,
            "standard_error": rank.standard_error,
            "verdict": rank.verdict,
            "gap": rank.gap,
            "smallest_kept": rank.kept,
            "largest_dropped": rank.dropped,
            "certified_rank": rank.certified,
            "certified_prediction": None if exact is None else exact.value,
            "predicted_rank": None if prediction is None else prediction.value,
            "claim": None if prediction is None else prediction.claim,
            "status": None if prediction is None else prediction.status,
            "agrees": None if prediction is None else prediction.agrees(rank.rank),
            "num_params": self.facts.get("num_params"),
        }


@dataclass(frozen=True, kw_only=True)
class RankSweep(Result):
    """Ranks along one axis, for several seeds.

    Attributes:
        axis: ``"num_samples"``, ``"width"``, ``"depth"`` or ``"epoch"``.
        records: One a point and seed: the axis' value under the axis' name, ``seed``,
            ``num_params``, and for each matrix NAME of `MATRICES` ``NAME_rank``,
            ``NAME_verdict``, ``NAME_certified``, ``NAME_predicted``, ``NAME_claim``.
    """

    axis: str
    records: tuple[Mapping[str, Any], ...]

    def headline(self) -> str:
        """Return the result in one line."""
        values = sorted({record[self.axis] for record in self.records})
        seeds = len({record["seed"] for record in self.records})
        return f"ranks at {len(values)} values of {self.axis}, {seeds} seed(s)"

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a point and seed."""
        return [dict(record) for record in self.records]


@dataclass(frozen=True, kw_only=True)
class SpectrumComparison(Result):
    """Sorted eigenvalues of several matrices of one size on one axis.

    Attributes:
        eigenvalues: By label, each descending by magnitude, float64.
        predicted: Predicted rank by label, where a theory gives one.
    """

    eigenvalues: Mapping[str, Tensor]
    predicted: Mapping[str, int] = field(default_factory=dict)

    def headline(self) -> str:
        """Return the result in one line."""
        return f"sorted eigenvalues: {', '.join(self.eigenvalues)}"


@dataclass(frozen=True, kw_only=True)
class BlockPicture(Result):
    """H, GGN and functional Hessian as pictures with the layers' borders.

    Attributes:
        pictures: Magnitudes of entries by matrix name, reduced to at most a few hundred
            pixels a side by the maximum over each pixel; shape ``(s, s)``.
        borders: Where each layer begins and ends, as fractions of the side, ascending
            from 0 to 1; one more than layers.
        layers: The layers' names.
        norms: Frobenius norms of all blocks by matrix name, ``(layers, layers)``.
        ranks: Numerical ranks of all blocks, likewise.
    """

    pictures: Mapping[str, Tensor]
    borders: tuple[float, ...]
    layers: tuple[str, ...]
    norms: Mapping[str, Tensor]
    ranks: Mapping[str, Tensor] = field(default_factory=dict)

    def headline(self) -> str:
        """Return the result in one line."""
        return f"blocks of {', '.join(self.pictures)} over {len(self.layers)} layers"

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a matrix and pair of layers."""
        return [
            {
                "matrix": matrix,
                "layer": row,
                "other_layer": column,
                "frobenius_norm": float(norms[i, j]),
                "rank": int(self.ranks[matrix][i, j]) if matrix in self.ranks else None,
            }
            for matrix, norms in self.norms.items()
            for i, row in enumerate(self.layers)
            for j, column in enumerate(self.layers)
            if j <= i
        ]
