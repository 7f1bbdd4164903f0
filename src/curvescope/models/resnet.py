"""Residual networks for 32x32 images, with the key names of published weights."""

from torch import Tensor, nn
from torch.nn import functional as F

from curvescope._core.checks import positive_int


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions; what the shortcut does is the subclass's."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def residual(self, x: Tensor) -> Tensor:
        """Return the block's output before the shortcut is added."""
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))


class PaddedBlock(_BasicBlock):
    """A block of He et al. with shortcut option A: subsample, pad channels by zeros."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(in_channels, channels, stride)
        self.stride = stride
        self.padding = (channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in_channels, h, w)`` to ``(batch, channels, h', w')``."""
        shortcut = x
        if self.padding or self.stride != 1:
            strided = x[:, :, :: self.stride, :: self.stride]
            shortcut = F.pad(strided, (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(self.residual(x) + shortcut)


class ProjectedBlock(_BasicBlock):
    """A block with shortcut option B: a 1x1 convolution where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(in_channels, channels, stride)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in_channels, h, w)`` to ``(batch, channels, h', w')``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.residual(x) + shortcut)


class CifarResNet(nn.Module):
    """The network of He et al. (2016), section 4.2: three stages of 16, 32, 64."""

    def __init__(self, num_blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(PaddedBlock, 16, 16, num_blocks, 1)
        self.layer2 = _stage(PaddedBlock, 16, 32, num_blocks, 2)
        self.layer3 = _stage(PaddedBlock, 32, 64, num_blocks, 2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(batch, 3, h, w)`` to logits ``(batch, num_classes)``."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


class ResNet18(nn.Module):
    """ResNet-18 with the stem for small images: 3x3, stride 1, no pooling."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(ProjectedBlock, 64, 64, 2, 1)
        self.layer2 = _stage(ProjectedBlock, 64, 128, 2, 2)
        self.layer3 = _stage(ProjectedBlock, 128, 256, 2, 2)
        self.layer4 = _stage(ProjectedBlock, 256, 512, 2, 2)
        self.fc = nn.Linear(512, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(
                    module.weight, mode="fan_out", nonlinearity="relu"
                )

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(batch, 3, h, w)`` to logits ``(batch, num_classes)``."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean(dim=(2, 3)))


def _stage(
    block: type[PaddedBlock] | type[ProjectedBlock],
    in_channels: int,
    channels: int,
    num_blocks: int,
    stride: int,
) -> nn.Sequential:
    first = block(in_channels, channels, stride)
    rest = (block(channels, channels, 1) for _ in range(num_blocks - 1))
    return nn.Sequential(first, *rest)


def resnet20(*, num_classes: int = 10) -> CifarResNet:
    """Build the ResNet with 20 layers for CIFAR (269,722 parameters at 10 classes).

    Args:
        num_classes: Width of the output.

    Returns:
        The network; the published weights of the option-A networks fit it.

    Example:
        >>> sum(p.numel() for p in resnet20().parameters())
        269722

    References:
        He, Zhang, Ren, Sun (2016), arXiv:1512.03385; section 4.2, shortcut option A.
    """
    return CifarResNet(3, positive_int("num_classes", num_classes))


def resnet32(*, num_classes: int = 10) -> CifarResNet:
    """Build the ResNet with 32 layers for CIFAR; see `resnet20`.

    Args:
        num_classes: Width of the output.

    Returns:
        The network.

    Example:
        >>> sum(p.numel() for p in resnet32().parameters())
        464154
    """
    return CifarResNet(5, positive_int("num_classes", num_classes))


def resnet44(*, num_classes: int = 10) -> CifarResNet:
    """Build the ResNet with 44 layers for CIFAR; see `resnet20`.

    Args:
        num_classes: Width of the output.

    Returns:
        The network.

    Example:
        >>> sum(p.numel() for p in resnet44().parameters())
        658586
    """
    return CifarResNet(7, positive_int("num_classes", num_classes))


def resnet56(*, num_classes: int = 10) -> CifarResNet:
    """Build the ResNet with 56 layers for CIFAR; see `resnet20`.

    Args:
        num_classes: Width of the output.

    Returns:
        The network.

    Example:
        >>> sum(p.numel() for p in resnet56().parameters())
        853018
    """
    return CifarResNet(9, positive_int("num_classes", num_classes))


def resnet18(*, num_classes: int = 10) -> ResNet18:
    """Build ResNet-18 for 32x32 images (11,173,962 parameters at 10 classes).

    The stem is a 3x3 convolution of stride 1 without pooling; the key names are timm's,
    so that published ``resnet18_cifar10`` weights load.

    Args:
        num_classes: Width of the output.

    Returns:
        The network.

    Example:
        >>> sum(p.numel() for p in resnet18().parameters())
        11173962

    References:
        He, Zhang, Ren, Sun (2016), arXiv:1512.03385; table 1.
    """
    return ResNet18(positive_int("num_classes", num_classes))
