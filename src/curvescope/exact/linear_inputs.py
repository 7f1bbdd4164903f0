"""Inputs in coordinates of one scale: a congruence of the Hessian of any net."""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from curvescope.exact.linear_maps import chunk_size, triangle
from curvescope.exact.network import FeedForward, InputMap

_EPS = torch.finfo(torch.float64).eps


@final
@dataclass(frozen=True, kw_only=True)
class InputGeometry:
    """What the inputs span, and coordinates in which they are of one scale.

    Attributes:
        shift: Subtracted first, ``(d,)``; zero where the constant is not an input.
        scale: Length of every column after the shift, without its mean if one was
            subtracted; 1 where that is zero.
        values: Singular values of the columns brought to length 1, descending.
        directions: Their right singular vectors that are kept, ``(d, r)``.
        rank: r.
        tolerance: Threshold of the singular values.
        noise: What the rounding of the stored inputs makes of them, where a mean was
            subtracted: directions down there are real to the numbers, but may not be
            meant.
    """

    shift: Tensor
    scale: Tensor
    values: Tensor
    directions: Tensor
    rank: int
    tolerance: float
    noise: float

    def basis(self) -> Tensor:
        """Return an orthonormal basis of the (centred) inputs' row space, ``(d, r)``."""
        return torch.linalg.qr(self.scale[:, None] * self.directions).Q


def input_geometry(net: FeedForward, *, centred: bool) -> InputGeometry:
    """Decide what the inputs span.

    Args:
        net: Any feed-forward net.
        centred: Whether to take the mean off first.

    Returns:
        Scale, singular values and rank.

    Cost:
        One pass over the data in ``O(n d^2)``, one more for the mean.
    """
    width, like = net.widths[0], net.layers[0].weight
    most = chunk_size(width)
    shift, largest = like.new_zeros(width), like.new_zeros(width)
    count = 0
    if centred:
        for part in net.samples(most=most):
            count += len(part)
            # A running mean, since a sum of large numbers rounds.
            shift = shift + (part.inputs - shift).sum(0) / count
            largest = torch.maximum(largest, part.inputs.abs().amax(0))
    rows = like.new_zeros(0, width + centred)
    for part in net.samples(most=most):
        inputs = part.inputs - shift
        if centred:
            inputs = torch.nn.functional.pad(inputs, (1, 0), value=1.0)
        rows = triangle(rows, inputs)
    if centred:
        # The triangle without the constant's row and column is that of the centred data.
        rows = torch.linalg.qr(rows, mode="r").R[1:, 1:]
    return _geometry(rows, shift, largest, num=net.problem.num_samples)


def _geometry(
    rows: Tensor, shift: Tensor, largest: Tensor, *, num: int
) -> InputGeometry:
    lengths = rows.norm(dim=0)
    # Less than a quarter of the spacing of the column's numbers is no variation at all.
    live = lengths > 0.25 * _EPS * largest
    lengths = torch.where(live, lengths, 0.0)
    largest = torch.where(live, largest, 0.0)
    scale = torch.where(lengths > 0, lengths, 1.0)
    equal = torch.where(live, rows / scale, 0.0)
    _, values, directions_t = torch.linalg.svd(equal, full_matrices=False)
    top = float(values[0]) if len(values) else 0.0
    tolerance = 8 * rows.shape[1] * _EPS * top
    noise = _EPS * num**0.5 * float((largest / scale).max())
    rank = int((values > tolerance).sum())
    return InputGeometry(
        shift=shift,
        scale=scale,
        values=values,
        directions=directions_t[:rank].T,
        rank=rank,
        tolerance=tolerance,
        noise=noise,
    )


def standardised(net: FeedForward) -> FeedForward:
    r"""Return the same function of the data with inputs of one scale and full rank.

    With :math:`X = Z R^\top` and :math:`Z` of orthogonal columns of unit variance, the
    first layer becomes :math:`W_1 R` (with a bias, :math:`x = \mu + R z` and
    :math:`b_1 + W_1 \mu`). The map of the parameters is linear and onto, so that by
    Sylvester's law H, GGN and functional Hessian keep rank and inertia; eigenvalues
    change. It holds for every activation, since only columns of the first weight are
    recombined. Columns are brought to one length before the rank is decided.

    Args:
        net: Any feed-forward net.

    Returns:
        A net with r inputs (r - 1 of the extended ones, where the first layer has a
        bias), whose `samples` give the new inputs; with one that is zero if there is none.

    Cost:
        ``O(n d^2)``.

    Example:
        >>> import curvescope as cs
        >>> from curvescope.exact.network import feed_forward
        >>> x = torch.tensor([[1.0, 1e-8], [2.0, 0.0], [0.0, 3e-8]]).double()
        >>> model = torch.nn.Linear(2, 1).double()
        >>> net = feed_forward(cs.Problem(model, "mse", (x, x[:, :1])))
        >>> part = next(standardised(net).samples(most=3))
        >>> bool(torch.allclose(part.inputs.T @ part.inputs, 3 * torch.eye(2).double()))
        True
    """
    first = net.layers[0]
    geometry = input_geometry(net, centred=first.bias is not None)
    directions, kept = geometry.directions, geometry.values[: geometry.rank]
    if not geometry.rank:
        # One input that is always zero stands for none: a layer has at least one.
        directions, kept = (
            torch.zeros_like(first.weight[:1].T),
            first.weight.new_ones(1),
        )
    length = net.problem.num_samples**0.5
    forwards = directions * (length / kept) / geometry.scale[:, None]
    backwards = geometry.scale[:, None] * directions * (kept / length)
    bias = first.bias
    if bias is not None:
        bias = bias + first.weight @ geometry.shift
    changed = replace(first, weight=first.weight @ backwards, bias=bias)
    return replace(
        net,
        layers=(changed, *net.layers[1:]),
        input_maps=(*net.input_maps, InputMap(shift=geometry.shift, matrix=forwards)),
    )
