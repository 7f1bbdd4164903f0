"""What a problem knows of itself, in common with its restrictions to other parameters."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, final
from weakref import WeakSet

import torch
from torch import Tensor

from curvescope._core.fingerprints import Watch
from curvescope._core.processes import Processes
from curvescope.autodiff.network import Network
from curvescope.losses.base import AbstractLoss
from curvescope.problem.batches import BatchSource


@final
@dataclass(frozen=True)
class Evaluation:
    """The objective at the present weights.

    Attributes:
        loss: The objective, in the unit of the reduction, without weight decay.
        accuracy: Fraction of right predictions of a classifier, else ``None``.
        num_samples: Data points.
        denominator: What the summed loss was divided by.
    """

    loss: float
    accuracy: float | None
    num_samples: int
    denominator: float

    def __str__(self) -> str:
        text = f"loss {self.loss:.5g} on {self.num_samples} samples"
        return (
            text if self.accuracy is None else f"{text}, accuracy {self.accuracy:.3%}"
        )


@final
class Account:
    """What one operator keeps.

    Attributes:
        num_bytes: Of its graphs.
    """

    def __init__(self) -> None:
        self.num_bytes = 0


@dataclass
class Shared:
    """What the problem has in common with its restrictions to other parameters."""

    network: Network
    loss: AbstractLoss
    source: BatchSource
    reduction: Literal["mean", "sum"]
    dtype: torch.dtype
    device: torch.device
    memory_limit: int
    processes: Processes
    num_samples: int
    content: str
    structure: str = ""
    modules: tuple[int, ...] = ()
    loss_options: str = ""
    denominator: float = math.nan
    weights: str = ""
    watch: Watch = field(default_factory=Watch)
    parameters: dict[str, Tensor] | None = None
    buffers: dict[str, Tensor] | None = None
    evaluation: Evaluation | None = None
    forward_bytes: int = 0
    accounts: WeakSet[Account] = field(default_factory=WeakSet)
    measurements: dict[Any, Any] = field(default_factory=dict)
