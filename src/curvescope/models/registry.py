"""The built-in networks: name, builder, and what a run must know of each."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from curvescope._core.checks import message, one_of
from curvescope.models.char_gpt import char_gpt
from curvescope.models.convnet import basic_cnn, convnet
from curvescope.models.lenet import lenet
from curvescope.models.masked import masked_mlp
from curvescope.models.mlp import mlp
from curvescope.models.preactivation_resnet import preact_resnet18, preresnet
from curvescope.models.published_mlp import regression_mlp, spirals_mlp
from curvescope.models.resnet import resnet18, resnet20, resnet32, resnet44, resnet56


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What is declared of a built-in network at its default arguments.

    Attributes:
        name: The name that `build` takes.
        builder: The function behind the name.
        task: ``classification``, ``regression`` or ``language-modelling``.
        input_shape: One input without the batch; ids where the task is language.
        num_classes: Width of the output; 1 for a binary classifier's logit.
        normalize: Name of the pixel statistics (in ``curvescope.data``) that its
            published weights were trained with; ``None`` where there are none.
        weights: Where published weights that fit come from; ``None`` where none do.
        vocabulary: Whether its input needs a vocabulary file.
    """

    name: str
    builder: Callable[..., nn.Module]
    task: str
    input_shape: tuple[int, ...]
    num_classes: int
    normalize: str | None = None
    weights: str | None = None
    vocabulary: bool = False

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the keyword arguments that the builder takes."""
        return tuple(inspect.signature(self.builder).parameters)


def _classifier(
    name: str, builder: Callable[..., nn.Module], *shape: int, **more: Any
) -> ModelInfo:
    return ModelInfo(
        name=name,
        builder=builder,
        task="classification",
        input_shape=shape,
        num_classes=10,
        **more,
    )


_OPTION_A = {
    "normalize": "imagenet",  # what the weights' own training script used
    "weights": "github.com/akamaster/pytorch_resnet_cifar10 (BSD 2-clause)",
}
_ENTRIES = (
    _classifier("mlp", mlp, 64),
    _classifier("lenet", lenet, 1, 28, 28),
    _classifier("resnet20", resnet20, 3, 32, 32, **_OPTION_A),
    _classifier("resnet32", resnet32, 3, 32, 32, **_OPTION_A),
    _classifier("resnet44", resnet44, 3, 32, 32, **_OPTION_A),
    _classifier("resnet56", resnet56, 3, 32, 32, **_OPTION_A),
    _classifier(
        "resnet18",
        resnet18,
        3,
        32,
        32,
        normalize="cifar10-detectors",
        weights="timm and detectors: resnet18_cifar10",
    ),
    _classifier("preact-resnet18", preact_resnet18, 3, 32, 32),
    _classifier("preresnet", preresnet, 3, 32, 32),
    _classifier("convnet", convnet, 3, 32, 32),
    _classifier("basic-cnn", basic_cnn, 3, 32, 32),
    _classifier("masked-mlp", masked_mlp, 64),
    ModelInfo(
        name="spirals-mlp",
        builder=spirals_mlp,
        task="classification",
        input_shape=(2,),
        num_classes=1,
    ),
    ModelInfo(
        name="regression-mlp",
        builder=regression_mlp,
        task="regression",
        input_shape=(3,),
        num_classes=1,
    ),
    ModelInfo(
        name="char-gpt",
        builder=char_gpt,
        task="language-modelling",
        input_shape=(32,),
        num_classes=169,
        weights="github.com/Anton3090/gpt2-mini-implementation (MIT)",
        vocabulary=True,
    ),
)
_REGISTRY = {entry.name: entry for entry in _ENTRIES}


def names() -> tuple[str, ...]:
    """Return the names of the built-in networks.

    Returns:
        The names, in the order of the documentation.

    Example:
        >>> "resnet20" in names()
        True
    """
    return tuple(_REGISTRY)


def info(name: str) -> ModelInfo:
    """Return what is declared of a built-in network.

    Args:
        name: One of `names`; ``_`` counts as ``-``.

    Returns:
        The declaration.

    Raises:
        ValueError: If there is no such network.

    Example:
        >>> info("resnet20").input_shape
        (3, 32, 32)
    """
    key = name.replace("_", "-")
    one_of("name", key if key in _REGISTRY else name, _REGISTRY)
    return _REGISTRY[key]


def build(
    name: str, *, generator: torch.Generator | None = None, **arguments: Any
) -> nn.Module:
    """Build a network by name, with random weights, in train mode.

    Args:
        name: One of `names`.
        generator: Source of the random weights; torch's global one is then left as it
            was. Without it the weights come from the global one, as in any constructor.
        arguments: What the network's own function takes.

    Returns:
        The network, float32 on the CPU.

    Raises:
        ValueError: If the name or an argument is unknown, or a value is out of range.

    Example:
        >>> sum(p.numel() for p in build("mlp", hidden=(8,)).parameters())
        610
    """
    entry = info(name)
    unknown = sorted(set(arguments) - set(entry.arguments))
    if unknown:
        choices = ", ".join(entry.arguments)
        contract = f"be among {choices} for {entry.name}"
        raise ValueError(message("arguments", contract, ", ".join(unknown)))
    with seeded(generator):
        return entry.builder(**arguments)


@contextmanager
def seeded(generator: torch.Generator | None) -> Iterator[None]:
    """Let the block draw from ``generator``, and restore the global stream after."""
    if generator is None:
        yield
        return
    device = generator.device
    seed = torch.randint(2**63 - 1, (), generator=generator, device=device)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seed))
        yield
