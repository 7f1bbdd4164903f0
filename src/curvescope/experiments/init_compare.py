"""Trainings that differ in nothing but their initial weights, and who came out best.

Every scheme has the same seeds, the same order of the samples and, up to its scale, the
same draws: differences are taken pair by pair, seed by seed.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from curvescope._core.checks import message, one_of, real
from curvescope.experiments import init_nets
from curvescope.experiments.base import Experiment, Plan, decisive, filled
from curvescope.experiments.init_nets import InitPoint
from curvescope.experiments.init_settings import InitSettings, check_settings
from curvescope.experiments.sweep import run_points
from curvescope.results import (
    Cost,
    InitComparison,
    InitRanking,
    Result,
    student_t_quantile,
)

Quantity = Literal["test_loss", "train_loss", "test_error", "mean_train_loss"]
_QUANTITIES = {
    "test_loss": "last test loss",
    "train_loss": "last train loss",
    "test_error": "last test error",
    "mean_train_loss": "train loss, mean over the training",
}
SCHEMES = (
    "glorot",
    "he",
    "lecun",
    "orthogonal",
    "uniform",
    "fan_in_uniform",
    "normal",
    "formula",
    "balanced",
)
_CONFIDENCE = 0.95
_RESAMPLES = 4000


@dataclass(frozen=True, kw_only=True)
class InitCompare(InitSettings):
    """Training curves from several initialisations, and their order."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {
            "data": "digits",
            "seeds": 8,
            "steps": 1000,
            "every": 50,
            "num_train": 10_000,
        },
        "paper": {
            "data": "mnist",
            "seeds": 20,
            "steps": 5000,
            "every": 100,
            "num_train": 60_000,
        },
    }

    learning_rate: float = 0.1
    """For the mean loss of a batch, the same for all."""
    schemes: tuple[str, ...] = SCHEMES
    """Initialisations, such as he lecun balanced."""
    sd: float = 0.1
    """Of the scheme normal."""
    quantity: Quantity = "test_loss"
    """By what they are ordered; lower is better."""


def init_compare(
    config: InitCompare, *, folder: Path | None = None
) -> dict[str, Result]:
    """Train networks that differ in their initial weights only, and order the schemes.

    Args:
        config: The setting.
        folder: Where finished networks are kept, so that a later call goes on there.

    Returns:
        The curves and initial norms as ``init_compare``, and the ``ranking``.

    Raises:
        PointError: If a network failed; finished ones are saved.
        ValueError: If the configuration is wrong.

    Cost:
        Some ten seconds on two cores (small); see `plan`.

    Example:
        >>> config = InitCompare(
        ...     hidden=(4,), schemes=("he", "lecun"), seeds=2, steps=2, every=1,
        ...     num_probe=50, jobs=1,
        ... )
        >>> init_compare(config)["init_compare"].iterations
        (0, 1, 2)

    References:
        Skorski, Temperoni, Theobald (2021), arXiv:2004.09506.
    """
    check(config)
    config = filled(config)
    began = time.perf_counter()
    points = points_of(config)
    found = run_points(
        list(points.values()),
        init_nets.measure,
        folder=folder,
        version=init_nets.VERSION,
        jobs=config.jobs,
        seconds=init_nets.guess_seconds,
        memory=init_nets.guess_memory,
        description="initialisations",
    )
    records, starts = [], []
    for scheme, value in zip(points, found, strict=True):
        for record in value["records"]:
            row = {"scheme": scheme, "train_loss": record["trained_loss"], **record}
            if record["iteration"] == 0:
                starts.append(row)
            kept = ("scheme", "seed", "iteration", *InitComparison.CURVES)
            records.append({name: row[name] for name in kept})
    first = next(iter(points.values()))
    lost = init_nets.doubts([r | {"loss": r["train_loss"]} for r in records])
    shared: dict[str, Any] = {
        "of": init_nets.provenance([first], "several initialisations"),
        "cost": Cost(seconds=time.perf_counter() - began),
        "settings": decisive(config),
        "notes": (*init_nets.sets_of(first).notes, *lost),
    }
    comparison = InitComparison(
        schemes=tuple(points),
        layers=tuple(found[0]["layers"]),
        records=tuple(records),
        starts=tuple(starts),
        **shared,
    )
    ranking = InitRanking(
        quantity=_QUANTITIES[config.quantity],
        confidence=_CONFIDENCE,
        table=tuple(ordered(reached(comparison, config.quantity))),
        num_seeds=len(comparison.seeds),
        **shared,
    )
    return {"init_compare": comparison, "ranking": ranking}


