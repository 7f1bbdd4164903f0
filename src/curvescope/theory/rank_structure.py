r"""Ranks of the parts: layers' factors, blocks, block columns, of linear networks.

Notation of all rank modules: layers ``1 .. L``, hidden widths :math:`m_1 .. m_{L-1}`,
:math:`A_l = W_L \cdots W_{l+1}` left of layer ``l``, :math:`B_l = W_{l-1} \cdots W_1`
right of it, :math:`C_{lk} = W_{l-1} \cdots W_{k+1}` between, :math:`M` the sum of the
hidden widths, :math:`\delta_i` and :math:`\Lambda_i` gradient and Hessian of sample
``i``'s loss with respect to the outputs, :math:`\Omega = \sum_i \delta_i x_i^\top`.
Ranks that enter: ``r`` of the inputs, ``k`` of the space that all :math:`\Lambda_i` are
positive definite on (``K`` outputs; ``K - 1`` for cross-entropy), ``s`` of
:math:`\Omega`.

The idea that proves what is derived here: the columns of a part span
:math:`\sum_j U_j \otimes V_j`, where the left spaces are nested one way and the right
ones the other way. The dimension of such a sum is the area of a union of rectangles
:math:`\dim U_j \times \dim V_j` that share a corner, a staircase.
"""

from collections.abc import Iterable, Sequence

from curvescope._core.checks import message, positive_int


def hidden_layers(hidden_widths: Sequence[int]) -> tuple[int, ...]:
    """Return hidden widths as checked integers; there may be none."""
    return tuple(positive_int("hidden_widths", width) for width in hidden_widths)


def rank_argument(argument: str, value: int) -> int:
    """Return a rank as a checked integer, zero allowed."""
    return positive_int(argument, value, minimum=0)


def staircase_area(rectangles: Iterable[tuple[int, int]]) -> int:
    r"""Return the area of a union of rectangles that share a corner.

    It is the dimension of :math:`\sum_j U_j \otimes V_j` if the spaces ``U_j`` are
    nested and the ``V_j`` are nested the other way.

    Args:
        rectangles: The pairs ``(dim U_j, dim V_j)``.

    Returns:
        The area.

    Example:
        >>> staircase_area([(1, 5), (3, 2)])
        9
    """
    area = covered = 0
    for left, right in sorted(rectangles, key=lambda sides: -sides[1]):
        area += max(left - covered, 0) * right
        covered = max(covered, left)
    return area


def generic_left_ranks(
    hidden_widths: Sequence[int], *, output_rank: int
) -> tuple[int, ...]:
    r"""Return :math:`a_l = \min(k, m_l, \ldots, m_{L-1})`, the ranks of generic `A_l`.

    Args:
        hidden_widths: Widths of the hidden layers.
        output_rank: ``k``.

    Returns:
        One rank a layer, ascending.

    Example:
        >>> generic_left_ranks([5, 10], output_rank=10)
        (5, 10, 10)
    """
    widths = hidden_layers(hidden_widths)
    k = rank_argument("output_rank", output_rank)
    return tuple(min((k, *widths[layer:])) for layer in range(len(widths) + 1))


def generic_right_ranks(
    hidden_widths: Sequence[int], *, input_rank: int
) -> tuple[int, ...]:
    r"""Return :math:`b_l = \min(r, m_1, \ldots, m_{l-1})`, the ranks of :math:`B_l X^T`.

    With biases everywhere, the rank of a layer's inputs beside a column of ones is
    ``1 + b_l`` with the rank of the centred inputs in the place of ``r``.

    Args:
        hidden_widths: Widths of the hidden layers.
        input_rank: ``r``.

    Returns:
        One rank a layer, descending.

    Example:
        >>> generic_right_ranks([5, 10], input_rank=25)
        (25, 5, 5)
    """
    widths = hidden_layers(hidden_widths)
    r = rank_argument("input_rank", input_rank)
    return tuple(min((r, *widths[:layer])) for layer in range(len(widths) + 1))


def staircase_ggn_rank(left_ranks: Sequence[int], right_ranks: Sequence[int]) -> int:
    r"""Return the rank of the GGN of a linear network, whatever its weights.

    .. math:: \operatorname{rank} G = \sum_{l=1}^{L} (a_l - a_{l-1}) b_l, \quad a_0 = 0

    Status: derived. The columns of layer ``l`` span col(A_l) x row(B_l); both chains are
    nested, in opposite ways. No assumption on the weights' ranks.

    Args:
        left_ranks: ``a_l``, the rank of the product of all weights after layer ``l``;
            for cross-entropy of that product with its columns' mean removed.
        right_ranks: ``b_l``, the rank over the samples of the inputs of layer ``l``;
            with biases in all layers, of those inputs beside a column of ones.

    Returns:
        The rank.

    Raises:
        ValueError: If lengths differ, or the ranks cannot be those of a network.

    Example:
        >>> staircase_ggn_rank([5, 10, 10], [25, 5, 5])
        150
    """
    left = tuple(rank_argument("left_ranks", rank) for rank in left_ranks)
    right = tuple(rank_argument("right_ranks", rank) for rank in right_ranks)
    if len(left) != len(right) or not left:
        got = f"{len(left)} and {len(right)} ranks"
        raise ValueError(message("right_ranks", "match `left_ranks`, not empty", got))
    if list(left) != sorted(left):
        raise ValueError(message("left_ranks", "not fall from layer to layer", left))
    if list(right) != sorted(right, reverse=True):
        raise ValueError(message("right_ranks", "not rise from layer to layer", right))
    return staircase_area(zip(left, right, strict=True))


def between_rank(widths: Sequence[int], later: int, earlier: int) -> int:
    r"""Return the rank of a generic :math:`C_{lk}`, layers ``l > k`` counted from 1."""
    return min(widths[earlier - 1 : later - 1])


