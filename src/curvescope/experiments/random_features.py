"""Double descent of least squares on random features: errors beside N_eff.

The published figure calls "effective dimensionality" what is left of it: the number of
directions that the data span, less their effective dimension. Both are recorded here
under their own names.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from curvescope._core.checks import message, positive_int, real
from curvescope._core.progress import track
from curvescope.experiments.base import (
    Experiment,
    Plan,
    PlannedRuns,
    Preset,
    decisive,
    filled,
)
from curvescope.experiments.correlations import correlate
from curvescope.results import (
    Cost,
    MeasureComparison,
    Provenance,
    RandomFeaturesCurve,
    Result,
)
from curvescope.results.random_features import CURVES

_FIRST, _STEP = 5, 2
_INFORMATIVE = 1000
_MEASURES = ("undetermined_dimension", "effective_dimension", "num_features")
# As published; more features than samples, overparameterised, is something else.
_CHOSEN = "more_features_than_half_the_samples"
_LABEL_NOTE = (
    "what the published figure plots as effective dimensionality is "
    "`undetermined_dimension`; the effective dimension itself has no peak"
)
# Multiplications per second of a small decomposition, on one core of a laptop.
_RATE = 2e9


@dataclass(frozen=True, kw_only=True)
class RandomFeatures:
    """Errors and effective dimension against the number of random features."""

    PRESETS: ClassVar[dict[str, dict[str, int]]] = {
        "small": {"num_samples": 200, "max_features": 399},
        "paper": {"num_samples": 200, "max_features": 399},
    }

    preset: Preset = "small"
    """Both are the published setting, which takes seconds."""
    num_samples: int | None = None
    """Training samples, and as many test samples; 200 as published."""
    max_features: int | None = None
    """Features are counted 5, 7, 9, ... up to this; 399 as published."""
    regularisation: float = 0.001
    """Per sample: z is this times the number of samples."""
    draws: int = 1
    """Draws of all data; several give the figure a band."""
    seed: int = 88
    """Of the first draw; 88 as published."""


def random_features(
    config: RandomFeatures, *, folder: Path | None = None
) -> dict[str, Result]:
    r"""Fit least squares of minimal norm on ever more random features.

    Targets are standard normal, features are the target plus standard normal noise. With
    d features, n samples and :math:`z = \lambda n`,

    .. math:: N_\text{eff}(X^\top X, z) = \sum_i \frac{s_i^2}{s_i^2 + z},\qquad
        \text{undetermined} = \min(n, d) - N_\text{eff}

    Args:
        config: The setting; the defaults are the published one.
        folder: Not used: the whole takes seconds.

    Returns:
        The curve ``random_features``, its points as ``comparison``, and the
        ``correlations`` of the dimensions with the test error.

    Raises:
        ValueError: If the configuration is wrong.

    Cost:
        One SVD a number of features: about 3 s in all at the published size.

    Example:
        >>> config = RandomFeatures(num_samples=20, max_features=39)
        >>> random_features(config)["random_features"].peak("undetermined_dimension")[0]
        21

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, and its published notebook.
    """
    del folder
    check(config)
    config = filled(config)
    assert config.num_samples is not None
    assert config.max_features is not None
    began = time.perf_counter()
    seeds = tuple(range(config.seed, config.seed + config.draws))
    counts = _counts(config.max_features)
    table = np.empty((len(seeds), len(counts), len(CURVES)))
    z = config.regularisation * config.num_samples
    with track("random features", total=len(seeds) * len(counts)) as task:
        for draw, seed in enumerate(seeds):
            # One stream a draw, whose values are used in ascending order of features.
            stream = np.random.RandomState(seed)
            for place, count in enumerate(counts):
                table[draw, place] = _measure(stream, config.num_samples, count, z)
                task.advance()
    columns = torch.from_numpy(table).unbind(dim=2)
    curve = RandomFeaturesCurve(
        of=_provenance(config),
        cost=Cost(seconds=time.perf_counter() - began),
        settings=decisive(config),
        notes=(_LABEL_NOTE,),
        num_samples=config.num_samples,
        z=z,
        num_features=torch.tensor(counts),
        seeds=seeds,
        **{name: c.clone() for name, c in zip(CURVES, columns, strict=True)},
    )
    comparison = _comparison(curve)
    return {
        "random_features": curve,
        "comparison": comparison,
        "correlations": correlate(comparison),
    }


def draw(
    stream: np.random.RandomState, num_samples: int, num_features: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw features and targets, in the published order: targets first.

    Args:
        stream: Where the numbers come from.
        num_samples: n.
        num_features: d.

    Returns:
        Features ``(n, d)`` and targets ``(n,)``; the target is added to the first 1,000
        features.

    Example:
        >>> X, y = draw(np.random.RandomState(0), 3, 2)
        >>> X.shape, y.shape
        ((3, 2), (3,))
    """
    y = stream.standard_normal(num_samples)
    X = stream.standard_normal((num_samples, num_features))
    X[:, :_INFORMATIVE] += y[:, None]
    return X, y