def reached(comparison: InitComparison, quantity: str) -> dict[str, list[float]]:
    """Return what every training reached, by scheme, seed after seed.

    Args:
        comparison: The curves.
        quantity: ``"test_loss"``, ``"train_loss"``, ``"test_error"`` at the end, or
            ``"mean_train_loss"`` over all moments.

    Returns:
        Numbers; infinite where a training diverged.
    """
    column = {"test_error": "test_accuracy", "mean_train_loss": "train_loss"}
    found = {}
    for scheme in comparison.schemes:
        curve = comparison.curve(column.get(quantity, quantity), scheme)
        values = curve.mean(dim=1) if quantity == "mean_train_loss" else curve[:, -1]
        if quantity == "test_error":
            values = 1.0 - values
        found[scheme] = values.nan_to_num(math.inf, math.inf).tolist()
    return found


def ordered(values: dict[str, list[float]], *, seed: int = 0) -> list[dict[str, Any]]:
    """Order schemes by their means, with what the seeds tell of the uncertainty.

    Differences from the best one are paired; ranks have a percentile interval of a
    bootstrap that draws seeds, the same for all schemes. A scheme of which one training
    diverged comes last, without intervals.

    Args:
        values: Numbers of every scheme, one a seed, lower being better.
        seed: Of the resamples.

    Returns:
        Rows of an `InitRanking`.

    Example:
        >>> rows = ordered({"a": [1.0, 2.0, 3.0], "b": [2.0, 3.1, 3.9]})
        >>> [(row["scheme"], row["rank"]) for row in rows]
        [('a', 1), ('b', 2)]
        >>> round(rows[1]["difference"], 9)
        1.0
    """
    X = np.array(list(values.values()))
    names = list(values)
    means = X.mean(axis=1)
    order = [int(i) for i in np.argsort(means, kind="stable")]
    best = order[0]
    drawn = np.random.default_rng(seed).integers(
        X.shape[1], size=(_RESAMPLES, X.shape[1])
    )
    resampled = X[:, drawn].mean(axis=2)
    ranks = 1 + (resampled[None, :] < resampled[:, None]).sum(axis=1)
    tail = (1.0 - _CONFIDENCE) / 2.0
    rows = []
    for place, index in enumerate(order, start=1):
        finite = bool(np.isfinite(X[index]).all())
        low, high = _interval(X[index])
        between = X[index] - X[best] if finite else X[index]
        from_best = _interval(between) if index != best else (0.0, 0.0)
        ends = np.quantile(ranks[index], [tail, 1.0 - tail], method="inverted_cdf")
        rows.append(
            {
                "scheme": names[index],
                "rank": place,
                "rank_low": int(ends[0]),
                "rank_high": int(ends[1]),
                "mean": float(means[index]) if finite else None,
                "low": low,
                "high": high,
                "difference": float(between.mean()) if finite else None,
                "difference_low": from_best[0],
                "difference_high": from_best[1],
                "diverged": int((~np.isfinite(X[index])).sum()),
            }
        )
    return rows


def _interval(values: np.ndarray) -> tuple[float | None, float | None]:
    """Return Student's interval of the mean; none of one value, or of infinite ones."""
    count = len(values)
    if count < 2 or not np.isfinite(values).all():
        return None, None
    quantile = student_t_quantile(0.5 + _CONFIDENCE / 2.0, count - 1)
    half = quantile * float(values.std(ddof=1)) / math.sqrt(count)
    mean = float(values.mean())
    return mean - half, mean + half


def points_of(config: InitCompare) -> dict[str, InitPoint]:
    """Return the trainings by scheme."""
    config = filled(config)
    return {
        scheme: init_nets.point_of(
            config,
            scheme=scheme,
            sd=config.sd if scheme == "normal" else 0.0,
            track=False,
        )
        for scheme in config.schemes
    }


def check(config: InitCompare) -> None:
    """Check a configuration, and that its data are there.

    Raises:
        FileNotFoundError: If the data are absent.
        ValueError: If a value is out of range.
    """
    one_of("preset", config.preset, InitCompare.PRESETS)
    config = filled(config)
    one_of("quantity", config.quantity, _QUANTITIES)
    if not config.schemes:
        raise ValueError(message("schemes", "hold at least one name", "none"))
    for scheme in config.schemes:
        one_of("schemes", scheme, SCHEMES)
    if len(set(config.schemes)) != len(config.schemes):
        raise ValueError(message("schemes", "have no repetition", config.schemes))
    real("sd", config.sd, minimum=0.0, strict=True)
    check_settings(config)
    init_nets.check_data(next(iter(points_of(config).values())))


def plan(config: InitCompare) -> Plan:
    """Say what a configuration will cost."""
    return init_nets.plan(points_of(config))


EXPERIMENT = Experiment(
    name="init-compare",
    config=InitCompare,
    run=init_compare,
    check=check,
    plan=plan,
    summary="Training curves from several initialisations, and their order.",
)
