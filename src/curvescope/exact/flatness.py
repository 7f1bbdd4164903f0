"""How many samples the loss is flat for, in float64, and whether that matters."""

import torch
from torch import Tensor

from curvescope.exact.linear_maps import (
    DataSums,
    chunk_size,
    extend,
    row_space,
    triangle,
)
from curvescope.exact.network import FeedForward
from curvescope.losses import BCEWithLogits, CrossEntropy, LogCosh

_EPS = torch.finfo(torch.float64).eps
# Factors whose shortest column bounds their smallest nonzero singular value from below:
# diagonal ones, and sqrt(mass) diag(sqrt p) (I - 1 p'), as lambda_2 >= mass min p.
_BY_COLUMNS = (BCEWithLogits, CrossEntropy, LogCosh)


def flatness(
    net: FeedForward, easy: FeedForward, sums: DataSums, directions: Tensor
) -> tuple[int | None, bool]:
    r"""Count the samples that a loss is flat for in some direction it is curved in.

    Saturated samples: :math:`1 - \tanh^2`, :math:`s (1 - s)` or a probability that is
    nothing beside the largest curvature of all samples. If the others span the inputs,
    :math:`\sum_i \Lambda_i \otimes x_i x_i^\top` is still definite on the product of
    both spaces, which is all that the formulas of linear nets need.

    Args:
        net: Any feed-forward net.
        easy: The same, with inputs of one scale.
        sums: Its sums over the data.
        directions: Orthonormal basis of the outputs' directions that the loss is curved
            in, ``(K, k)``.

    Returns:
        The number, ``None`` where output Hessians are indefinite; and whether that sum is
        definite.

    Cost:
        Two passes over the data at most, in ``O(n (K^2 + d^2))``; of losses of unknown
        form ``O(n K k^2)``.
    """
    if not sums.has_factor:
        return None, False
    if sums.constant is not None or not directions.shape[1]:
        return 0, True
    most = chunk_size(net.widths[-1] ** 2)
    lowest, top = [], 0.0
    for part in net.samples(most=most):
        factor = net.output_factors(part)
        assert factor is not None
        low, high = _extremes(net, factor, directions)
        lowest.append(low)
        top = max(top, high)
    # The tolerance that the rank of the GGN's factor is read at.
    whole = torch.cat(lowest) > net.num_params * _EPS * top
    flat = int((~whole).sum())
    return flat, flat == 0 or _spanned(easy, whole, width=sums.inputs.shape[1])


def _extremes(
    net: FeedForward, factor: Tensor, directions: Tensor
) -> tuple[Tensor, float]:
    """Return a lower bound of each sample's least curvature, and the largest of all."""
    if isinstance(net.problem.loss, _BY_COLUMNS):
        live = directions.norm(dim=1) > 0.5 / directions.shape[0]
        values = factor.norm(dim=1)[:, live]
        return values.amin(1), float(values.max())
    values = torch.linalg.svdvals(factor @ directions)
    if values.shape[1] < directions.shape[1]:
        return values.new_zeros(len(values)), float(values.max())
    return values[:, -1], float(values.max())


def _spanned(net: FeedForward, whole: Tensor, *, width: int) -> bool:
    """Tell whether the samples chosen span what all inputs do."""
    extra = width > net.widths[0]
    some = net.layers[0].weight.new_zeros(0, width)
    every, start = some, 0
    for part in net.samples(most=chunk_size(width)):
        rows = extend(part.inputs, extended=extra)
        chosen = whole[start : start + len(rows)]
        some, every = triangle(some, rows[chosen]), triangle(every, rows)
        start += len(rows)
    return row_space(some)[0].shape[1] == row_space(every)[0].shape[1]
