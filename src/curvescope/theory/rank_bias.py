r"""Ranks of linear networks with a bias in every layer, at generic weights.

Two symbols change their meaning against `curvescope.theory.rank_linear`:

- :math:`r_c = \operatorname{rank}[X \; 1] - 1`, the rank of the **centred** inputs,
  stands where ``r`` stood, and ``q = min(r_c, k, m)``. Nothing is assumed of the inputs'
  mean.
- :math:`\tilde s = \operatorname{rank} \sum_i \delta_i [x_i; 1]^\top`, at most
  ``min(k, r_c + 1)``, stands where ``s`` stood.

``k`` is as before: ``K`` outputs, ``K - 1`` for cross-entropy. Generic includes
that the residuals do not sum to zero. Where they do (``balanced``: at an exact minimum
over the last bias), the functional Hessian is that of the network without biases.
"""

from collections.abc import Sequence

from curvescope.theory.rank_linear import (
    bottleneck,
    functional_column_ranks,
    residual_argument,
)
from curvescope.theory.rank_structure import (
    between_rank,
    hidden_layers,
    outer_rank,
    rank_argument,
    staircase_area,
)


def ggn_rank_with_bias(
    hidden_widths: Sequence[int], *, centred_input_rank: int, output_rank: int
) -> int:
    r"""Return the generic rank of the GGN, a linear network with biases.

    .. math:: \operatorname{rank} G = k + q (r_c + k - q), \quad q = \min(r_c, k, m)

    Status: derived, from `staircase_ggn_rank` with ``b_l + 1`` for ``b_l``.

    Args:
        hidden_widths: Widths of the hidden layers.
        centred_input_rank: ``r_c``, the rank of ``[X 1]`` less one.
        output_rank: ``k``.

    Returns:
        The rank.

    Example:
        >>> ggn_rank_with_bias([5, 10], centred_input_rank=25, output_rank=10)
        160
    """
    r = rank_argument("centred_input_rank", centred_input_rank)
    q = bottleneck(hidden_widths, input_rank=r, output_rank=output_rank)
    return output_rank + q * (r + output_rank - q)


def functional_column_ranks_with_bias(
    hidden_widths: Sequence[int], *, residual_rank: int, balanced: bool = False
) -> tuple[int, ...]:
    r"""Return the ranks of the layers' columns (weights and bias) of the functional part.

    With :math:`\gamma_{tl} = \min(m_l, .., m_{t-1})` and :math:`\rho_{tl} =
    \min(m_t, .., m_{L-1}, \tilde s, 1 + \min(m_1, .., m_{l-1}))` for ``t > l``:

    .. math:: \sum_{t>l} \gamma_{tl} (\rho_{tl} - \rho_{t-1,l})
        + \sum_{t<l} \gamma_{lt} (\rho_{lt} - \rho_{l,t+1})
        - [1 < l < L] \, \rho_{l1} (\rho_{Ll} - 1)_+

    Status: derived, as two staircases less what they share; the ranks of the products
    that enter are generic ones.

    Args:
        hidden_widths: Widths of the hidden layers.
        residual_rank: The rank of the sum of ``delta_i [x_i; 1]^T``.
        balanced: Whether the ``delta_i`` sum to zero; then nothing of the biases enters.

    Returns:
        One rank a layer. Their sum is `functional_rank_with_bias`.

    Example:
        >>> functional_column_ranks_with_bias([5, 10], residual_rank=10)
        (50, 60, 80)
    """
    if balanced:
        return functional_column_ranks(hidden_widths, residual_rank=residual_rank)
    widths = hidden_layers(hidden_widths)
    s = rank_argument("residual_rank", residual_rank)
    last = len(widths) + 1

    def rho(later: int, earlier: int) -> int:
        return outer_rank(widths, s, later, earlier, bias=True)

    def column(layer: int) -> int:
        before = [
            (rho(layer, k), between_rank(widths, layer, k)) for k in range(1, layer)
        ]
        after = [
            (between_rank(widths, k, layer), rho(k, layer))
            for k in range(layer + 1, last + 1)
        ]
        inner = 1 < layer < last
        shared = rho(layer, 1) * max(rho(last, layer) - 1, 0) if inner else 0
        return staircase_area(before) + staircase_area(after) - shared

    return tuple(column(layer) for layer in range(1, last + 1))


def functional_rank_with_bias(
    hidden_widths: Sequence[int], *, residual_rank: int, balanced: bool = False
) -> int:
    r"""Return the generic rank of the functional Hessian, a linear network with biases.

    The sum of `functional_column_ranks_with_bias`; if no hidden width is below
    :math:`\tilde s` it is :math:`2 \tilde s M - (L-2) \tilde s (\tilde s - 1)`. It
    depends on *where* the bottleneck is: a form in ``q`` alone cannot exist.

    Status: fitted (that the layers' columns are independent), verified on fresh random
    cases in exact arithmetic.

    Args:
        hidden_widths: Widths of the hidden layers.
        residual_rank: The rank of the sum of ``delta_i [x_i; 1]^T``.
        balanced: Whether the ``delta_i`` sum to zero.

    Returns:
        The rank.

    Example:
        >>> [functional_rank_with_bias(m, residual_rank=6) for m in ([2, 7], [7, 2])]
        [60, 50]
    """
    ranks = functional_column_ranks_with_bias(
        hidden_widths, residual_rank=residual_rank, balanced=balanced
    )
    return sum(ranks)


def hessian_rank_with_bias(
    hidden_widths: Sequence[int],
    *,
    centred_input_rank: int,
    output_rank: int,
    residual_rank: int,
    balanced: bool = False,
) -> int:
    r"""Return the generic rank of the Hessian, a linear network with biases.

    .. math:: \operatorname{rank} H = \operatorname{rank} G + \operatorname{rank} F
        - \hat q (2 \tilde s - 1 - \hat q), \quad \hat q = \min(q, \tilde s)

    with :math:`2 \tilde s - \hat q` in the bracket if the residuals are balanced, and the rank of the GGN without hidden layers.

    Status: fitted, verified on fresh random cases in exact arithmetic.

    Args:
        hidden_widths: Widths of the hidden layers.
        centred_input_rank: ``r_c``, the rank of ``[X 1]`` less one.
        output_rank: ``k``.
        residual_rank: The rank of the sum of ``delta_i [x_i; 1]^T``, at most
            ``min(r_c + 1, k)``; if ``k = 0`` at most ``r_c + 1``.
        balanced: Whether the ``delta_i`` sum to zero; their rank is then at most ``r_c``.

    Returns:
        The rank.

    Raises:
        ValueError: If ``residual_rank`` is larger than that.

    Example:
        >>> ranks = dict(centred_input_rank=25, output_rank=10, residual_rank=10)
        >>> hessian_rank_with_bias([5, 10], **ranks)
        280
    """
    widths = hidden_layers(hidden_widths)
    r = rank_argument("centred_input_rank", centred_input_rank)
    outer = ggn_rank_with_bias(widths, centred_input_rank=r, output_rank=output_rank)
    s = residual_argument(residual_rank, r + (not balanced), output_rank)
    if not widths:
        return outer
    shared = min((r, output_rank, s, *widths))
    functional = functional_rank_with_bias(widths, residual_rank=s, balanced=balanced)
    return outer + functional - shared * (2 * s - (not balanced) - shared)
