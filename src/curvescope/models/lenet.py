"""LeNet-5 for images of 28 or 32 pixels."""

from collections import OrderedDict

from torch import nn

from curvescope._core.checks import one_of, positive_int
from curvescope.models.mlp import ACTIVATIONS


def lenet(
    *,
    image_size: int = 28,
    in_channels: int = 1,
    num_classes: int = 10,
    activation: str = "tanh",
    pooling: str = "average",
) -> nn.Sequential:
    """Build LeNet-5: two convolutions with pooling, then widths 120, 84 and the output.

    Args:
        image_size: Height and width: 28 (padded to 32) or 32.
        in_channels: Channels of the images.
        num_classes: Width of the output.
        activation: One of `curvescope.models.mlp.ACTIVATIONS`; the paper has ``tanh``.
        pooling: ``average`` (as the paper) or ``max``.

    Returns:
        The layers in order.

    Raises:
        ValueError: If an argument is not among its choices.

    Example:
        >>> sum(p.numel() for p in lenet().parameters())
        61706

    References:
        LeCun, Bottou, Bengio, Haffner (1998), doi:10.1109/5.726791; section II.B. The
        output is linear here, and the second convolution sees all channels.
    """
    one_of("image_size", image_size, (28, 32))
    one_of("activation", activation, ACTIVATIONS)
    one_of("pooling", pooling, ("average", "max"))
    positive_int("in_channels", in_channels)
    positive_int("num_classes", num_classes)
    act = ACTIVATIONS[activation]
    pool = nn.AvgPool2d if pooling == "average" else nn.MaxPool2d
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(in_channels, 6, 5, padding=(32 - image_size) // 2),
            activation1=act(),
            pool1=pool(2),
            conv2=nn.Conv2d(6, 16, 5),
            activation2=act(),
            pool2=pool(2),
            flatten=nn.Flatten(1),
            linear1=nn.Linear(400, 120),
            activation3=act(),
            linear2=nn.Linear(120, 84),
            activation4=act(),
            linear3=nn.Linear(84, num_classes),
        )
    )
