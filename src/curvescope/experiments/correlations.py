"""Rank correlations, and by a bootstrap how far they can be trusted."""

from collections.abc import Sequence

import numpy as np

from curvescope.results import CorrelationTable, MeasureComparison, RankCorrelation

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
# Of fewer, many resamples are the same few points, and the interval is a certainty.
MIN_GROUPS = 6


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    r"""Return the correlation of the ranks, ties sharing their mean; NaN without spread.

    .. math:: \rho = \operatorname{corr}(\operatorname{rank} x, \operatorname{rank} y)

    Args:
        x: Shape ``(n,)``.
        y: Shape ``(n,)``.

    Returns:
        From -1 to 1.

    Example:
        >>> round(spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0])), 12)
        1.0
    """
    a, b = _centred_ranks(x), _centred_ranks(y)
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0.0 else float("nan")


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: np.ndarray = (last - (counts - 1) / 2.0)[places]
    return np.asarray(ranks - ranks.mean())


def rank_correlation(
    measure: str,
    x: Sequence[float],
    y: Sequence[float],
    *,
    groups: Sequence[object] | None = None,
    among: str = "all",
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> RankCorrelation:
    """Return Spearman's correlation with the percentile interval of a bootstrap.

    Networks that differ in nothing but their seed are no independent witnesses: with
    ``groups`` whole groups are drawn, so that more seeds of the same networks do not
    make the interval narrower than it is.

    Args:
        measure: What ``x`` is called.
        x: The measure; points where it is not finite are left out.
        y: What it is to foretell.
        groups: The group of each point; by default each is its own.
        among: Which points these are, in words.
        seed: Of the resamples.
        num_resamples: How many.

    Returns:
        The correlation with its 95 % interval: from -1 to 1, which says nothing, below
        six groups; all NaN below three points.

    Example:
        >>> found = rank_correlation("x", range(20), range(20))
        >>> found.rank_correlation, found.low, found.high
        (1.0, 1.0, 1.0)

    References:
        Efron, Tibshirani (1993), "An Introduction to the Bootstrap", chapter 13.
    """
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    labels = np.arange(len(a)) if groups is None else _numbered(groups)
    kept = np.isfinite(a) & np.isfinite(b)
    a, b, labels = a[kept], b[kept], labels[kept]
    value, low, high = float("nan"), float("nan"), float("nan")
    if len(a) >= 3:
        value = spearman(a, b)
    if len(a) >= 3 and len(np.unique(labels)) < MIN_GROUPS:
        low, high = (-1.0, 1.0) if np.isfinite(value) else (low, high)
    elif len(a) >= 3:
        drawn = _bootstrap(a, b, labels, num_resamples, seed)
        tail = (1.0 - CONFIDENCE) / 2.0
        finite = drawn[np.isfinite(drawn)]
        if len(finite):
            low, high = (float(q) for q in np.quantile(finite, [tail, 1.0 - tail]))
    return RankCorrelation(
        measure=measure,
        among=among,
        num_points=len(a),
        rank_correlation=value,
        low=low,
        high=high,
    )


def _bootstrap(
    a: np.ndarray, b: np.ndarray, labels: np.ndarray, num_resamples: int, seed: int
) -> np.ndarray:
    """Return the correlation of each resample; NaN where one has no spread."""
    generator = np.random.default_rng(seed)
    _, members = np.unique(labels, return_inverse=True)
    num_groups = int(members.max()) + 1
    chosen = generator.integers(num_groups, size=(num_resamples, num_groups))
    counts = np.stack([np.bincount(row, minlength=num_groups) for row in chosen])
    # A resample is how often each point is in it; its ranks follow from these numbers.
    times = counts[:, members].astype(float)
    x, y = _ranks_within(a, times), _ranks_within(b, times)
    size = np.sqrt((times * x * x).sum(axis=1) * (times * y * y).sum(axis=1))
    size[size == 0.0] = np.nan
    return np.asarray((times * x * y).sum(axis=1) / size)


def _ranks_within(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return each point's centred rank in every resample, shape as ``times``."""
    below = (values[None, :] < values[:, None]) + 0.5 * (
        values[None] == values[:, None]
    )
    ranks = times @ below.T
    mean = (times * ranks).sum(axis=1) / times.sum(axis=1)
    return np.asarray(ranks - mean[:, None])


def correlate(
    comparison: MeasureComparison, *, groups: Sequence[str] = ()
) -> CorrelationTable:
    """Correlate each measure with the target, among all points and the chosen ones.

    Args:
        comparison: Points with their measures.
        groups: Fields that points of one group share; by default each point is its own
            group.

    Returns:
        The table, measures in their order, for each of the comparison's parts.

    Example:
        >>> points = tuple({"x": i, "y": -i} for i in range(9))
        >>> table = correlate(
        ...     MeasureComparison(target="y", measures=("x",), records=points, words={})
        ... )
        >>> table.correlations[0].rank_correlation
        -1.0
    """
    found: list[RankCorrelation] = []
    for among, records in comparison.parts().items():
        labels = [tuple(record[field] for field in groups) for record in records]
        found += [
            rank_correlation(
                comparison.called(measure),
                [record[measure] for record in records],
                [record[comparison.target] for record in records],
                groups=labels if groups else None,
                among=among,
            )
            for measure in comparison.measures
        ]
    unknown = any(row.low == -1.0 and row.high == 1.0 for row in found)
    note = (
        f"an interval from -1 to 1 says nothing: fewer than {MIN_GROUPS} independent "
        "points are too few for a bootstrap"
    )
    return CorrelationTable(
        of=comparison.of,
        cost=comparison.cost,
        settings=comparison.settings,
        notes=(note,) if unknown else (),
        target=comparison.called(comparison.target),
        correlations=tuple(found),
        confidence=CONFIDENCE,
        num_resamples=NUM_RESAMPLES,
    )


def _numbered(groups: Sequence[object]) -> np.ndarray:
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups])
