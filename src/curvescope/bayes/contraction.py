r"""How far a posterior has contracted: effective dimensions of its covariances."""

from torch import Tensor

from curvescope._core.checks import instance, real
from curvescope.bayes.left_out import LeftOut, posterior_sum
from curvescope.bayes.linear import linear_only
from curvescope.results import Estimate, LaplacePosterior, LinearPosterior


def covariance_effective_dimension(
    posterior: LinearPosterior | LaplacePosterior, *, z: float
) -> Estimate:
    r"""Return the effective dimension of the posterior's parameter covariance.

    .. math:: N_\text{eff}(\Sigma, z) = \sum_i \frac{v_i}{v_i + z}

    It starts at the prior's value and FALLS as data come, while that of the Hessian
    rises: the two add up to the number of parameters,
    :math:`N_\text{eff}(\Sigma, z) + N_\text{eff}(\Sigma^{-1}, 1/z) = p`.

    Args:
        posterior: Of a linear model, or of a network by Laplace.
        z: In the unit of a variance, above 0.

    Returns:
        The number; with bounds where eigenpairs were left out.

    Raises:
        ValueError: If ``z`` is not above 0.

    Example:
        >>> import torch
        >>> from curvescope.bayes import linear_posterior
        >>> Phi, y = torch.eye(1, 2), torch.ones(1)
        >>> at = linear_posterior(Phi, y, prior_variance=1.0, noise_variance=1.0)
        >>> round(covariance_effective_dimension(at, z=1.0).value, 6)  # 1/3 + 1/2
        0.833333

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, section 4 and figure 4.
    """
    z = real("z", z, minimum=0.0, strict=True)
    quantity = "effective dimension of the posterior covariance"
    remedy = "Compute one: `linear_posterior(...)` or `laplace(...)`."
    instance("posterior", posterior, (LinearPosterior, LaplacePosterior), remedy)
    if isinstance(posterior, LinearPosterior):
        v, prior = posterior.variances, posterior.prior_variance
        value = float((v / (v + z)).sum())
        value += posterior.num_beyond * (prior / (prior + z))
        return _exact(posterior, quantity, value)
    delta = posterior.prior_precision
    at_prior = 1.0 / (1.0 + z * delta)

    def lost(values: Tensor) -> Tensor:
        # What an eigenvalue takes from the prior's value: increasing, concave, 0 at 0.
        return at_prior * (z * values) / (1.0 + z * (values + delta))

    left_out = LeftOut.of(posterior)
    taken, half, error = posterior_sum(lost, posterior.eigenvalues, left_out)
    return Estimate(
        of=posterior.of,
        quantity=quantity,
        value=posterior.num_params * at_prior - taken,
        standard_error=error,
        degrees_of_freedom=posterior.left_out_degrees,
        method=posterior.method,
        bias_bound=half,
    )


def function_effective_dimension(posterior: LinearPosterior, *, z: float) -> Estimate:
    r"""Return the effective dimension of the function's covariance at the observations.

    .. math:: \Phi \Sigma \Phi^\top \text{ has eigenvalues } \sigma^2 \gamma_i

    Args:
        posterior: Of a linear model.
        z: In the unit of a target's variance, above 0.

    Returns:
        The number; it rises with the observations, up to
        ``p noise_variance / (noise_variance + z)``.

    Raises:
        ValueError: If ``z`` is not above 0.

    Example:
        >>> import torch
        >>> from curvescope.bayes import linear_posterior
        >>> Phi, y = torch.eye(1, 2), torch.ones(1)
        >>> at = linear_posterior(Phi, y, prior_variance=1.0, noise_variance=1.0)
        >>> round(function_effective_dimension(at, z=1.0).value, 6)  # 1/2 over 3/2
        0.333333

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, figure 4, whose axis calls this
        the Hessian's.
    """
    z = real("z", z, minimum=0.0, strict=True)
    linear_only(posterior)
    values = posterior.noise_variance * posterior.determined
    quantity = "effective dimension of the function covariance"
    return _exact(posterior, quantity, float((values / (values + z)).sum()))


def _exact(posterior: LinearPosterior, quantity: str, value: float) -> Estimate:
    return Estimate(
        of=posterior.of,
        quantity=quantity,
        value=value,
        standard_error=0.0,
        method="exact",
    )
