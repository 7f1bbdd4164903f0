"""Posterior contraction: a covariance's effective dimension while observations come in.

Of a Bayesian linear model it is exact. Of a network it is that of the linearised Laplace
posterior; at fixed weights it can only fall, since every observation adds a positive
semidefinite matrix to the precision.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from curvescope import models
from curvescope._core.checks import message, positive_int, real
from curvescope.analysis import laplace
from curvescope.bayes import (
    covariance_effective_dimension,
    function_effective_dimension,
    linear_posterior,
)
from curvescope.experiments.base import (
    Experiment,
    Plan,
    PlannedRuns,
    Preset,
    decisive,
    filled,
)
from curvescope.experiments.posterior_mode import find_mode
from curvescope.experiments.sweep import run_points
from curvescope.problem import Problem
from curvescope.results import Cost, PosteriorContraction, Provenance, Result

Weights = Literal["last", "each"]
_VERSION = 1
_PLACES, _WAVES, _END = 300, 100, 50.0
_MOST_LINEAR, _MOST_NET = _PLACES, 100_000
_HIDDEN = (20, 20)
_NOISE = 0.05
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
    """The Bayesian linear model, or a small network by its linearised Laplace posterior."""
    num_observations: tuple[int, ...] | None = None
    """Such as 20,100,500; of one draw always the first so many."""
    draws: int | None = None
    """Orders of the observations, for a network with data and first weights."""
    z: float | None = None
    """In the unit of a variance; 5 (linear) or 1 (net) as published."""
    prior_variance: float | None = None
    """Of every parameter; 3 (linear) or 1 (net) as published."""
    weights: Weights = "last"
    """Of the net: the mode given all observations, or each number's own mode."""
    seed: int = 0
    """Of the first draw."""
    jobs: int | None = None
    """Worker processes; chosen by processors, memory and work by default."""

    @property
    def PRESETS(self) -> dict[str, dict[str, Any]]:
        """What the presets fill in."""
        own = _LINEAR if self.model == "linear" else _NET
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
    values = run_points(
        points,
        measure,
        folder=folder,
        version=_VERSION,
        jobs=config.jobs,
        seconds=guess_seconds,
        description=f"posterior contraction ({config.model})",
    )

    def curve(name: str) -> Tensor | None:
        if name not in values[0]:
            return None
        return torch.tensor([value[name] for value in values], dtype=torch.float64)

    of = _provenance(points[0], values[0])
    contraction = PosteriorContraction(
        of=of,
        cost=Cost(seconds=time.perf_counter() - began),
        settings=decisive(config),
        notes=_notes(config),
        model=config.model,
        num_observations=torch.tensor(points[0].num_observations),
        parameter_dimension=_present(curve("parameter_dimension")),
        effective_dimension=_present(curve("effective_dimension")),
        function_dimension=curve("function_dimension"),
        prior_dimension=_prior_dimension(points[0], of.num_params),
        z=points[0].z,
        num_params=of.num_params,
        seeds=tuple(point.seed for point in points),
    )
    return {"contraction": contraction}


def _present(curve: Tensor | None) -> Tensor:
    assert curve is not None
    return curve


def measure(point: Draw) -> dict[str, Any]:
    """Compute the curves of one draw."""
    return _measure_linear(point) if point.model == "linear" else _measure_net(point)


def fourier_features(
    num_places: int = _PLACES, num_waves: int = _WAVES, end: float = _END
) -> Tensor:
    """Return the published design: cosines and sines of ``j pi x``, j = 1, 2, ...

    Args:
        num_places: Numbers x, evenly from 0 to ``end``.
        num_waves: Frequencies.
        end: The last x.

    Returns:
        Shape ``(num_places, 2 num_waves)``, float64.

    Example:
        >>> fourier_features(3, 2).shape
        torch.Size([3, 4])
    """
    x = torch.linspace(0.0, end, num_places, dtype=torch.float64)[:, None]
    phases = torch.pi * x * torch.arange(1, num_waves + 1)
    return torch.cat([phases.cos(), phases.sin()], dim=1)


# A variance, as in the published code, which calls it a standard deviation.
_LINEAR_NOISE = 0.1


