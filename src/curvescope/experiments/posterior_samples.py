r"""The published network's posterior by sampling: NUTS, and what its chains are worth.

The weights' prior is :math:`N(0, \alpha^2)`, the precision of the noise is sampled with
them under a Gamma(3, 1) prior, as published. Dimensions are those of the sample
covariance of the weights, centred; what the published code computed of the same samples
stands beside them.
"""

import math
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from curvescope._core.checks import message
from curvescope._core.errors import MissingExtraError
from curvescope.experiments.base import Plan, PlannedRuns
from curvescope.experiments.posterior_net import (
    NUM_PARAMS,
    SIZES,
    regression_data,
)

# The published warm-up is as long as the sampling; trees double at most so often.
MOST_DOUBLINGS = 10
_SHAPE, _RATE = 3.0, 1.0
# The published z of the function's covariance.
_FUNCTION_Z = 1e-10
# Function values whose mixing is looked at.
_WATCHED = 50


@dataclass(frozen=True, kw_only=True)
class SampledPoint:
    """One posterior to sample: one draw of data, the first so many observations."""

    num_observations: int
    """The first so many,"""
    drawn: int
    """of so many."""
    z: float
    """Of the dimensions."""
    prior_variance: float
    """Of every weight."""
    samples: int
    """Kept of each chain, after as many of warm-up."""
    chains: int
    """Independent ones."""
    seed: int
    """Of data and chains."""


@dataclass(frozen=True)
class Samples:
    """Chains of NUTS: arrays of shape ``(chains, samples, ...)``."""

    weights: list[np.ndarray]
    precision: np.ndarray
    diverging: np.ndarray
    num_steps: np.ndarray
    acceptance: np.ndarray
    sampler: str

    @property
    def flat(self) -> np.ndarray:
        """All weights as vectors, shape ``(chains, samples, P)``."""
        shape = self.precision.shape
        return np.concatenate([w.reshape(*shape, -1) for w in self.weights], axis=2)


