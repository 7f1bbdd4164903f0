"""Bayesian linear models, what they prove of the effective dimension, choices of z."""

from curvescope.bayes.linear import (
    linear_posterior,
    maximise_evidence,
    posterior_covariance,
    predict,
)

__all__ = [
    "linear_posterior",
    "maximise_evidence",
    "posterior_covariance",
    "predict",
]
