r"""The mode of a network's posterior, by Levenberg and Marquardt's method.

Squared errors of variance :math:`\sigma^2` and a Gaussian prior on every weight make the
mode a damped non-linear least-squares problem: where plain training stalls in flat
directions, which a contraction is about, steps through the GGN go on.
"""

import math

import torch
from torch import Tensor, nn

from curvescope import losses
from curvescope.exact import ggn_factor
from curvescope.problem import Problem

_LESS, _MORE = 1.0 / 3.0, 4.0
_LARGEST_DAMPING = 1e12


def find_mode(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    noise_variance: float,
    prior_precision: float = 1.0,
    tol: float = 1e-2,
    max_iterations: int = 200,
) -> float:
    r"""Move a network's weights to a mode of their posterior, in place.

    .. math:: E(\theta) = \frac{\|y - f_\theta(x)\|^2}{2\sigma^2}
        + \frac{\delta}{2} \|\theta\|^2,\qquad
        \theta \leftarrow \theta - (G + (\delta + \mu) I)^{-1} \nabla E

    Args:
        model: A float64 network; its weights are where to begin.
        inputs: x, shape ``(n, d)``.
        targets: y, shape ``(n, K)``.
        noise_variance: sigma squared.
        prior_precision: delta.
        tol: Nats of E that a step must gain to be followed by another.
        max_iterations: Steps at most.

    Returns:
        E at the mode.

    Cost:
        A step takes the Jacobian and ``n P^2 + P^3`` operations.

    Example:
        >>> net = nn.Linear(1, 1, bias=False).double()
        >>> x = torch.ones(3, 1).double()
        >>> energy = find_mode(net, x, 4.0 * x, noise_variance=1.0, tol=1e-12)
        >>> round(net.weight.item(), 4)  # 12 / (3 + 1)
        3.0

    References:
        Levenberg (1944), doi:10.1090/qam/10666; Marquardt (1963), doi:10.1137/0111030.
    """
    loss = losses.half_squared_error(reduction="sum")
    problem = Problem(model, loss, (inputs, targets))
    theta = problem.parameter_vector().clone()
    identity = torch.eye(len(theta), dtype=theta.dtype)

    def energy(at: Tensor) -> float:
        _place(model, at)
        with torch.no_grad():
            square = float((model(inputs) - targets).square().sum())
        value = 0.5 * (square / noise_variance + prior_precision * float(at @ at))
        return value if math.isfinite(value) else math.inf

    value, damping = energy(theta), 1.0
    for _ in range(max_iterations):
        _place(model, theta)
        problem.refresh()
        F = ggn_factor(problem)
        G = (F.T @ F) / noise_variance
        gradient = problem.gradient() / noise_variance + prior_precision * theta
        gain = -math.inf
        while gain < 0.0 and damping < _LARGEST_DAMPING:
            A = G + (prior_precision + damping) * identity
            trial = theta - torch.cholesky_solve(
                gradient[:, None], torch.linalg.cholesky(A)
            ).squeeze(1)
            gain = value - energy(trial)
            damping *= _LESS if gain >= 0.0 else _MORE
        if gain < 0.0:
            break
        theta, value = trial, value - gain
        if gain < tol:
            break
    _place(model, theta)
    return value


def _place(model: nn.Module, theta: Tensor) -> None:
    with torch.no_grad():
        nn.utils.vector_to_parameters(theta, model.parameters())
