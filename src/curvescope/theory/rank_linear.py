r"""Ranks of linear networks without bias, at generic weights.

Generic: for almost all weights, hence with probability one at any continuous random
initialisation. The losses are those whose per-sample Hessians with respect to the
outputs are all positive definite on one space of dimension ``k`` that holds the
gradients too: squared error and log-cosh with ``k = K`` outputs, cross-entropy with
``k = K - 1``. Notation: see `curvescope.theory.rank_structure`.
"""

import itertools
import math
from collections.abc import Sequence

from curvescope._core.checks import message, positive_int
from curvescope.theory.rank_structure import (
    between_rank,
    hidden_layers,
    outer_rank,
    rank_argument,
    staircase_area,
)


def bottleneck(
    hidden_widths: Sequence[int], *, input_rank: int, output_rank: int
) -> int:
    r"""Return :math:`q = \min(r, k, m_1, \ldots, m_{L-1})`.

    Args:
        hidden_widths: Widths of the hidden layers.
        input_rank: ``r``; with biases the rank of the centred inputs.
        output_rank: ``k``.

    Returns:
        The narrowest place that a signal passes.

    Example:
        >>> bottleneck([5, 10], input_rank=25, output_rank=10)
        5
    """
    r = rank_argument("input_rank", input_rank)
    k = rank_argument("output_rank", output_rank)
    return min((r, k, *hidden_layers(hidden_widths)))


def ggn_rank(hidden_widths: Sequence[int], *, input_rank: int, output_rank: int) -> int:
    r"""Return the generic rank of the GGN, a linear network without bias.

    .. math:: \operatorname{rank} G = q (r + k - q), \quad q = \min(r, k, m)

    Status: published; also derived, from `staircase_ggn_rank`.

    Args:
        hidden_widths: Widths of the hidden layers, none for a linear model.
        input_rank: ``r``, the rank of the inputs' second moment.
        output_rank: ``k``; ``K - 1`` for cross-entropy, 0 for a loss that is linear in
            the outputs.

    Returns:
        The rank.

    Example:
        >>> ggn_rank([5, 10], input_rank=25, output_rank=10)
        150

    References:
        Singh, Bachmann, Hofmann (2021), arXiv:2106.16225.
    """
    q = bottleneck(hidden_widths, input_rank=input_rank, output_rank=output_rank)
    return q * (input_rank + output_rank - q)


def functional_column_ranks(
    hidden_widths: Sequence[int], *, residual_rank: int
) -> tuple[int, ...]:
    r"""Return the generic ranks of the layers' columns of the functional Hessian.

    With :math:`\hat q = \min(s, m)`: :math:`\hat q (m_{l-1} + m_l - \hat q)` for a layer
    between, :math:`\hat q (m_1 + s - \hat q)` for the first and
    :math:`\hat q (m_{L-1} + s - \hat q)` for the last; all zero without hidden layers.

    Status: derived, as the area of a staircase of generic ranks.

    Args:
        hidden_widths: Widths of the hidden layers.
        residual_rank: ``s``, the rank of the sum of ``delta_i x_i^T``.

    Returns:
        One rank a layer. Their sum is `functional_rank`.

    Example:
        >>> functional_column_ranks([5, 10], residual_rank=10)
        (50, 50, 75)
    """
    widths = hidden_layers(hidden_widths)
    s = rank_argument("residual_rank", residual_rank)
    num_layers = len(widths) + 1

    def column(layer: int) -> int:
        before = [
            (
                outer_rank(widths, s, layer, k, bias=False),
                between_rank(widths, layer, k),
            )
            for k in range(1, layer)
        ]
        after = [
            (
                between_rank(widths, k, layer),
                outer_rank(widths, s, k, layer, bias=False),
            )
            for k in range(layer + 1, num_layers + 1)
        ]
        return staircase_area(before + after)

    return tuple(column(layer) for layer in range(1, num_layers + 1))


def functional_rank(hidden_widths: Sequence[int], *, residual_rank: int) -> int:
    r"""Return the generic rank of the functional Hessian, a linear network without bias.

    .. math:: \operatorname{rank} F = 2 \hat q M + 2 \hat q s - L \hat q^2, \quad
        \hat q = \min(s, m_1, \ldots, m_{L-1})

    and 0 without hidden layers. The data enter through ``s`` alone.

    Status: published for ``s = min(r, k)``. For smaller ``s`` (few classes present, few
    samples, fitted directions) the form with :math:`\hat q` was found by fitting and
    verified on fresh random cases in exact arithmetic, not proved.

    Args:
        hidden_widths: Widths of the hidden layers.
        residual_rank: ``s``, the rank of the sum of ``delta_i x_i^T``.

    Returns:
        The rank.

    Example:
        >>> functional_rank([5, 10], residual_rank=10)
        175

    References:
        Singh, Bachmann, Hofmann (2021), arXiv:2106.16225.
    """
    widths = hidden_layers(hidden_widths)
    s = rank_argument("residual_rank", residual_rank)
    if not widths:
        return 0
    q = min((s, *widths))
    return 2 * q * sum(widths) + 2 * q * s - (len(widths) + 1) * q * q


