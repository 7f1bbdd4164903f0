"""The small fully connected networks of the effective-dimension experiments."""

from torch import nn

from curvescope._core.checks import positive_int
from curvescope.models.mlp import mlp


def spirals_mlp(*, width: int = 20, depth: int = 5) -> nn.Sequential:
    r"""Build the classifier of the two spirals: ELU, one logit.

    .. math:: P = d\,(h^2 + h) + 4 h + 1

    Args:
        width: Neurons :math:`h` of each hidden layer.
        depth: Hidden layers :math:`d` AFTER the first one, as the published code counts:
            there are ``depth + 1`` hidden layers.

    Returns:
        The network; its one output is the logit of class 1.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> sum(p.numel() for p in spirals_mlp().parameters())
        2181

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, section 5.
    """
    positive_int("width", width)
    layers = positive_int("depth", depth, minimum=0) + 1
    hidden = (width,) * layers
    return mlp(in_features=2, hidden=hidden, num_classes=1, activation="elu")


def regression_mlp(*, width: int = 20) -> nn.Sequential:
    """Build the regression network of the posterior's contraction: 3-20-20-1, ELU.

    It has 480 weights and no biases; the published count of 481 has the precision of
    the noise beside them.

    Args:
        width: Neurons of the two hidden layers.

    Returns:
        The network, from the features ``1, x, x^2`` to the mean.

    Raises:
        ValueError: If the width is below 1.

    Example:
        >>> sum(p.numel() for p in regression_mlp().parameters())
        480

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, figure 4.
    """
    hidden = (positive_int("width", width),) * 2
    return mlp(
        in_features=3, hidden=hidden, num_classes=1, activation="elu", bias=False
    )
