"""The options that the experiments on initialisation share, and their checks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from curvescope._core.checks import message, one_of, positive_int, real
from curvescope.experiments.base import Preset
from curvescope.experiments.dimension_records import given
from curvescope.models.mlp import ACTIVATIONS

Images = Literal["digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "svhn"]
IMAGES: tuple[str, ...] = get_args(Images)
PUBLISHED_SD = (1e-5, 0.01, 1.0)
PUBLISHED_HIDDEN = (30, 30)


@dataclass(frozen=True, kw_only=True)
class InitSettings:
    """Data, network and training that the experiments on initialisation share."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {}

    preset: Preset = "small"
    """small: about a minute at most; paper: more seeds, moments and samples, on MNIST."""
    data: Images | None = None
    """Images, flattened; digits, or mnist as published."""
    data_root: Path | None = None
    """The folder that holds one folder a data set."""
    hidden: tuple[int, ...] = PUBLISHED_HIDDEN
    """Neurons of the hidden layers, such as 30,30."""
    activation: str = "relu"
    """Of the hidden layers, such as tanh."""
    num_probe: int = 1024
    """Samples of the batch at which loss and norms are taken; drawn once."""
    num_train: int | None = None
    """Training images at most, drawn at random; the whole split if that has fewer."""
    seeds: int | None = None
    """Networks of each kind: seeds 0, 1, 2, ..."""
    steps: int | None = None
    """Updates of stochastic gradient descent."""
    every: int | None = None
    """Updates between two moments that are measured."""
    batch_size: int = 32
    """Samples of an update."""
    learning_rate: float = 0.32
    """For the mean loss of a batch; 0.32 is the published 0.01 for its sum over 32."""
    jobs: int | None = None
    """Worker processes; chosen by processors, memory and work by default."""


def check_settings(config: InitSettings) -> None:
    """Check what the experiments share, of a configuration whose preset is filled in.

    Raises:
        ValueError: If a value is out of range.
    """
    one_of("data", given(config.data), IMAGES)
    one_of("activation", config.activation, ACTIVATIONS)
    if not config.hidden:
        raise ValueError(message("hidden", "hold at least one number", "none"))
    for width in config.hidden:
        positive_int("hidden", width)
    for name in ("num_probe", "num_train", "seeds", "steps", "every", "batch_size"):
        positive_int(name, given(getattr(config, name)))
    real("learning_rate", config.learning_rate, minimum=0.0, strict=True)
    if config.jobs is not None:
        positive_int("jobs", config.jobs)


def check_sds(name: str, values: Sequence[float]) -> None:
    """Check standard deviations.

    Raises:
        ValueError: If there are none, one is not above 0, or one stands twice.
    """
    if not values:
        raise ValueError(message(name, "hold at least one number", "none"))
    for value in values:
        real(name, value, minimum=0.0, strict=True)
    if len(set(values)) != len(values):
        raise ValueError(message(name, "have no repetition", values))
