"""What a loss says of probabilities: the negative log-likelihood that it stands for."""

import math
from dataclasses import dataclass
from typing import final

import torch

from curvescope._core.checks import instance, message, real
from curvescope.losses.cross_entropy import NLL, CrossEntropy
from curvescope.losses.elementwise import BCEWithLogits, SquaredError
from curvescope.problem import Problem


@final
@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """``-log p(targets) = factor * (sum of the loss) + constant``.

    Attributes:
        factor: 1 but for squared errors.
        constant: Over all the data.
        name: What the loss stands for.
        noise_variance: Of a regression, else ``None``.
        proper: Whether it is a normalised likelihood; ``exp(-loss)`` is none where
            there are class weights or smoothed labels.
    """

    factor: float
    constant: float
    name: str
    noise_variance: float | None
    proper: bool


def likelihood_of(
    problem: Problem, *, noise_variance: float | None = None
) -> Likelihood:
    """Return the negative log-likelihood that a problem's loss stands for.

    Args:
        problem: Model, loss and data.
        noise_variance: Of each target of a squared error; needed there, and only there.

    Returns:
        Factor and constant; independent of the problem's reduction.

    Raises:
        ValueError: If the noise variance is missing, superfluous, or not above 0.

    Example:
        >>> data = (torch.eye(2), torch.zeros(2, 1))
        >>> problem = Problem(torch.nn.Linear(2, 1), "mse", data)
        >>> likelihood_of(problem, noise_variance=0.25).factor
        2.0
    """
    remedy = "Make one: `cs.Problem(model, loss, data)`."
    instance("problem", problem, Problem, remedy)
    loss = problem.loss
    if isinstance(loss, SquaredError):
        if noise_variance is None:
            contract = f"be given for {loss.name}, which leaves it open"
            remedy = "Estimate it, say by the mean squared residual."
            raise ValueError(message("noise_variance", contract, None, remedy))
        noise = real("noise_variance", noise_variance, minimum=0.0, strict=True)
        return Likelihood(
            factor=1.0 / (2.0 * loss.scale * noise),
            constant=0.5 * _num_values(problem) * math.log(2.0 * math.pi * noise),
            name=f"Gaussian, variance {noise:.4g}",
            noise_variance=noise,
            proper=True,
        )
    if noise_variance is not None:
        contract = f"be `None` for {loss.name}, which has no noise"
        raise ValueError(message("noise_variance", contract, noise_variance))
    name, proper = "exp(-loss), not normalised", False
    if isinstance(loss, CrossEntropy):
        proper = loss.weight is None and loss.label_smoothing == 0.0
        name = "categorical" if proper else name
    elif isinstance(loss, NLL):
        proper = loss.weight is None
        name = "categorical" if proper else name
    elif isinstance(loss, BCEWithLogits):
        proper = loss.weight is None and loss.pos_weight is None
        name = "Bernoulli" if proper else name
    return Likelihood(
        factor=1.0, constant=0.0, name=name, noise_variance=None, proper=proper
    )


def num_outputs(problem: Problem) -> int:
    """Return the number of outputs a sample, from a forward pass over one batch."""
    batch = next(iter(problem.batches()))
    _, parameters = problem.leaves()
    with problem.network.running(), torch.no_grad():
        outputs = problem.outputs(batch, parameters)
    return outputs.numel() // batch.num_samples


def _num_values(problem: Problem) -> int:
    """Return the number of targets of a squared error."""
    loss = problem.loss
    assert isinstance(loss, SquaredError)
    if loss.denominator_per == "element":
        return round(problem.denominator)
    return problem.num_samples * num_outputs(problem)