def outer_rank(
    widths: Sequence[int], residual_rank: int, later: int, earlier: int, *, bias: bool
) -> int:
    r"""Return the rank of a generic :math:`A_l^\top \Omega B_k^\top`, ``l > k``.

    With biases ``B_k`` acts on ``[x; 1]`` and is one wider than the network.
    """
    left = min((residual_rank, *widths[later - 1 :]))
    before = widths[: earlier - 1]
    return min(left, min(before) + bias) if before else left


def functional_block_ranks(
    hidden_widths: Sequence[int], *, residual_rank: int
) -> tuple[tuple[int, ...], ...]:
    r"""Return the generic ranks of all blocks of the functional Hessian, no bias.

    .. math:: \operatorname{rank} F_{lk} = \min(s, m_l, .., m_{L-1}, m_1, .., m_{k-1})
        \cdot \min(m_k, .., m_{l-1}), \quad l > k

    and zero on the diagonal: the matrix is block-hollow. Status: derived (the block is
    a Kronecker product up to an order of its columns).

    Args:
        hidden_widths: Widths of the hidden layers.
        residual_rank: ``s``, the rank of the sum of ``delta_i x_i^T``.

    Returns:
        A symmetric table, one row a layer.

    Example:
        >>> functional_block_ranks([5, 10], residual_rank=10)
        ((0, 50, 50), (50, 0, 50), (50, 50, 0))
    """
    widths = hidden_layers(hidden_widths)
    s = rank_argument("residual_rank", residual_rank)

    def block(row: int, column: int) -> int:
        if row == column:
            return 0
        later, earlier = max(row, column), min(row, column)
        outer = outer_rank(widths, s, later, earlier, bias=False)
        return outer * between_rank(widths, later, earlier)

    layers = range(1, len(widths) + 2)
    return tuple(tuple(block(row, column) for column in layers) for row in layers)


def ggn_block_ranks(
    left_ranks: Sequence[int], right_ranks: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    r"""Return the ranks of all blocks of a linear network's GGN.

    .. math:: \operatorname{rank} G_{lk} = a_{\min(l, k)} \, b_{\max(l, k)}

    Status: derived. Equal for any weights if all :math:`\Lambda_i` are one matrix
    (squared error); for other losses on the diagonal only, and off it a lower bound,
    with ``min(a_l b_l, a_k b_k)`` as the upper one.

    Args:
        left_ranks: As of `staircase_ggn_rank`.
        right_ranks: As of `staircase_ggn_rank`.

    Returns:
        A symmetric table, one row a layer.

    Raises:
        ValueError: As `staircase_ggn_rank`.

    Example:
        >>> ggn_block_ranks([5, 10, 10], [25, 5, 5])
        ((125, 25, 25), (25, 50, 50), (25, 50, 50))
    """
    staircase_ggn_rank(left_ranks, right_ranks)
    layers = range(len(left_ranks))
    return tuple(
        tuple(left_ranks[min(i, k)] * right_ranks[max(i, k)] for k in layers)
        for i in layers
    )


def functional_column_ceiling(
    hidden_widths: Sequence[int],
    *,
    residual_rank: int,
    left_ranks: Sequence[int],
    right_ranks: Sequence[int],
) -> int:
    r"""Return a ceiling on the rank of F, a linear network without bias, any weights.

    The columns of layer ``l`` span a staircase for any weights, with the rectangles
    :math:`\operatorname{rank}(A_l^\top \Omega B_k^\top) \times \operatorname{rank} C_{lk}`
    for ``k < l`` and likewise for ``k > l``. Their areas are added up, with the most that
    the ranks of the factors leave for those of the products:

    .. math:: \operatorname{rank}(A_l^\top \Omega B_k^\top) \le \min(a_l, s, b_k), \quad
        \operatorname{rank} C_{lk} \le
        \min(m_k, .., m_{l-1}, \; b_l + m_k - b_{k+1}, \; a_k + m_{l-1} - a_{l-1})

    (the last two by Sylvester's inequality). At generic weights it is `functional_rank`.
    At others it may be above the rank, as the layers' columns need not be independent:
    in the example, a middle weight of rank 2, the rank is 68.

    Status: derived.

    Args:
        hidden_widths: Widths of the hidden layers.
        residual_rank: ``s``, the rank of the sum of ``delta_i x_i^T``.
        left_ranks: ``a_l``, as of `staircase_ggn_rank`.
        right_ranks: ``b_l``, as of `staircase_ggn_rank`.

    Returns:
        The ceiling.

    Example:
        >>> ranks = dict(left_ranks=[2, 4, 4], right_ranks=[12, 6, 2])
        >>> functional_column_ceiling([6, 5], residual_rank=4, **ranks)
        72
    """
    staircase_ggn_rank(left_ranks, right_ranks)
    widths = hidden_layers(hidden_widths)
    s = rank_argument("residual_rank", residual_rank)
    # Layers count from 1, as in the formulas; nothing reads the entries at 0.
    a, b = (0, *left_ranks), (0, *right_ranks)

    def outer(later: int, earlier: int) -> int:
        return min(a[later], s, b[earlier])

    def between(later: int, earlier: int) -> int:
        from_inputs = b[later] + widths[earlier - 1] - b[earlier + 1]
        from_outputs = a[earlier] + widths[later - 2] - a[later - 1]
        return min(between_rank(widths, later, earlier), from_inputs, from_outputs)

    def column(layer: int) -> int:
        before = [(outer(layer, k), between(layer, k)) for k in range(1, layer)]
        after = [(between(k, layer), outer(k, layer)) for k in range(layer + 1, len(a))]
        return staircase_area(before + after)

    return sum(column(layer) for layer in range(1, len(a)))