def hessian_rank(
    hidden_widths: Sequence[int],
    *,
    input_rank: int,
    output_rank: int,
    residual_rank: int,
) -> int:
    r"""Return the generic rank of the Hessian, a linear network without bias.

    .. math:: \operatorname{rank} H = \operatorname{rank} G + \operatorname{rank} F
        - \hat q (2 s - \hat q) = q (r + k - q) + \hat q (2 M - (L - 1) \hat q)

    with :math:`\hat q = \min(q, s)`; without hidden layers the rank of the GGN.

    Status: published for ``s = min(r, k)``; for smaller ``s`` fitted and verified.

    Args:
        hidden_widths: Widths of the hidden layers.
        input_rank: ``r``.
        output_rank: ``k``.
        residual_rank: ``s``, at most ``min(r, k)``; if ``k = 0`` (a loss that is linear
            in the outputs) at most ``r``.

    Returns:
        The rank.

    Raises:
        ValueError: If ``residual_rank`` is larger than that.

    Example:
        >>> hessian_rank([5, 10], input_rank=25, output_rank=10, residual_rank=10)
        250

    References:
        Singh, Bachmann, Hofmann (2021), arXiv:2106.16225.
    """
    widths = hidden_layers(hidden_widths)
    outer = ggn_rank(widths, input_rank=input_rank, output_rank=output_rank)
    s = residual_argument(residual_rank, input_rank, output_rank)
    if not widths:
        return outer
    shared = min((input_rank, output_rank, s, *widths))
    functional = functional_rank(widths, residual_rank=s)
    return outer + functional - shared * (2 * s - shared)


def residual_argument(residual_rank: int, num_directions: int, output_rank: int) -> int:
    """Return a residual's rank, checked against inputs and outputs."""
    s = rank_argument("residual_rank", residual_rank)
    most = min(num_directions, output_rank) if output_rank else num_directions
    if s > most:
        remedy = (
            "No equality is known for other losses; `predicted_ranks` has ceilings."
        )
        raise ValueError(message("residual_rank", f"be at most {most}", s, remedy))
    return s


def hessian_deficiency(
    hidden_widths: Sequence[int], *, input_rank: int, output_rank: int
) -> int:
    r"""Return how many directions the Hessian lacks beyond those of data and loss.

    .. math:: P_r - \operatorname{rank} H = \sum_{l=1}^{L} (m_{l-1} - q)(m_l - q),
        \quad m_0 = r, \; m_L = k

    with :math:`P_r = \sum_l m_{l-1} m_l` counted with the same ``m_0`` and ``m_L``, and
    a residual of full rank ``min(r, k)``.

    Status: derived from `hessian_rank`, by expanding the product.

    Args:
        hidden_widths: Widths of the hidden layers.
        input_rank: ``r``.
        output_rank: ``k``.

    Returns:
        The deficiency.

    Example:
        >>> hessian_deficiency([5, 10], input_rank=25, output_rank=10)
        25
    """
    q = bottleneck(hidden_widths, input_rank=input_rank, output_rank=output_rank)
    sizes = (input_rank, *hidden_widths, output_rank)
    pairs = itertools.pairwise(sizes)
    return sum((before - q) * (after - q) for before, after in pairs)


def rank_over_root_params(
    width: int,
    *,
    num_hidden: int,
    num_inputs: int,
    num_outputs: int,
    input_rank: int | None = None,
    output_rank: int | None = None,
) -> float:
    r"""Return rank H over :math:`\sqrt P` for hidden layers of one width.

    With ranks of data and loss fixed and two hidden layers or more, the number of
    parameters grows with the square of the width and the rank with the width: the
    quotient tends to :func:`root_params_limit`, and rank over ``P`` to zero.

    Status: derived from `hessian_rank`, with a residual of full rank.

    Args:
        width: Width of every hidden layer.
        num_hidden: Number of hidden layers.
        num_inputs: ``d``.
        num_outputs: ``K``.
        input_rank: ``r``; ``d`` if ``None``.
        output_rank: ``k``; ``K`` if ``None``.

    Returns:
        The quotient.

    Example:
        >>> size = dict(num_hidden=2, num_inputs=64, num_outputs=10)
        >>> [round(rank_over_root_params(m, **size), 1) for m in (16, 1024)]
        [28.5, 39.0]
    """
    hidden = (positive_int("width", width),) * positive_int("num_hidden", num_hidden)
    r = num_inputs if input_rank is None else input_rank
    k = num_outputs if output_rank is None else output_rank
    rank = hessian_rank(hidden, input_rank=r, output_rank=k, residual_rank=min(r, k))
    sizes = (num_inputs, *hidden, num_outputs)
    num_params = sum(a * b for a, b in itertools.pairwise(sizes))
    return rank / math.sqrt(num_params)


def root_params_limit(*, num_hidden: int, bottleneck: int) -> float:
    r"""Return the limit of rank H over :math:`\sqrt P` as the hidden layers widen.

    .. math:: \frac{2 q (L - 1)}{\sqrt{L - 2}}, \quad q = \min(r, k)

    Status: derived from `hessian_rank`.

    Args:
        num_hidden: Number ``L - 1`` of hidden layers, at least 2: with one, ``P`` grows
            like the width and so does the rank.
        bottleneck: ``q`` of a wide network.

    Returns:
        The limit.

    Example:
        >>> root_params_limit(num_hidden=2, bottleneck=10)
        40.0
    """
    hidden = positive_int("num_hidden", num_hidden, minimum=2)
    return (
        2.0 * rank_argument("bottleneck", bottleneck) * hidden / math.sqrt(hidden - 1)
    )
