"""Effective dimension where it is exact: a Bayesian linear model, and its evidence."""

# %%
import math

import numpy as np

from curvescope.bayes import (
    covariance_effective_dimension,
    linear_posterior,
    maximise_evidence,
    posterior_identities,
    predict,
)

rng = np.random.default_rng(0)
x = np.linspace(-1, 1, 60)
y = np.sin(3 * x) + 0.1 * rng.standard_normal(60)


def features(x, num):
    """Fourier features, the smaller the faster they vary."""
    waves = [f(j * x) / j**2 for j in range(1, num // 2 + 1) for f in (np.cos, np.sin)]
    return np.stack(waves, axis=1)


# %%
# Twenty times more coefficients than observations: hardly more are determined.
for num in (10, 100, 1200):
    fit = maximise_evidence(features(x, num), y)
    at = fit.posterior
    print(
        f"{num:5d} coefficients: {at.effective_dimension:6.2f} determined, noise "
        f"{math.sqrt(at.noise_variance):.3f}, log evidence {at.log_evidence:.2f}"
    )
    assert at.effective_dimension < 15

# %%
# Each observation contracts the posterior; the sum is an effective dimension.
Phi = features(x, 100)
order = rng.permutation(60)
for n in (1, 5, 20, 60):
    at = linear_posterior(
        Phi[order[:n]], y[order[:n]], prior_variance=1.0, noise_variance=0.01
    )
    left = covariance_effective_dimension(at, z=1.0).value
    print(
        f"{n:3d} observations: contraction {at.contraction:.4f}, {left:.4f} left of 50"
    )
    assert math.isclose(at.contraction, at.prior_variance * at.effective_dimension)

# %%
# Away from the data the function is less sure.
inside, outside = predict(at, features(np.array([0.0, 2.0]), 100)).variance[:, 0]
print(f"variance at 0: {inside:.4f}, at 2: {outside:.4f}")
assert outside > inside

# %%
# Every identity of the theory, both sides computed.
table = posterior_identities(Phi, y, prior_variance=1.0, noise_variance=0.01)
print(table)
assert table.largest_difference < 1e-8