def _measure(
    stream: np.random.RandomState, num_samples: int, num_features: int, z: float
) -> tuple[float, float, float, float]:
    """Return one point's numbers, in the order of `CURVES`."""
    X, y = draw(stream, num_samples, num_features)
    X_test, y_test = draw(stream, num_samples, num_features)
    U, s, Vt = np.linalg.svd(X, full_matrices=False)
    w = Vt.T @ ((U.T @ y) / s)
    left, kept = z / (s**2 + z), s**2 / (s**2 + z)
    return (
        float(left.sum()),
        float(kept.sum()),
        float(np.linalg.norm(X @ w - y) / np.linalg.norm(y)),
        float(np.linalg.norm(X_test @ w - y_test) / np.linalg.norm(y_test)),
    )


def _counts(largest: int) -> list[int]:
    return list(range(_FIRST, largest + 1, _STEP))


def _provenance(config: RandomFeatures) -> Provenance:
    assert config.max_features is not None
    return Provenance(
        matrix="X'X",
        description=(
            f"least squares on up to {config.max_features} random features, "
            f"{config.num_samples} samples"
        ),
        reduction="sum",
        unit="squared feature, summed over the samples",
        num_params=config.max_features,
        num_samples=config.num_samples,
    )


def _comparison(curve: RandomFeaturesCurve) -> MeasureComparison:
    n = curve.num_samples
    seeds = [seed for seed in curve.seeds for _ in curve.num_features]
    records = tuple(
        {"seed": seed, _CHOSEN: row["num_features"] > n / 2}
        | {key: value for key, value in row.items() if key != "seed"}
        for seed, row in zip(seeds, curve.rows(), strict=True)
    )
    return MeasureComparison(
        of=curve.of,
        cost=curve.cost,
        settings=curve.settings,
        target="test_error",
        measures=_MEASURES,
        records=records,
        words={
            "test_error": "test error",
            "undetermined_dimension": "undetermined dimension min(n, d) \u2212 N_eff",
            "effective_dimension": "effective dimension N_eff",
            "num_features": "number of features d",
        },
        chosen=_CHOSEN,
        chosen_words=f"more than {n // 2} features",
    )


def check(config: RandomFeatures) -> None:
    """Check a configuration.

    Raises:
        ValueError: If a value is out of range.
    """
    config = filled(config)
    positive_int("num_samples", config.num_samples, minimum=2)
    largest = positive_int("max_features", config.max_features)
    if largest < _FIRST:
        raise ValueError(message("max_features", f"be at least {_FIRST}", largest))
    real("regularisation", config.regularisation, minimum=0.0, strict=True)
    positive_int("draws", config.draws)
    positive_int("seed", config.seed, minimum=0)


def plan(config: RandomFeatures) -> Plan:
    """Say what a configuration will cost."""
    config = filled(config)
    assert config.num_samples is not None
    assert config.max_features is not None
    n, counts = config.num_samples, _counts(config.max_features)
    operations = sum(12.0 * n * d * min(n, d) for d in counts)
    row = PlannedRuns(
        what=f"least squares, {counts[0]} to {counts[-1]} features",
        runs=config.draws * len(counts),
        num_params=counts[-1],
        hours=config.draws * operations / _RATE / 3600.0,
    )
    basis = "one CPU core; both presets are the published setting"
    return Plan(rows=(row,), basis=basis)


EXPERIMENT = Experiment(
    name="random-features",
    config=RandomFeatures,
    run=random_features,
    check=check,
    plan=plan,
    summary="Double descent of least squares on random features, beside N_eff.",
)
