"""Posterior contraction: a covariance's effective dimension while observations come in.

Of a Bayesian linear model it is exact. Of a network it is that of the linearised Laplace
posterior, which at fixed weights can only fall, since every observation adds a positive
semidefinite matrix to the precision; or that of samples by NUTS, as published.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from curvescope._core.checks import message, one_of, positive_int, real
from curvescope.experiments.base import (
    Experiment,
    Plan,
    PlannedRuns,
    Preset,
    decisive,
    filled,
)
from curvescope.experiments.posterior_linear import PLACES, WAVES, linear_curves
from curvescope.experiments.posterior_net import (
    NUM_PARAMS,
    Weights,
    laplace_curves,
)
from curvescope.experiments.posterior_samples import (
    SampledPoint,
    guess_sampling_memory,
    guess_sampling_seconds,
    measure_samples,
    prior_sample_dimension,
    require_numpyro,
    sampling_plan,
)
from curvescope.experiments.sweep import run_points
from curvescope.results import (
    ChainSummary,
    Cost,
    PosteriorContraction,
    Provenance,
    Result,
)
from curvescope.results.contraction import CURVES

Sampler = Literal["laplace", "nuts"]
_VERSION = 1
_MOST_LINEAR, _MOST_NET = PLACES, 100_000
# Where chains are commonly called mixed.
_R_HAT = 1.01
_LINEAR: dict[str, dict[str, Any]] = {
    "small": {"num_observations": (1, *range(5, 301, 5)), "draws": 3},
    "paper": {"num_observations": tuple(range(1, 301)), "draws": 5},
}
_NET: dict[str, dict[str, Any]] = {
    "small": {
        "num_observations": (20, 50, 100, 200, 500, 1000, 2000, 5000),
        "draws": 3,
    },
    "paper": {
        "num_observations": (20, 100, 200, *range(500, 5001, 250)),
        "draws": 5,
    },
}
_NUTS: dict[str, dict[str, Any]] = {
    "small": {"num_observations": (20, 50, 100, 200), "draws": 1, "samples": 500},
    "paper": {**_NET["paper"], "samples": 2000},
}
_SHARED: dict[str, dict[str, float]] = {
    "linear": {"z": 5.0, "prior_variance": 3.0},
    "net": {"z": 1.0, "prior_variance": 1.0},
}


@dataclass(frozen=True, kw_only=True)
class PosteriorContractionConfig:
    """The posterior's effective dimension against the number of observations."""

    preset: Preset = "small"
    """How many numbers of observations and draws; both take minutes at most."""
    model: Literal["linear", "net"] = "linear"
    """The Bayesian linear model, or a small network."""
    sampler: Sampler = "laplace"
    """Of the net: its linearised Laplace posterior, or samples by NUTS as published, for
    which curvescope[nuts] is needed."""
    num_observations: tuple[int, ...] | None = None
    """Such as 20,100,500; of one draw always the first so many."""
    draws: int | None = None
    """Orders of the observations, for a network with data and first weights."""
    z: float | None = None
    """In the unit of a variance; 5 (linear) or 1 (net) as published."""
    prior_variance: float | None = None
    """Of every parameter; 3 (linear) or 1 (net) as published."""
    weights: Weights = "last"
    """Of the net by Laplace: the mode given all observations, or each number's own."""
    samples: int | None = None
    """Kept of each chain of NUTS, after as many of warm-up; 2000 as published."""
    chains: int = 1
    """Of NUTS; one as published."""
    seed: int = 0
    """Of the first draw."""
    jobs: int | None = None
    """Worker processes; chosen by processors, memory and work by default."""

    @property
    def PRESETS(self) -> dict[str, dict[str, Any]]:
        """What the presets fill in."""
        nuts = _NUTS if self.sampler == "nuts" else _NET
        own = _LINEAR if self.model == "linear" else nuts
        shared = _SHARED.get(self.model, {})
        return {name: {**shared, **values} for name, values in own.items()}


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One draw of data, all numbers of observations of which are nested."""

    model: Literal["linear", "net"]
    num_observations: tuple[int, ...]
    z: float
    prior_variance: float
    weights: Weights
    seed: int


def posterior_contraction(
    config: PosteriorContractionConfig, *, folder: Path | None = None
) -> dict[str, Result]:
    r"""Follow a posterior's effective dimensions while observations come in.

    .. math:: N_\text{eff}(\Sigma_n, z) = \sum_i \frac{v_i}{v_i + z},\qquad
        \Sigma_n = (G_n + \alpha^{-2} I)^{-1}

    Args:
        config: Linear model or network, and everything else.
        folder: Where finished draws are kept, so that a later call goes on there.

    Returns:
        The curves under the name ``contraction``.

    Raises:
        PointError: If a draw failed; finished ones are saved.
        ValueError: If the configuration is wrong.

    Cost:
        Of the linear model an SVD a point; of the net about 20 s a draw.

    Example:
        >>> config = PosteriorContractionConfig(num_observations=(1, 50), draws=1, jobs=1)
        >>> contraction = posterior_contraction(config)["contraction"]
        >>> [round(float(value), 2) for value in contraction.parameter_dimension[0]]
        [74.63, 56.26]

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, figure 4.
    """
    check(config)
    config = filled(config)
    began = time.perf_counter()
    points = _points(config)
    values = (
        _sampled(config, points, folder)
        if config.sampler == "nuts"
        else run_points(
            points,
            measure,
            folder=folder,
            version=_VERSION,
            jobs=config.jobs,
            seconds=guess_seconds,
            description=f"posterior contraction ({config.model})",
        )
    )

    def curve(name: str) -> Tensor | None:
        if name not in values[0]:
            return None
        return torch.tensor([value[name] for value in values], dtype=torch.float64)

    of = _provenance(config, points[0], values[0])
    rows = (row for value in values for row in value.get("chains", ()))
    chains = tuple(ChainSummary(**row) for row in rows)
    contraction = PosteriorContraction(
        of=of,
        cost=Cost(seconds=time.perf_counter() - began),
        settings=decisive(config),
        notes=(*_notes(config), *_doubts(chains)),
        model=config.model,
        posterior="exact" if config.model == "linear" else config.sampler,
        num_observations=torch.tensor(points[0].num_observations),
        parameter_dimension=_present(curve("parameter_dimension")),
        effective_dimension=_present(curve("effective_dimension")),
        function_dimension=curve("function_dimension"),
        prior_dimension=_prior_dimension(points[0], of.num_params),
        z=points[0].z,
        num_params=of.num_params,
        seeds=tuple(point.seed for point in points),
        chains=chains,
        independent_prior_dimension=_independent(config, points[0], of.num_params),
    )
    return {"contraction": contraction}


def _present(curve: Tensor | None) -> Tensor:
    assert curve is not None
    return curve


def _sampled(
    config: PosteriorContractionConfig, draws: list[Draw], folder: Path | None
) -> list[dict[str, Any]]:
    """Sample each number of observations of each draw; return one value a draw."""
    require_numpyro()
    found = run_points(
        sampled_points(config),
        measure_samples,
        folder=folder,
        version=_VERSION,
        jobs=config.jobs,
        seconds=guess_sampling_seconds,
        memory=guess_sampling_memory,
        description="posterior contraction (net, NUTS)",
    )
    counts = draws[0].num_observations
    values = []
    for i, draw in enumerate(draws):
        own = found[i * len(counts) : (i + 1) * len(counts)]
        value: dict[str, Any] = {c: [row[c] for row in own] for c in CURVES}
        value["num_params"] = own[0]["num_params"]
        value["chains"] = [
            {"num_observations": count, "seed": draw.seed}
            | {k: v for k, v in row.items() if k not in (*CURVES, "num_params")}
            for count, row in zip(counts, own, strict=True)
        ]
        values.append(value)
    return values


def sampled_points(config: PosteriorContractionConfig) -> list[SampledPoint]:
    """Return the posteriors that NUTS samples, draw by draw.

    Example:
        >>> config = PosteriorContractionConfig(model="net", sampler="nuts")
        >>> [point.num_observations for point in sampled_points(config)]
        [20, 50, 100, 200]
    """
    config = filled(config)
    assert config.samples is not None
    return [
        SampledPoint(
            num_observations=count,
            drawn=draw.num_observations[-1],
            z=draw.z,
            prior_variance=draw.prior_variance,
            samples=config.samples,
            chains=config.chains,
            seed=draw.seed,
        )
        for draw in _points(config)
        for count in draw.num_observations
    ]


def _independent(
    config: PosteriorContractionConfig, point: Draw, num_params: int
) -> float:
    if config.sampler != "nuts":
        return math.nan
    assert config.samples is not None
    return prior_sample_dimension(
        num_params,
        config.chains * config.samples,
        z=point.z,
        prior_variance=point.prior_variance,
    )


def measure(point: Draw) -> dict[str, Any]:
    """Compute the curves of one draw."""
    return _measure_linear(point) if point.model == "linear" else _measure_net(point)


def _measure_linear(point: Draw) -> dict[str, Any]:
    return linear_curves(
        point.num_observations,
        z=point.z,
        prior_variance=point.prior_variance,
        seed=point.seed,
    )


def _measure_net(point: Draw) -> dict[str, Any]:
    return laplace_curves(
        point.num_observations,
        z=point.z,
        prior_variance=point.prior_variance,
        weights=point.weights,
        seed=point.seed,
    )


def _points(config: PosteriorContractionConfig) -> list[Draw]:
    assert config.num_observations is not None
    assert config.draws is not None
    assert config.z is not None
    assert config.prior_variance is not None
    return [
        Draw(
            model=config.model,
            num_observations=tuple(sorted(config.num_observations)),
            z=config.z,
            prior_variance=config.prior_variance,
            weights=config.weights,
            seed=seed,
        )
        for seed in range(config.seed, config.seed + config.draws)
    ]


def _prior_dimension(point: Draw, num_params: int) -> float:
    return num_params * point.prior_variance / (point.prior_variance + point.z)


def _provenance(
    config: PosteriorContractionConfig, point: Draw, value: Mapping[str, Any]
) -> Provenance:
    names = {
        "linear": "Bayesian linear model, Fourier features",
        "laplace": "linearised Laplace posterior of a 3-20-20-1 ELU network",
        "nuts": "posterior of a 3-20-20-1 ELU network, sampled by NUTS",
    }
    return Provenance(
        matrix="posterior covariance",
        description=names[point.model if point.model == "linear" else config.sampler],
        reduction="sum",
        unit="variance of a parameter",
        num_params=int(value["num_params"]),
        num_samples=point.num_observations[-1],
    )


def _notes(config: PosteriorContractionConfig) -> tuple[str, ...]:
    if config.model == "linear":
        return (
            "the published axis calls the function covariance's curve the Hessian's",
        )
    if config.sampler == "nuts":
        parameters = (
            "the dimensions are of the weights' sample covariance, centred; the published "
            "ones are of samples that are not, with the noise's precision as one "
            "parameter more (published_dimension)"
        )
        function = (
            "the published dimension of the function is the number of observations, or "
            "of samples less one, whatever the posterior (published_function_dimension)"
        )
        return (parameters, function)
    where = {
        "last": "at the mode given all observations, where it can only fall",
        "each": "at each number's own mode",
    }[config.weights]
    note = (
        f"the posterior is the linearised Laplace one, {where}; the published curve is "
        "that of samples by NUTS (--sampler nuts), which falls further"
    )
    return (note,)


def _doubts(chains: tuple[ChainSummary, ...]) -> tuple[str, ...]:
    """Say how far chains are from what they stand for."""
    if not chains:
        return ()
    rising = [c.num_observations for c in chains if c.weights_r_hat > _R_HAT]
    notes = []
    if rising:
        worst = max(c.weights_r_hat for c in chains)
        notes.append(
            f"R-hat of some weight is above {_R_HAT:g} at {len(rising)} of {len(chains)} "
            f"points (up to {worst:.3g}): these chains have not seen the whole posterior, "
            "and a covariance of theirs is of the part they saw"
        )
    diverged = sum(c.divergences for c in chains)
    if diverged:
        notes.append(f"{diverged} transitions diverged")
    cut = max(c.largest_trees for c in chains)
    if cut > 0.0:
        notes.append(
            f"up to {100.0 * cut:.3g} % of the transitions were cut at the largest tree"
        )
    return tuple(notes)


def check(config: PosteriorContractionConfig) -> None:
    """Check a configuration.

    Raises:
        ValueError: If a value is out of range.
    """
    one_of("sampler", config.sampler, ("laplace", "nuts"))
    if config.sampler == "nuts" and config.model == "linear":
        contract = "be laplace for the linear model, whose posterior is exact"
        raise ValueError(message("sampler", contract, config.sampler))
    config = filled(config)
    counts = config.num_observations
    assert counts is not None
    if not counts:
        contract = "hold at least one number"
        raise ValueError(message("num_observations", contract, "none"))
    most = _MOST_LINEAR if config.model == "linear" else _MOST_NET
    for count in counts:
        if positive_int("num_observations", count) > most:
            raise ValueError(message("num_observations", f"be at most {most}", count))
    if len(set(counts)) != len(counts):
        raise ValueError(message("num_observations", "have no repetition", counts))
    positive_int("draws", config.draws)
    positive_int("chains", config.chains)
    if config.sampler == "nuts":
        positive_int("samples", config.samples, minimum=4)
    elif config.samples is not None:
        raise ValueError(message("samples", "be given to NUTS only", config.samples))
    real("z", config.z, minimum=0.0, strict=True)
    real("prior_variance", config.prior_variance, minimum=0.0, strict=True)
    positive_int("seed", config.seed, minimum=0)
    if config.jobs is not None:
        positive_int("jobs", config.jobs)


def guess_seconds(point: Draw) -> float:
    """Guess what a draw costs, on one core."""
    if point.model == "linear":
        return sum(0.002 + 2e-7 * n * min(n, 200) for n in point.num_observations)
    return 1.0 + sum(1.0 + 2e-3 * n for n in point.num_observations)


def plan(config: PosteriorContractionConfig) -> Plan:
    """Say what a configuration will cost."""
    config = filled(config)
    if config.sampler == "nuts":
        return sampling_plan(sampled_points(config))
    points = _points(config)
    first = points[0].num_observations
    row = PlannedRuns(
        what=f"{config.model}, {len(first)} numbers of observations up to {first[-1]}",
        runs=len(points),
        num_params=2 * WAVES if config.model == "linear" else NUM_PARAMS,
        hours=sum(map(guess_seconds, points)) / 3600.0,
    )
    return Plan(rows=(row,), basis="one CPU core")


EXPERIMENT = Experiment(
    name="posterior-contraction",
    config=PosteriorContractionConfig,
    run=posterior_contraction,
    check=check,
    plan=plan,
    summary="A posterior's effective dimension against the number of observations.",
)
