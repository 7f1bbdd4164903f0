"""What a training is to do: steps, batches, learning rates, the optimizer, the streams.

Everything random is drawn from streams that are named by seed and place (epoch, step),
so that a training can go on anywhere, and gives what it would have given.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from curvescope._core.checks import message, one_of, positive_int, real
from curvescope.training.schedules import Schedule, resolve

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
Axis = Literal["epoch", "step"]
_RECORDS = 100
_MASK = 2**63 - 1


def stream_seed(*place: object) -> int:
    """Return the seed of the random stream of a place, such as (seed, epoch)."""
    digest = hashlib.blake2b(repr(place).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & _MASK


def stream(*place: object) -> torch.Generator:
    """Return a fresh generator on the CPU for a place."""
    return torch.Generator().manual_seed(stream_seed(*place))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A checked request.

    Attributes:
        axis: What ``amount``, ``evaluate_every`` and the schedule count.
        amount: Epochs or steps to do.
        num_samples: Size of the training data.
        batch_size: Samples of a step; all of them make a full-batch training.
        evaluate_every: Between two records.
        optimizer: One of `OPTIMIZERS`.
        learning_rate: The first one.
        momentum: Of stochastic gradient descent.
        weight_decay: As torch's optimizer of that name means it.
        schedule: From the part that is done to the factor of the learning rate.
        schedule_name: What it is called.
        seeds: Of the streams, one a network.
    """

    axis: Axis
    amount: int
    num_samples: int
    batch_size: int
    evaluate_every: int
    optimizer: str
    learning_rate: float
    momentum: float
    weight_decay: float
    schedule: Schedule
    schedule_name: str
    seeds: tuple[int, ...]

    @property
    def full_batch(self) -> bool:
        """Whether each step sees all samples."""
        return self.batch_size >= self.num_samples

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch; the last one may be of fewer samples."""
        return math.ceil(self.num_samples / self.batch_size)

    @property
    def steps_per_unit(self) -> int:
        """Steps of one of what ``axis`` counts."""
        return self.steps_per_epoch if self.axis == "epoch" else 1

    @property
    def num_steps(self) -> int:
        """All steps."""
        return self.amount * self.steps_per_unit

    def rate(self, step: int) -> float:
        """Return the learning rate of a step; it is the same within one unit."""
        done = (step // self.steps_per_unit) / self.amount
        return self.learning_rate * self.schedule(done)

    def is_record(self, steps_done: int) -> bool:
        """Tell whether losses are measured after so many steps."""
        if steps_done == self.num_steps:
            return True
        units, rest = divmod(steps_done, self.steps_per_unit)
        return rest == 0 and units % self.evaluate_every == 0

    def order(self, epoch: int) -> Tensor:
        """Return each network's order of the samples, ``(R, num_samples)``."""
        return torch.stack(
            [
                torch.randperm(self.num_samples, generator=stream(seed, "order", epoch))
                for seed in self.seeds
            ]
        )

    def make_optimizer(self, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
        """Return torch's optimizer, fused: one kernel a parameter instead of many."""
        options: dict[str, Any] = {"momentum": self.momentum}
        if self.optimizer != "sgd":
            options = {}
        return OPTIMIZERS[self.optimizer](
            parameters,
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            fused=all(p.device.type in ("cpu", "cuda") for p in parameters),
            **options,
        )

    def settings(self) -> dict[str, Any]:
        """Return what the result records, in the words of the arguments."""
        return {
            f"{self.axis}s": self.amount,
            "optimizer": self.optimizer,
            "learning_rate": self.learning_rate,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
            "schedule": self.schedule_name,
            "batch_size": self.batch_size,
            "evaluate_every": self.evaluate_every,
            "seeds": list(self.seeds),
        }


def make_plan(
    *,
    num_samples: int,
    epochs: int | None,
    steps: int | None,
    batch_size: int | None,
    evaluate_every: int | None,
    optimizer: str,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    schedule: str | Schedule,
    seeds: Sequence[int],
) -> Plan:
    """Check the arguments of a training.

    Raises:
        TypeError: If a number is none.
        ValueError: If a value is out of range, or both or none of ``epochs`` and
            ``steps`` are given.
    """
    if (epochs is None) == (steps is None):
        got = "both" if steps is not None else "neither"
        text = message("epochs", "be given, or else `steps`", got)
        raise ValueError(text)
    axis: Axis = "epoch" if steps is None else "step"
    amount = positive_int(f"{axis}s", epochs if steps is None else steps)
    one_of("optimizer", optimizer, OPTIMIZERS)
    real("momentum", momentum, minimum=0.0)
    if momentum and optimizer != "sgd":
        remedy = 'Adam has its own; take optimizer="sgd".'
        text = message("momentum", f"be 0 for {optimizer}", momentum, remedy)
        raise ValueError(text)
    size = num_samples if batch_size is None else positive_int("batch_size", batch_size)
    if evaluate_every is None:
        evaluate_every = 1 if axis == "epoch" else max(1, amount // _RECORDS)
    name, function = resolve(schedule)
    return Plan(
        axis=axis,
        amount=amount,
        num_samples=num_samples,
        batch_size=min(size, num_samples),
        evaluate_every=positive_int("evaluate_every", evaluate_every),
        optimizer=optimizer,
        learning_rate=real("learning_rate", learning_rate, minimum=0.0, strict=True),
        momentum=float(momentum),
        weight_decay=real("weight_decay", weight_decay, minimum=0.0),
        schedule=function,
        schedule_name=name,
        seeds=tuple(positive_int("seed", seed, minimum=0) for seed in seeds),
    )
