"""Bayesian linear models, what they prove of the effective dimension, choices of z."""

from curvescope.bayes.contraction import (
    covariance_effective_dimension,
    function_effective_dimension,
)
from curvescope.bayes.homogeneity import check_function_space_homogeneity
from curvescope.bayes.identities import posterior_identities
from curvescope.bayes.linear import (
    linear_posterior,
    maximise_evidence,
    posterior_covariance,
    predict,
)
from curvescope.bayes.scales import z_from_kink, z_from_prior, z_from_weight_decay

__all__ = [
    "check_function_space_homogeneity",
    "covariance_effective_dimension",
    "function_effective_dimension",
    "linear_posterior",
    "maximise_evidence",
    "posterior_covariance",
    "posterior_identities",
    "predict",
    "z_from_kink",
    "z_from_prior",
    "z_from_weight_decay",
]
