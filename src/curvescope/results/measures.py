"""Measures of many networks beside what they are to foretell, and how well they do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from curvescope.results.base import Result
from curvescope.results.text import format_table, thinned


@dataclass(frozen=True, kw_only=True)
class MeasureComparison(Result):
    """One record a network (or another point): measures, and what they foretell.

    Attributes:
        target: The field of the records that is to be foretold.
        measures: The fields that may foretell it.
        records: One a network, plain values.
        words: What a field is called in figures, where its name does not do.
        chosen: The field that tells which records are compared, true or false; ``None``
            where all are.
        chosen_words: What these have in common, such as ``"train loss below 0.1"``.
        strata: A field by whose values the chosen records are also compared apart: what
            holds within each may fail, or turn round, among all.
    """

    target: str
    measures: tuple[str, ...]
    records: tuple[Mapping[str, Any], ...]
    words: Mapping[str, str]
    chosen: str | None = None
    chosen_words: str = "all"
    strata: str | None = None

    def called(self, field: str) -> str:
        """Return what a field is called."""
        return self.words.get(field, field.replace("_", " "))

    def is_chosen(self, record: Mapping[str, Any]) -> bool:
        """Tell whether a record is among those that are compared."""
        return self.chosen is None or bool(record[self.chosen])

    def parts(self) -> dict[str, list[Mapping[str, Any]]]:
        """Return the records that are compared with each other, by what they share.

        The chosen ones; then each stratum of them, or else all records.
        """
        chosen = [record for record in self.records if self.is_chosen(record)]
        parts = {self.chosen_words: chosen}
        if self.strata is not None:
            for value in sorted({record[self.strata] for record in chosen}):
                words = f"{self.called(self.strata)} {value:g}"
                parts[words] = [r for r in chosen if r[self.strata] == value]
        elif self.chosen is not None:
            parts["all"] = list(self.records)
        return parts

    def headline(self) -> str:
        """Return the result in one line."""
        count = sum(map(self.is_chosen, self.records))
        return (
            f"{len(self.records)} points, {count} of them compared "
            f"({self.chosen_words}): {self.called(self.target)} beside "
            f"{len(self.measures)} measures"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a record."""
        return [dict(record) for record in self.records]

    def __str__(self) -> str:
        rows, note = thinned(self.rows())
        return format_table(self.headline(), rows, (*self.notes, *note), str(self.cost))


@dataclass(frozen=True, kw_only=True)
class RankCorrelation:
    """Spearman's correlation of a measure with the target, with an interval.

    Attributes:
        measure: The measure.
        among: Which points.
        num_points: How many.
        rank_correlation: From -1 to 1; NaN where one side does not vary.
        low: Lower end of the bootstrap's interval; -1 where the points are too few.
        high: Upper end; 1 where they are too few.
    """

    measure: str
    among: str
    num_points: int
    rank_correlation: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class CorrelationTable(Result):
    """Rank correlations of measures with a target, each with a bootstrap's interval.

    Attributes:
        target: What is to be foretold, in words.
        correlations: One a measure and group of points.
        confidence: Of the intervals.
        num_resamples: Of the bootstrap.
    """

    NESTED: ClassVar[Mapping[str, type]] = {"correlations": RankCorrelation}
    target: str
    correlations: tuple[RankCorrelation, ...]
    confidence: float = 0.95
    num_resamples: int = 0

    def headline(self) -> str:
        """Return the result in one line."""
        return (
            f"rank correlations with {self.target}, {100 * self.confidence:g} % "
            f"intervals from {self.num_resamples} bootstrap samples"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a measure and group of points."""
        return [dict(vars(row)) for row in self.correlations]
