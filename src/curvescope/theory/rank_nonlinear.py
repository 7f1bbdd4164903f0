r"""Ceilings on ranks of networks with elementwise activations, and what is exact.

All are derived from kernels that can be written down: inputs that no sample has, outputs
that the loss does not see, scalings that a homogeneous activation undoes. Wide smooth
networks on many samples reach them; dead units, narrow deep ReLU networks and few samples
do not. Nothing here is claimed to be in the published work, whose own non-linear
theorems were not at hand.

``fan_in`` is the rank that the first layer sees: ``r`` of the inputs, or the rank of
``[X 1]`` if the first layer has a bias. ``seen`` is the dimension of what the loss sees
of the ``K`` outputs: ``K - 1`` if it is invariant to a common shift of all of them
(cross-entropy), else ``K``.
"""

from collections.abc import Sequence

from curvescope._core.checks import message, positive_int
from curvescope.theory.rank_structure import rank_argument


def reduced_sizes(
    widths: Sequence[int], *, fan_in: int, seen: int, biases: Sequence[bool]
) -> tuple[int, ...]:
    r"""Return the layers' numbers of parameters that data and loss can tell apart.

    .. math:: p_1 = m_1 \cdot \text{fan\_in}, \quad p_l = m_l (m_{l-1} + [\text{bias}]),
        \quad m_L = \text{seen}

    Args:
        widths: All widths, from the number of inputs to that of outputs.
        fan_in: The rank that the first layer sees.
        seen: What stands for the number of outputs.
        biases: Whether each layer has a bias.

    Returns:
        One number a layer. Their sum bounds the rank of H, the GGN and F.

    Raises:
        ValueError: If ``biases`` has not one entry a layer.

    Example:
        >>> reduced_sizes([6, 4, 3], fan_in=5, seen=2, biases=[False, True])
        (20, 10)
    """
    sizes = tuple(positive_int("widths", width) for width in widths)
    if len(sizes) < 2 or len(biases) != len(sizes) - 1:
        got = f"{len(biases)} for {len(sizes)} widths"
        raise ValueError(message("biases", "have one entry a layer", got))
    inputs = [a + bool(b) for a, b in zip(sizes[:-1], biases, strict=True)]
    inputs[0] = rank_argument("fan_in", fan_in)
    outputs = [*sizes[1:-1], rank_argument("seen", seen)]
    return tuple(a * b for a, b in zip(inputs, outputs, strict=True))


def ggn_ceiling(
    widths: Sequence[int],
    *,
    fan_in: int,
    biases: Sequence[bool],
    num_samples: int,
    output_rank: int,
    homogeneous: bool = False,
) -> int:
    r"""Return the ceiling on the rank of the GGN of any elementwise network.

    .. math:: \operatorname{rank} G \le \min(n k, P_r - R)

    with ``P_r`` the sum of `reduced_sizes` for ``seen = k``, and ``R`` the number of
    hidden units if the activation is homogeneous (ReLU, leaky ReLU: what scales a
    unit's inputs can be undone at its outputs), else 0.

    Status: derived.

    Args:
        widths: All widths, from the number of inputs to that of outputs.
        fan_in: The rank that the first layer sees.
        biases: Whether each layer has a bias.
        num_samples: ``n``.
        output_rank: ``k``.
        homogeneous: Whether ``f(c z) = c f(z)`` for every ``c > 0``.

    Returns:
        The ceiling.

    Example:
        >>> size = dict(fan_in=6, biases=[False, False], output_rank=3)
        >>> ggn_ceiling([6, 4, 3], num_samples=50, homogeneous=True, **size)
        32
    """
    sizes = reduced_sizes(widths, fan_in=fan_in, seen=output_rank, biases=biases)
    scalings = sum(widths[1:-1]) if homogeneous else 0
    return max(0, min(num_samples * output_rank, sum(sizes) - scalings))


def ggn_ceiling_one_hidden(
    unit_input_ranks: Sequence[int], *, output_rank: int, output_bias: bool = False
) -> int:
    r"""Return the ceiling on the rank of the GGN, one hidden ReLU layer.

    .. math:: \operatorname{rank} G \le \sum_{j: r_j > 0} (r_j + k - 1)
        \; [+ k \text{ if the outputs have a bias}]

    With every ``r_j = r`` that is the pessimistic :math:`M (r + k - 1)`, against
    :math:`q (r + k - q)` of a linear network. Dead units (``r_j = 0``) count nothing.

    Status: derived.

    Args:
        unit_input_ranks: ``r_j``, the rank of the inputs that switch unit ``j`` on
            (beside a column of ones if the hidden layer has a bias); for leaky ReLU the
            rank of all inputs.
        output_rank: ``k``.
        output_bias: Whether the last layer has a bias.

    Returns:
        The ceiling.

    Example:
        >>> ggn_ceiling_one_hidden([6, 4, 0], output_rank=3)
        14
    """
    k = rank_argument("output_rank", output_rank)
    ranks = [rank_argument("unit_input_ranks", rank) for rank in unit_input_ranks]
    units = sum(rank + k - 1 for rank in ranks if rank)
    return units + k * bool(output_bias) if k else 0


