"""Residual networks that normalise before each convolution, for 32x32 images.

Two families: the ResNet-18 whose width is free (double descent), and the three-stage
networks whose depth is free.
"""

import math
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from curvescope._core.checks import message, positive_int

_DEPTH_OF_BOTTLENECKS = 44


class _Preactivated(nn.Module):
    """Batch norm, ReLU and convolution, several times, beside a shortcut."""

    bn1: nn.BatchNorm2d
    conv1: nn.Conv2d

    def __init__(
        self,
        channels: tuple[int, ...],
        kernels: tuple[int, ...],
        strides: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.depth = len(kernels)
        pairs = zip(channels, channels[1:], kernels, strides, strict=False)
        for index, (fan_in, fan_out, kernel, stride) in enumerate(pairs, start=1):
            self.add_module(f"bn{index}", nn.BatchNorm2d(fan_in))
            conv = nn.Conv2d(
                fan_in, fan_out, kernel, stride, padding=kernel // 2, bias=False
            )
            self.add_module(f"conv{index}", conv)
        self.shortcut: nn.Conv2d | None = None
        stride = math.prod(strides)
        if stride != 1 or channels[0] != channels[-1]:
            self.shortcut = nn.Conv2d(
                channels[0], channels[-1], 1, stride=stride, bias=False
            )

    def residual(self, activated: Tensor) -> Tensor:
        """Return the last convolution's output, from the first one's input on."""
        x: Tensor = self.conv1(activated)
        for index in range(2, self.depth + 1):
            norm, conv = getattr(self, f"bn{index}"), getattr(self, f"conv{index}")
            x = conv(F.relu(norm(x)))
        return x


class ActivatedShortcutBlock(_Preactivated):
    """Two 3x3 convolutions; a shortcut that changes shape sees the activated input."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__((in_channels, channels, channels), (3, 3), (stride, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in_channels, h, w)`` to ``(batch, channels, h', w')``."""
        activated = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return self.residual(activated) + shortcut


class RawShortcutBlock(_Preactivated):
    """Two 3x3 convolutions; the shortcut sees the block's input as it is."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__((in_channels, channels, channels), (3, 3), (stride, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in_channels, h, w)`` to ``(batch, channels, h', w')``."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.residual(F.relu(self.bn1(x))) + shortcut


class BottleneckBlock(_Preactivated):
    """Convolutions 1x1, 3x3 and 1x1, the last one four times as wide."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        widths = (in_channels, channels, channels, 4 * channels)
        super().__init__(widths, (1, 3, 1), (1, stride, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in_channels, h, w)`` to ``(batch, 4 channels, h', w')``."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.residual(F.relu(self.bn1(x))) + shortcut


class PreactResNet18(nn.Module):
    """Four stages of two blocks, widths c, 2c, 4c, 8c; no norm before the pooling."""

    def __init__(self, init_channels: int, in_channels: int, num_classes: int) -> None:
        super().__init__()
        c = init_channels
        self.conv1 = nn.Conv2d(in_channels, c, 3, padding=1, bias=False)
        self.layer1 = _stage(ActivatedShortcutBlock, c, c, 2, 1)
        self.layer2 = _stage(ActivatedShortcutBlock, c, 2 * c, 2, 2)
        self.layer3 = _stage(ActivatedShortcutBlock, 2 * c, 4 * c, 2, 2)
        self.layer4 = _stage(ActivatedShortcutBlock, 4 * c, 8 * c, 2, 2)
        self.linear = nn.Linear(8 * c, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(batch, in_channels, h, w)`` to ``(batch, num_classes)``."""
        x = self.layer2(self.layer1(self.conv1(images)))
        return self.linear(self.layer4(self.layer3(x)).mean(dim=(2, 3)))


class PreResNet(nn.Module):
    """Three stages of equally many blocks, widths 16, 32, 64; norm before pooling."""

    def __init__(
        self,
        block: type[RawShortcutBlock] | type[BottleneckBlock],
        num_blocks: int,
        in_channels: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        wide = block.expansion
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(block, 16, 16, num_blocks, 1, wide)
        self.layer2 = _stage(block, 16 * wide, 32, num_blocks, 2, wide)
        self.layer3 = _stage(block, 32 * wide, 64, num_blocks, 2, wide)
        self.bn = nn.BatchNorm2d(64 * wide)
        self.fc = nn.Linear(64 * wide, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(batch, in_channels, h, w)`` to ``(batch, num_classes)``."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(images))))
        return self.fc(F.relu(self.bn(x)).mean(dim=(2, 3)))


def _stage(
    block: Callable[[int, int, int], nn.Module],
    in_channels: int,
    channels: int,
    num_blocks: int,
    stride: int,
    expansion: int = 1,
) -> nn.Sequential:
    first = block(in_channels, channels, stride)
    wide = expansion * channels
    rest = (block(wide, channels, 1) for _ in range(num_blocks - 1))
    return nn.Sequential(first, *rest)


def preact_resnet18(
    *, init_channels: int = 64, in_channels: int = 3, num_classes: int = 10
) -> PreactResNet18:
    r"""Build the pre-activation ResNet-18 of free width, as in double descent.

    With :math:`c` channels at first and :math:`K` classes, three input channels:

    .. math:: P = 2724 c^2 + 133 c + K (8 c + 1)

    It differs from torchvision's ``resnet18``: batch norm and ReLU stand before each
    convolution; the stem is one 3x3 convolution of stride 1 without norm, ReLU and
    pooling; a shortcut is a bare 1x1 convolution of the activated input; and nothing
    normalises the last block's output.

    Args:
        init_channels: Channels :math:`c` of the first stage; 64 is the standard width.
        in_channels: Channels of the images.
        num_classes: Width of the output.

    Returns:
        The network, with torch's default initialisation as in the published code.

    Raises:
        ValueError: If an argument is below 1.

    Example:
        >>> net = preact_resnet18(init_channels=1, num_classes=100)
        >>> sum(p.numel() for p in net.parameters())
        3757

    References:
        He, Zhang, Ren, Sun (2016), arXiv:1603.05027; Nakkiran et al. (2019),
        arXiv:1912.02292, appendix B; Maddox, Benton, Wilson (2020), arXiv:2003.02139.
    """
    return PreactResNet18(
        positive_int("init_channels", init_channels),
        positive_int("in_channels", in_channels),
        positive_int("num_classes", num_classes),
    )


def preresnet(
    *, depth: int = 20, in_channels: int = 3, num_classes: int = 10
) -> PreResNet:
    """Build the pre-activation ResNet of free depth, widths 16, 32 and 64.

    Up to 43 layers its blocks are two 3x3 convolutions, so that the depth is 6n + 2;
    from 44 on they are bottlenecks, and it is 9n + 2 (56, 83, 110 and 164 are the
    published ones).

    Args:
        depth: Layers with weights, the shortcuts not counted.
        in_channels: Channels of the images.
        num_classes: Width of the output.

    Returns:
        The network; convolutions are drawn from a normal law of variance 2 / fan-out.

    Raises:
        ValueError: If no network has this depth, or a width is below 1.

    Example:
        >>> sum(p.numel() for p in preresnet(depth=164).parameters())
        1703258

    References:
        He, Zhang, Ren, Sun (2016), arXiv:1603.05027; table 1 has 1.7 million
        parameters for 164 layers.
    """
    positive_int("depth", depth, minimum=8)
    deep = depth >= _DEPTH_OF_BOTTLENECKS
    unit = 9 if deep else 6
    num_blocks, rest = divmod(depth - 2, unit)
    if rest:
        span = "from 44 on" if deep else "below 44"
        text = message("depth", f"be {unit} n + 2 {span}", depth)
        raise ValueError(text)
    return PreResNet(
        BottleneckBlock if deep else RawShortcutBlock,
        num_blocks,
        positive_int("in_channels", in_channels),
        positive_int("num_classes", num_classes),
    )