def _measure_linear(point: Draw) -> dict[str, Any]:
    order = np.random.default_rng(point.seed).permutation(_PLACES)
    features = fourier_features()[torch.from_numpy(order)]
    found: dict[str, Any] = {
        "parameter_dimension": [],
        "function_dimension": [],
        "effective_dimension": [],
    }
    for count in point.num_observations:
        # The targets play no part in a covariance.
        posterior = linear_posterior(
            features[:count],
            torch.zeros(count),
            prior_variance=point.prior_variance,
            noise_variance=_LINEAR_NOISE,
        )
        parameters = covariance_effective_dimension(posterior, z=point.z)
        function = function_effective_dimension(posterior, z=point.z)
        found["parameter_dimension"].append(parameters.value)
        found["function_dimension"].append(function.value)
        found["effective_dimension"].append(posterior.effective_dimension)
    return {**found, "num_params": features.shape[1]}


def regression_data(num_samples: int, seed: int) -> tuple[Tensor, Tensor, float]:
    r"""Draw the published regression, in random order.

    .. math:: y = (1, x, x^2) w + \tfrac12 (\tfrac12 + x)^2 \sin 4x + 0.05\,\varepsilon,
        \quad w \sim N(0, \tfrac14 I)

    Args:
        num_samples: Numbers x, evenly from -1 to 1.
        seed: Of w, of the noise and of the order.

    Returns:
        Inputs ``(n, 3)``, standardised targets ``(n, 1)``, and the variance of the
        noise in their unit.

    Example:
        >>> inputs, targets, noise = regression_data(50, seed=0)
        >>> inputs.shape, round(float(targets.var(correction=0)), 6)
        (torch.Size([50, 3]), 1.0)
    """
    generator = np.random.default_rng(seed)
    x = np.linspace(-1.0, 1.0, num_samples)
    X = np.stack([np.ones_like(x), x, x**2], axis=1)
    y = X @ (0.5 * generator.standard_normal(3))
    y += 0.5 * (0.5 + x) ** 2 * np.sin(4.0 * x)
    y += _NOISE * generator.standard_normal(num_samples)
    scale = y.std()
    order = generator.permutation(num_samples)
    targets = ((y - y.mean()) / scale)[order, None]
    return (
        torch.from_numpy(X[order]),
        torch.from_numpy(targets),
        float((_NOISE / scale) ** 2),
    )


def _measure_net(point: Draw) -> dict[str, Any]:
    counts = point.num_observations
    inputs, targets, noise = regression_data(counts[-1], point.seed)
    model = _draw_from_prior(point)
    precision = 1.0 / point.prior_variance
    found: dict[str, Any] = {"parameter_dimension": [], "effective_dimension": []}

    def record(count: int) -> None:
        data = (inputs[:count], targets[:count])
        posterior = laplace(
            Problem(model, "half_squared_error", data),
            prior_precision=precision,
            noise_variance=noise,
            method="exact",
        )
        parameters = covariance_effective_dimension(posterior, z=point.z)
        found["parameter_dimension"].append(parameters.value)
        found["effective_dimension"].append(posterior.effective_dimension.value)

    # Few observations first: each mode is a good place to begin for the next one.
    for count in counts:
        data = (inputs[:count], targets[:count])
        find_mode(model, *data, noise_variance=noise, prior_precision=precision)
        if point.weights == "each":
            record(count)
    if point.weights == "last":
        for count in counts:
            record(count)
    return {**found, "num_params": sum(p.numel() for p in model.parameters())}


def _draw_from_prior(point: Draw) -> nn.Module:
    model = models.build(
        "mlp",
        in_features=3,
        hidden=_HIDDEN,
        num_classes=1,
        activation="elu",
        bias=False,
    ).double()
    generator = torch.Generator().manual_seed(point.seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
            p.mul_(point.prior_variance**0.5)
    return model


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


def _provenance(point: Draw, value: Mapping[str, Any]) -> Provenance:
    names = {
        "linear": "Bayesian linear model, Fourier features",
        "net": "linearised Laplace posterior of a 3-20-20-1 ELU network",
    }
    return Provenance(
        matrix="posterior covariance",
        description=names[point.model],
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
    where = {
        "last": "at the mode given all observations, where it can only fall",
        "each": "at each number's own mode",
    }[config.weights]
    note = (
        f"the posterior is the linearised Laplace one, {where}; the published curve is "
        "that of samples by NUTS, which falls further"
    )
    return (note,)


def check(config: PosteriorContractionConfig) -> None:
    """Check a configuration.

    Raises:
        ValueError: If a value is out of range.
    """
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
    points = _points(filled(config))
    first = points[0].num_observations
    row = PlannedRuns(
        what=f"{config.model}, {len(first)} numbers of observations up to {first[-1]}",
        runs=len(points),
        num_params=2 * _WAVES
        if config.model == "linear"
        else sum(p.numel() for p in _draw_from_prior(points[0]).parameters()),
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