def require_numpyro() -> Any:
    """Import the sampler, or name the extra that brings it.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import numpyro
        import numpyro.diagnostics
        import numpyro.infer
    except ImportError as error:
        text = message(
            "sampler",
            "find numpyro to sample by NUTS",
            str(error),
            'Install it with: pip install "curvescope[nuts]".',
        )
        raise MissingExtraError(text) from error
    return numpyro


def network_model(inputs: Any, targets: Any, prior_variance: float) -> None:
    """State the published model to numpyro: weights, precision of the noise, targets."""
    numpyro = require_numpyro()
    import jax

    normal, h = numpyro.distributions.Normal, inputs
    for layer, shape in enumerate(pairwise(SIZES)):
        prior = normal(0.0, prior_variance**0.5).expand(shape).to_event(2)
        h = h @ numpyro.sample(f"weights{layer}", prior)
        if layer < len(SIZES) - 2:
            h = jax.nn.elu(h)
    gamma = numpyro.distributions.Gamma(_SHAPE, _RATE)
    precision = numpyro.sample("precision", gamma)
    noisy = normal(h, precision**-0.5).to_event(2)
    numpyro.sample("targets", noisy, obs=targets)


def nuts(point: SampledPoint) -> Samples:
    """Sample the posterior of the published network.

    Args:
        point: Data, prior, chains.

    Returns:
        The chains, the same for the same seed.

    Raises:
        MissingExtraError: If numpyro is not installed.

    Cost:
        ``2 chains samples`` trees of at most 1,023 gradients each.

    References:
        Hoffman, Gelman (2014), arXiv:1111.4246; Phan, Pradhan, Jankowiak (2019),
        arXiv:1912.11554.
    """
    numpyro = require_numpyro()
    import jax

    inputs, targets, _ = regression_data(point.drawn, point.seed)
    chosen = slice(point.num_observations)
    sampler = numpyro.infer.MCMC(
        numpyro.infer.NUTS(network_model, max_tree_depth=MOST_DOUBLINGS),
        num_warmup=point.samples,
        num_samples=point.samples,
        num_chains=point.chains,
        chain_method="sequential",
        progress_bar=False,
    )
    # In the sampler's own precision, float32 unless its user has changed that.
    dtype = jax.numpy.zeros(()).dtype
    sampler.run(
        jax.random.PRNGKey(point.seed),
        inputs[chosen].numpy().astype(dtype),
        targets[chosen].numpy().astype(dtype),
        point.prior_variance,
        extra_fields=("diverging", "num_steps", "accept_prob"),
    )
    found = sampler.get_samples(group_by_chain=True)
    extra = sampler.get_extra_fields(group_by_chain=True)
    layers = range(len(SIZES) - 1)
    return Samples(
        weights=[np.asarray(found[f"weights{i}"], np.float64) for i in layers],
        precision=np.asarray(found["precision"], np.float64),
        diverging=np.asarray(extra["diverging"]),
        num_steps=np.asarray(extra["num_steps"]),
        acceptance=np.asarray(extra["accept_prob"], np.float64),
        sampler=f"NUTS of numpyro {numpyro.__version__}, jax {jax.__version__}, {dtype}",
    )


def measure_samples(point: SampledPoint) -> dict[str, Any]:
    """Sample one posterior, and measure its covariances and the chains.

    Returns:
        The dimensions of the covariances, those by the published code's way, and what
        `ChainSummary` holds.

    Raises:
        MissingExtraError: If numpyro is not installed.
    """
    began = time.perf_counter()
    samples = nuts(point)
    inputs = regression_data(point.drawn, point.seed)[0][: point.num_observations]
    functions = outputs_of(samples.weights, inputs.numpy())
    flat, precision = samples.flat, samples.precision
    half = max(2, point.samples // 2)
    noise = np.random.default_rng(point.seed).standard_normal(functions.shape)
    observed = functions + noise / np.sqrt(precision)[..., None]
    return {
        **covariance_numbers(flat, z=point.z, prior_variance=point.prior_variance),
        "function_dimension": dimension(variances_of(functions), point.z),
        "half_dimension": dimension(variances_of(flat[:, :half]), point.z),
        "published_dimension": published_dimension(flat, precision, point.z),
        "published_function_dimension": published_function_dimension(observed),
        "num_params": flat.shape[-1],
        **_mixing(flat, functions),
        "divergences": int(samples.diverging.sum()),
        "largest_trees": float(np.mean(samples.num_steps >= 2**MOST_DOUBLINGS - 1)),
        "mean_steps": float(samples.num_steps.mean()),
        "acceptance": float(samples.acceptance.mean()),
        "noise_variance": float((1.0 / precision).mean()),
        "sampler": samples.sampler,
        "seconds": time.perf_counter() - began,
    }


def outputs_of(weights: list[np.ndarray], inputs: np.ndarray) -> np.ndarray:
    """Return the function at inputs, for every sample of the weights.

    Args:
        weights: Of each layer, shape ``(chains, samples, a, b)``.
        inputs: Shape ``(n, 3)``.

    Returns:
        Shape ``(chains, samples, n)``.
    """
    chains, count = weights[0].shape[:2]
    found = np.empty((chains, count, len(inputs)))
    for c in range(chains):
        for s in range(count):
            h = inputs
            for layer, W in enumerate(weights):
                h = h @ W[c, s]
                if layer < len(weights) - 1:
                    h = np.where(h > 0.0, h, np.expm1(np.minimum(h, 0.0)))
            found[c, s] = h[:, 0]
    return found


def variances_of(draws: np.ndarray, *, centred: bool = True) -> np.ndarray:
    """Return the eigenvalues of the sample covariance of vectors, descending.

    Args:
        draws: Shape ``(chains, samples, d)``; the chains are pooled.
        centred: Whether the mean is taken off.

    Returns:
        Those that are not zero by shape.
    """
    X = draws.reshape(-1, draws.shape[-1])
    X = X - X.mean(axis=0) if centred else X
    values = np.linalg.svd(X, compute_uv=False)
    return np.asarray(values**2 / (len(X) - 1))


def dimension(variances: np.ndarray, z: float) -> float:
    """Return the effective dimension of eigenvalues."""
    return float((variances / (variances + z)).sum())


def covariance_numbers(
    flat: np.ndarray, *, z: float, prior_variance: float
) -> dict[str, float]:
    r"""Return what the samples say of the weights' covariance.

    Returns:
        ``parameter_dimension``, which few or dependent samples make too small; and
        ``effective_dimension``, :math:`\sum_i (1 - v_i / \alpha^2)`, how many parameters
        are determined: a trace, which they do not.
    """
    variances = variances_of(flat)
    return {
        "parameter_dimension": dimension(variances, z),
        "effective_dimension": flat.shape[-1] - float(variances.sum()) / prior_variance,
    }


def published_dimension(flat: np.ndarray, precision: np.ndarray, z: float) -> float:
    """Return the parameters' dimension as the published code computes it.

    From samples that are not centred, with the precision of the noise as one parameter
    more.
    """
    everything = np.concatenate([flat, precision[..., None]], axis=2)
    return dimension(variances_of(everything, centred=False), z)


def published_function_dimension(observed: np.ndarray) -> float:
    """Return the function's dimension as the published code computes it.

    From noisy predictions, the covariance's eigenvalues squared and divided by the
    number of samples less one, at z = 1e-10: the smaller of the numbers of observations
    and of samples less one, whatever the posterior.
    """
    values = variances_of(observed)
    count = observed.shape[0] * observed.shape[1]
    return dimension(values**2 / (count - 1), _FUNCTION_Z)


def prior_sample_dimension(
    num_params: int, count: int, *, z: float, prior_variance: float, seed: int = 0
) -> float:
    """Return what the same estimate gives of so many independent draws of the prior."""
    draws = np.random.default_rng(seed).standard_normal((1, count, num_params))
    return dimension(prior_variance * variances_of(draws), z)


def _mixing(flat: np.ndarray, functions: np.ndarray) -> dict[str, float]:
    """Return R-hat and effective sample sizes, by the sampler's library.

    Of the weights and of the function apart: hidden neurons may be exchanged, which
    changes weights and leaves the function.
    """
    diagnostics = require_numpyro().diagnostics
    places = np.linspace(0, functions.shape[2] - 1, min(_WATCHED, functions.shape[2]))
    watched = functions[..., np.unique(places.round().astype(int))]
    # Of antithetic draws the library's estimate may leave all bounds, or change its sign:
    # Stan's bound.
    count = flat.shape[0] * flat.shape[1]
    most = count * math.log10(count)
    found = {}
    for name, draws in (("weights", flat), ("function", watched)):
        r_hat = np.asarray(diagnostics.split_gelman_rubin(draws))
        size = np.asarray(diagnostics.effective_sample_size(draws))
        size = np.where((size > 0.0) & (size < most), size, most)
        found[f"{name}_r_hat"] = float(np.nanmax(r_hat))
        found[f"{name}_sample_size"] = float(size.min())
        if name == "weights":
            found["median_sample_size"] = float(np.median(size))
    return found


def guess_sampling_seconds(point: SampledPoint) -> float:
    """Guess what sampling costs on one core: nearly all trees are as large as may be."""
    gradients = 2.0 * point.chains * point.samples * 2.0**MOST_DOUBLINGS
    return 20.0 + gradients * (3e-5 + 1e-6 * point.num_observations)


def guess_sampling_memory(point: SampledPoint) -> float:
    """Guess the bytes of a point: noisy functions, weights, their decompositions."""
    width = point.num_observations + 2 * NUM_PARAMS
    return 8e8 + 8.0 * 5.0 * point.chains * point.samples * width


def sampling_plan(points: list[SampledPoint]) -> Plan:
    """Say what sampling will cost."""
    rows = []
    for count in sorted({point.num_observations for point in points}):
        own = [point for point in points if point.num_observations == count]
        rows.append(
            PlannedRuns(
                what=f"NUTS, {count} observations, {own[0].samples} samples",
                runs=len(own) * own[0].chains,
                num_params=NUM_PARAMS,
                num_steps=2 * own[0].samples,
                hours=sum(map(guess_sampling_seconds, own)) / 3600.0,
            )
        )
    return Plan(rows=tuple(rows), basis="one CPU core, trees as large as they may be")
