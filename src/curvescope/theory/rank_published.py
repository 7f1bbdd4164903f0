r"""The formulas that the published code computes, kept to show where they fail.

They are those of `curvescope.theory.rank_linear` with the number of classes for ``k``
(less one for cross-entropy) and ``s = min(r, k)`` assumed. Use them for comparison only.
"""

from collections.abc import Sequence

from curvescope._core.checks import positive_int
from curvescope.theory.rank_linear import bottleneck
from curvescope.theory.rank_structure import hidden_layers, rank_argument


def published_output_rank(num_classes: int, *, cross_entropy: bool) -> int:
    r"""Return the published code's ``K``: classes, less one for cross-entropy.

    It fails for two classes: its linear and ReLU networks then have one output, and the
    rank of the outputs is 1.

    Args:
        num_classes: Number of classes.
        cross_entropy: Whether the loss is cross-entropy.

    Returns:
        The number used for ``k``.

    Example:
        >>> published_output_rank(10, cross_entropy=True)
        9
    """
    return positive_int("num_classes", num_classes) - bool(cross_entropy)


def published_ggn_rank(
    hidden_widths: Sequence[int], *, input_rank: int, output_rank: int
) -> int:
    r"""Return the published code's rank of the GGN, :math:`q (r + K - q)`.

    Status: published, and right wherever ``K`` is.

    Args:
        hidden_widths: Widths of the hidden layers.
        input_rank: ``r``.
        output_rank: As of `published_output_rank`.

    Returns:
        The number.

    Example:
        >>> published_ggn_rank([5, 10], input_rank=25, output_rank=10)
        150

    References:
        Singh, Bachmann, Hofmann (2021), arXiv:2106.16225, its code.
    """
    q = bottleneck(hidden_widths, input_rank=input_rank, output_rank=output_rank)
    return q * (input_rank + output_rank - q)


def published_functional_rank(
    hidden_widths: Sequence[int], *, input_rank: int, output_rank: int
) -> int:
    r"""Return the published code's rank of F, :math:`2 q M + 2 q s - L q^2`.

    Status: published. Wrong where the residual's rank is below ``min(r, k)`` (few
    classes present: [6, 3, 4, 6] with two of six classes has 45, not 51) and without
    hidden layers (the truth is 0).

    Args:
        hidden_widths: Widths of the hidden layers.
        input_rank: ``r``.
        output_rank: As of `published_output_rank`.

    Returns:
        The number.

    Example:
        >>> published_functional_rank([3, 4], input_rank=6, output_rank=6)
        51

    References:
        Singh, Bachmann, Hofmann (2021), arXiv:2106.16225, its code.
    """
    widths = hidden_layers(hidden_widths)
    q = bottleneck(widths, input_rank=input_rank, output_rank=output_rank)
    s = min(rank_argument("input_rank", input_rank), output_rank)
    return 2 * q * sum(widths) + 2 * q * s - (len(widths) + 1) * q * q


def published_hessian_rank(
    hidden_widths: Sequence[int], *, input_rank: int, output_rank: int
) -> int:
    r"""Return the published code's rank of H, :math:`2 q M - L q^2 + q (r + K)`.

    Status: published. Wrong where the residual's rank is below ``q``.

    Args:
        hidden_widths: Widths of the hidden layers.
        input_rank: ``r``.
        output_rank: As of `published_output_rank`.

    Returns:
        The number.

    Example:
        >>> published_hessian_rank([5, 10], input_rank=25, output_rank=10)
        250

    References:
        Singh, Bachmann, Hofmann (2021), arXiv:2106.16225, its code.
    """
    ranks = {"input_rank": input_rank, "output_rank": output_rank}
    q = bottleneck(hidden_widths, **ranks)
    s = min(input_rank, output_rank)
    functional = published_functional_rank(hidden_widths, **ranks)
    return functional + published_ggn_rank(hidden_widths, **ranks) + q * (q - 2 * s)
