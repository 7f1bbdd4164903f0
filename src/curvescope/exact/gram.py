r"""Inner products of the rows of a GGN's factor, and its spectrum, without the factor.

With :math:`G = F^\top F` the eigenvalues of G are those of :math:`F F^\top`, and zeros.
A row of F belongs to a sample and an output; layer by layer its entries are an outer
product of what is pulled back to the layer's outputs and what comes into the layer, so

.. math:: F F^\top = \sum_l (\Delta_l \Delta_l^\top) \circ (X_l X_l^\top + 1)
"""

import math

import torch
from torch import Tensor

from curvescope._core.checks import message
from curvescope.exact.factor import factor_triangle, ggn_factor
from curvescope.exact.network import FeedForward, feed_forward
from curvescope.problem import Problem


def ggn_spectrum(problem: Problem) -> Tensor:
    """Return all eigenvalues of the GGN, by the smallest matrix that has them.

    Args:
        problem: Model, loss and data; promoted to float64. Weight decay plays no part.

    Returns:
        As many as parameters, descending, float64 on the CPU; exact up to rounding
        relative to the largest one, and none below 0.

    Raises:
        ValueError: If an output Hessian is indefinite.

    Cost:
        With R rows of the factor (samples times outputs) and P parameters the cube of
        the smaller of both; for a feed-forward net with R < P as little as
        ``R^2`` times its widths before that, else ``R P min(R, P)``.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False).double()
        >>> data = (torch.eye(2).double(), torch.zeros(2, 1).double())
        >>> ggn_spectrum(Problem(model, "half_squared_error", data, reduction="sum"))
        tensor([1., 1.], dtype=torch.float64)
    """
    problem = problem.promoted()
    size = problem.num_params
    values = torch.linalg.eigvalsh(_smaller_gram(problem, size)).flip(0).cpu()
    values = values[:size].clamp_min(0.0)
    return torch.cat([values, values.new_zeros(size - len(values))])


def _smaller_gram(problem: Problem, size: int) -> Tensor:
    net = feed_forward(problem)
    if net is not None and problem.layout.entries is None and _is_whole(net):
        if net.problem.num_samples * net.widths[-1] < size:
            return _row_products(net)
        R = factor_triangle(problem)
        return R.T @ R
    F = ggn_factor(problem)
    return F @ F.T if len(F) < size else F.T @ F


def _is_whole(net: FeedForward) -> bool:
    """Tell whether the problem selects all parameters."""
    return net.problem.num_params == net.num_params


def _row_products(net: FeedForward) -> Tensor:
    """Return ``F F'``, rows ordered by samples, then by outputs."""
    parts, rows = [], []
    for samples in net.samples(most=max(1, net.problem.num_samples)):
        found = net.output_factors(samples)
        if found is None:
            contract = "be convex in the outputs for the GGN to have a factor"
            raise ValueError(message("loss", contract, net.problem.loss.name))
        parts.append(samples.inputs)
        rows.append(found)
    inputs, factors = torch.cat(parts), torch.cat(rows)
    pre = net.forward(inputs)[:-1]
    between = list(zip(net.activations, pre, strict=True))
    hidden = [inputs, *(activation.value(z) for activation, z in between)]
    n, outputs, _ = factors.shape
    pulled = factors * math.sqrt(net.problem.scale)
    total = factors.new_zeros(n, outputs, n, outputs)
    for index in range(len(net.layers) - 1, -1, -1):
        layer = net.layers[index]
        flat = pulled.reshape(n * outputs, -1)
        inner = hidden[index] @ hidden[index].T
        if layer.bias is not None:
            inner = inner + 1.0
        products = (flat @ flat.T).view(n, outputs, n, outputs)
        total.addcmul_(products, inner[:, None, :, None])
        if index > 0:
            activation, z = between[index - 1]
            pulled = (pulled @ layer.weight) * activation.slope(z)[:, None]
    return total.view(n * outputs, n * outputs)