def functional_rank_one_hidden(unit_residual_ranks: Sequence[int]) -> int:
    r"""Return the rank of the functional Hessian, one hidden ReLU layer.

    .. math:: \operatorname{rank} F = 2 \sum_j \operatorname{rank} \Omega_j, \quad
        \Omega_j = \sum_{i : \, j \text{ on}} \delta_i x_i^\top

    Status: derived, exact for all weights: the matrix is a block
    :math:`[0, \Omega_j^\top; \Omega_j, 0]` for each unit. For any homogeneous activation
    with the unit's slopes as weights in the sum. Its nonzero eigenvalues are plus and
    minus the singular values of the :math:`\Omega_j`.

    Args:
        unit_residual_ranks: The ranks of :math:`\Omega_j`, of
            :math:`\delta_i [x_i; 1]^\top` if the hidden layer has a bias.

    Returns:
        The rank.

    Example:
        >>> functional_rank_one_hidden([3, 2, 0])
        10
    """
    return 2 * sum(rank_argument("unit_residual_ranks", r) for r in unit_residual_ranks)


def functional_ceiling(
    widths: Sequence[int],
    *,
    fan_in: int,
    biases: Sequence[bool],
    seen: int,
    homogeneous: bool = False,
) -> int:
    r"""Return the ceiling on the rank of F of any elementwise network.

    - No hidden layer: 0. One: :math:`m_1 (\rho + \min(\rho, \kappa))`, with
      :math:`\rho` the ``fan_in`` and :math:`\kappa` what the loss sees, as F is
      block-diagonal over the hidden units; :math:`2 m_1 \min(\rho, \kappa)` for
      homogeneous activations.
    - Deeper: :math:`p_L' + \sum_{l<L} p_l` with `reduced_sizes`, without the last bias
      and with :math:`p_L' = \min(p_L, \sum_{l<L} p_l)`, as the outputs depend linearly
      on the last layer.
    - Homogeneous activations: :math:`\sum_l \min(p_l, \sum_{j \ne l} p_j)`, as all
      blocks on the diagonal vanish.

    Status: derived.

    Args:
        widths: All widths, from the number of inputs to that of outputs.
        fan_in: The rank that the first layer sees.
        biases: Whether each layer has a bias.
        seen: ``K``, or ``K - 1`` for cross-entropy.
        homogeneous: Whether ``f(c z) = c f(z)`` for every ``c > 0``.

    Returns:
        The ceiling.

    Example:
        >>> size = dict(fan_in=6, biases=[False, False], seen=3)
        >>> functional_ceiling([6, 4, 3], **size)
        36
        >>> functional_ceiling([6, 4, 3], homogeneous=True, **size)
        24
    """
    inner = (*biases[:-1], False)
    sizes = reduced_sizes(widths, fan_in=fan_in, seen=seen, biases=inner)
    if len(sizes) == 1:
        return 0
    if len(sizes) == 2:
        narrow = min(fan_in, seen)
        return widths[1] * (narrow + (narrow if homogeneous else fan_in))
    hollow = sizes if homogeneous else sizes[-1:]
    full = sum(sizes) - sum(hollow)
    return full + sum(min(size, sum(sizes) - size) for size in hollow)


def hessian_ceiling(
    widths: Sequence[int], *, fan_in: int, biases: Sequence[bool], seen: int
) -> int:
    r"""Return the ceiling on the rank of H of any elementwise network, ``P_r``.

    The sum of `reduced_sizes`; H never exceeds the sum of the ranks of its two parts
    either.

    Status: derived.

    Args:
        widths: All widths, from the number of inputs to that of outputs.
        fan_in: The rank that the first layer sees.
        biases: Whether each layer has a bias.
        seen: ``K``, or ``K - 1`` for cross-entropy.

    Returns:
        The ceiling.

    Example:
        >>> hessian_ceiling([6, 4, 3], fan_in=6, biases=[False, False], seen=3)
        36
    """
    return sum(reduced_sizes(widths, fan_in=fan_in, seen=seen, biases=biases))
