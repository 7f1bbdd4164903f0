"""The plain convolutional networks: one of free depth and width, and a LeNet-like one."""

from torch import Tensor, nn

from curvescope._core.checks import positive_int
from curvescope.models.lenet import lenet

_GROUPS = 3


class ConvNet(nn.Module):
    """Blocks of convolution, norm and ReLU in three groups; then pooling, linear."""

    def __init__(
        self, init_channels: int, depth: int, in_channels: int, num_classes: int
    ) -> None:
        super().__init__()
        width = init_channels
        blocks = _block(in_channels, width)
        for group in range(_GROUPS):
            for left in reversed(range(len(range(group, depth, _GROUPS)))):
                # The last block of a group doubles the channels and halves the image.
                blocks += _block(width, width if left else 2 * width)
                if left == 0:
                    blocks.append(nn.MaxPool2d(2))
                    width *= 2
        self.features = nn.Sequential(*blocks)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(batch, in_channels, h, w)`` to ``(batch, num_classes)``."""
        return self.linear(self.features(images).amax(dim=(2, 3)))


def _block(in_channels: int, channels: int) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, channels, 3, padding=1)
    return [conv, nn.BatchNorm2d(channels), nn.ReLU()]


def convnet(
    *,
    init_channels: int = 64,
    depth: int = 3,
    in_channels: int = 3,
    num_classes: int = 10,
) -> ConvNet:
    """Build the convolutional network of free width and depth.

    One block, and ``depth`` more in three groups; the first groups are larger where
    ``depth`` is no multiple of three. The last block of each group doubles the channels
    and is followed by max-pooling. The last pooling is over the whole image: the
    published code pools a window of 24 pixels at depth 0, and so sees only the upper
    left part of images of 32; at all other depths it is the same network.

    Args:
        init_channels: Channels of the first block; the published ones are 4, 8, ..., 64.
        depth: Blocks after the first; the published ones are 0 to 8.
        in_channels: Channels of the images.
        num_classes: Width of the output.

    Returns:
        The network, with torch's default initialisation.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> sum(p.numel() for p in convnet(init_channels=4, num_classes=100).parameters())
        9636

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, figure 2; after the 5-layer CNN
        of Nakkiran et al. (2019), arXiv:1912.02292.
    """
    return ConvNet(
        positive_int("init_channels", init_channels),
        positive_int("depth", depth, minimum=0),
        positive_int("in_channels", in_channels),
        positive_int("num_classes", num_classes),
    )


def basic_cnn(*, num_classes: int = 10) -> nn.Sequential:
    """Build the LeNet-like network for CIFAR: ReLU and max-pooling, 62,006 parameters.

    Args:
        num_classes: Width of the output.

    Returns:
        `lenet` with three channels, images of 32 pixels, ReLU and max-pooling.

    Example:
        >>> sum(p.numel() for p in basic_cnn().parameters())
        62006

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, appendix, where it is named
        BasicConv.
    """
    return lenet(
        image_size=32,
        in_channels=3,
        num_classes=num_classes,
        activation="relu",
        pooling="max",
    )
