r"""A factor of the GGN, and its triangle.

With :math:`\Lambda_n = R_n^\top R_n` the output Hessian of sample n,

.. math:: G = F^\top F, \qquad F = \sqrt{\text{scale}}\, [R_n J_n]_n

The singular values of F keep the digits that squaring loses: rank decisions about the
GGN are made here. No weight decay.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

from curvescope._core.checks import message
from curvescope._core.memory import available_memory, format_bytes
from curvescope.autodiff.columns import pullback
from curvescope.autodiff.layout import Layout
from curvescope.exact.mlp import selected_blocks
from curvescope.exact.network import FeedForward, feed_forward, semidefinite_factor
from curvescope.problem import Problem
from curvescope.problem.batches import Batch

_CHUNK_BYTES = 128 * 2**20
# Samples that share a graph: a row costs a backward pass over all of them.
_GROUP = 4


def has_factor(problem: Problem) -> bool:
    """Tell whether every sample's output Hessian is positive semidefinite.

    Cost:
        A forward pass, and small eigenvalue problems where the loss has no formula.
    """
    problem = problem.promoted()
    problem.refresh()
    _, parameters = problem.leaves()
    for batch in problem.batches():
        with problem.network.running(), torch.no_grad():
            outputs = problem.outputs(batch, parameters)
            if output_factors(problem, batch, outputs) is None:
                return False
    return True


def ggn_factor(problem: Problem) -> Tensor:
    """Return F with ``F' F`` the GGN, the scale included, weight decay not.

    Args:
        problem: Model, loss and data; promoted to float64.

    Returns:
        Shape ``(N K', num_params)`` with K' rows a sample, the number of outputs for
        most losses.

    Raises:
        ValueError: If an output Hessian is indefinite.
        MemoryError: If F does not fit.

    Cost:
        ``8 N K' P`` bytes. For a feed-forward net about as many operations, else a
        backward pass through a few samples for every row.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False).double()
        >>> data = (torch.eye(2).double(), torch.zeros(2, 1).double())
        >>> ggn_factor(Problem(model, "half_squared_error", data, reduction="sum"))
        tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64)
    """
    problem = problem.promoted()
    parts: list[Tensor] = []
    held = 0
    allowed = available_memory(problem.device)
    for rows in factor_rows(problem, most_bytes=_CHUNK_BYTES):
        held += rows.numel() * 8
        # Joining the parts needs as much once more.
        if 2 * held > allowed:
            got = f"more than {format_bytes(held)} for {problem.num_params} parameters"
            remedy = "Use `factor_triangle`, which has the same singular values."
            raise MemoryError(
                message("problem", "have a factor that fits", got, remedy)
            )
        parts.append(rows)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def factor_triangle(problem: Problem) -> Tensor:
    """Return R with ``R' R`` the GGN: the triangle of a QR decomposition of F.

    It has the singular values of F, up to rounding relative to the largest, and is
    accumulated over the samples, so that F itself is never held.

    Args:
        problem: Model, loss and data; promoted to float64.

    Returns:
        Upper triangular or trapezoidal, at most ``num_params`` rows.

    Raises:
        ValueError: If an output Hessian is indefinite.

    Cost:
        The rows of F, and ``4 N K' P^2`` operations; ``32 P^2`` bytes.

    References:
        Demmel, Grigori, Hoemmen, Langou (2012), doi:10.1137/080731992, on TSQR.
    """
    problem = problem.promoted()
    size = problem.num_params
    triangle: Tensor | None = None
    held: list[Tensor] = []
    # As many rows at once as the triangle has: fewer would repeat its own work.
    for rows in factor_rows(problem, most_bytes=_CHUNK_BYTES):
        held.append(rows)
        if sum(map(len, held)) >= size:
            triangle, held = _triangle(triangle, held), []
    return _triangle(triangle, held) if held or triangle is None else triangle


def _triangle(above: Tensor | None, rows: list[Tensor]) -> Tensor:
    stacked = torch.cat(rows if above is None else [above, *rows])
    triangle: Tensor = torch.linalg.qr(stacked, mode="r").R
    return triangle


def factor_rows(problem: Problem, *, most_bytes: int) -> Iterator[Tensor]:
    """Yield the rows of F, some samples at a time.

    Args:
        problem: In float64.
        most_bytes: What a part may take, unless a single sample's rows take more.

    Raises:
        ValueError: If an output Hessian is indefinite.
    """
    net = feed_forward(problem)
    if net is None:
        yield from _autodiff_rows(problem)
        return
    size = problem.layout.full_size
    most = max(1, most_bytes // (8 * size * net.widths[-1]))
    for samples in net.samples(most=most):
        factors = net.output_factors(samples)
        if factors is None:
            raise _indefinite(problem)
        factors = factors * math.sqrt(problem.scale)
        rows = _mlp_rows(net, problem.layout, samples.inputs, factors)
        entries = problem.layout.entries
        yield rows if entries is None else rows[:, entries]


def _mlp_rows(
    net: FeedForward, layout: Layout, inputs: Tensor, factors: Tensor
) -> Tensor:
    """Pull the rows of the factors back through the layers."""
    pre = net.forward(inputs)[:-1]
    between = list(zip(net.activations, pre, strict=True))
    hidden = [inputs, *(activation.value(z) for activation, z in between)]
    n, rows, _ = factors.shape
    found = factors.new_empty(n, rows, layout.full_size)
    blocks = selected_blocks(net, layout)
    by_index = {block.index: block for block in blocks}
    pulled = factors
    for index in range(len(net.layers) - 1, blocks[0].index - 1, -1):
        block = by_index.get(index)
        if block is not None:
            x = block.extended(hidden[index].T).T
            for p in block.pieces:
                stop = p.start + block.outputs * p.width
                place = found[:, :, p.start : stop]
                place = place.view(n, rows, block.outputs, p.width)
                torch.mul(pulled[..., None], x[:, None, None, p.columns], out=place)
        if index > blocks[0].index:
            activation, z = between[index - 1]
            pulled = (pulled @ net.layers[index].weight) * activation.slope(z)[:, None]
    return found.view(n * rows, -1)


def _autodiff_rows(problem: Problem) -> Iterator[Tensor]:
    problem.refresh()
    route = _Route(problem)
    for batch in problem.batches():
        for part in _groups(batch):
            yield route.rows(part)


def _groups(batch: Batch) -> list[Batch]:
    """Split into groups of equal size, of one sample only where there is no other."""
    n = batch.num_samples
    count = max(1, n // _GROUP)
    edges = [i * n // count for i in range(count + 1)]
    return [batch.part(start, stop) for start, stop in pairwise(edges)]


@final
class _Route:
    """Rows by backward passes, several at once where the layers have the rules."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.vectorised = not (
            problem.network.has_convolutions and problem.device.type == "cpu"
        )

    def rows(self, part: Batch) -> Tensor:
        """Return the rows of a few samples."""
        problem = self.problem
        leaves, parameters = problem.leaves()
        with problem.network.running(), torch.enable_grad():
            outputs = problem.outputs(part, parameters)
            factors = output_factors(problem, part, outputs)
            if factors is None:
                raise _indefinite(problem)
            n, rows, width = factors.shape
            seeds = factors.new_zeros(n, rows, n, width)
            seeds.diagonal(dim1=0, dim2=2).copy_(factors.permute(1, 2, 0))
            seeds = seeds.reshape(n * rows, *outputs.shape)
            grads = self._pull(outputs, leaves, seeds * math.sqrt(problem.scale))
        return problem.layout.join(grads).detach()

    def _pull(
        self, outputs: Tensor, leaves: tuple[Tensor, ...], seeds: Tensor
    ) -> list[Tensor]:
        if self.vectorised:
            try:
                return pullback((outputs,), leaves, (seeds,), vectorised=True)
            except (RuntimeError, NotImplementedError):
                # Some layers have no batching rule; row by row always works.
                self.vectorised = False
        return pullback((outputs,), leaves, (seeds,), vectorised=False)


def output_factors(problem: Problem, batch: Batch, outputs: Tensor) -> Tensor | None:
    """Return R ``(n, K', K)`` with ``R' R`` the output Hessians; ``None`` if indefinite.

    Outputs of more than two dimensions count as K outputs of their sample.
    """
    outputs = outputs.detach()
    loss, targets = problem.loss, batch.targets
    if outputs.ndim == 2:
        factor = loss.output_factor(outputs, targets)
        if factor is not None:
            return factor
    # One block for all, where the first dimension is not the samples'.
    n = batch.num_samples if outputs.shape[:1] == (batch.num_samples,) else 1
    width = outputs.numel() // n
    unit = torch.eye(width).to(outputs)[:, None, :].expand(width, n, width)
    product = loss.output_hessian(outputs, targets)
    columns = product(unit.reshape(width, *outputs.shape))
    hessians = columns.reshape(width, n, width).transpose(0, 1)
    return semidefinite_factor((hessians + hessians.transpose(1, 2)) / 2)


def _indefinite(problem: Problem) -> ValueError:
    contract = "be convex in the outputs for the GGN to have a factor"
    remedy = "Use `curvescope.exact.ggn`, the matrix itself."
    return ValueError(message("loss", contract, problem.loss.name, remedy))
