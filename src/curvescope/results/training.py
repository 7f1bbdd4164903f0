"""What a training leaves behind: the curve of losses and accuracies."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from curvescope.results.base import Result


def _empty() -> Tensor:
    return torch.zeros(0, dtype=torch.float64)


@final
@dataclass(frozen=True, kw_only=True)
class TrainingResult(Result):
    """Losses and accuracies along one training, or along many of one shape.

    Curves have shape ``(T,)``, or ``(R, T)`` for R networks trained at once. All but
    ``running_loss`` are measured at the weights of that moment, in eval mode and on
    data that are not augmented.

    Attributes:
        axis: What ``at`` counts: ``"epoch"`` or ``"step"``.
        at: How many of them were done, shape ``(T,)``.
        learning_rate: Of the last step before, shape ``(T,)``.
        train_loss: The objective on the training data, without weight decay.
        test_loss: On the test data; ``None`` without any.
        train_accuracy: ``None`` where the loss is no classifier's.
        test_accuracy: Likewise.
        running_loss: Mean over the steps since the last moment, as they saw it: in
            train mode, augmented, before each update. Published logs hold this one.
        seeds: Of the order of the samples, one a network.
        num_params: Parameters that were trained, of one network.
        num_steps: Updates that were made.
    """

    PRIMARY: ClassVar[tuple[str, ...]] = (
        "train_loss",
        "test_loss",
        "train_accuracy",
        "test_accuracy",
    )

    axis: Literal["epoch", "step"] = "epoch"
    at: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    learning_rate: Tensor = field(default_factory=_empty)
    train_loss: Tensor = field(default_factory=_empty)
    test_loss: Tensor | None = None
    train_accuracy: Tensor | None = None
    test_accuracy: Tensor | None = None
    running_loss: Tensor = field(default_factory=_empty)
    seeds: tuple[int, ...] = (0,)
    num_params: int = 0
    num_steps: int = 0

    @property
    def many(self) -> bool:
        """Whether this is the result of many networks at once."""
        return self.train_loss.ndim == 2

    @property
    def diverged(self) -> Tensor:
        """Whether the last loss is not finite: a boolean, one a network."""
        return ~torch.isfinite(self.train_loss[..., -1])

    def final(self, name: str) -> Tensor | None:
        """Return the last value of a curve, such as ``"test_loss"``."""
        curve: Tensor | None = getattr(self, name)
        return None if curve is None else curve[..., -1]

    def of_network(self, index: int) -> "TrainingResult":
        """Return the curves of one of many networks.

        Raises:
            IndexError: If there is no such network.
        """
        if not self.many:
            if index != 0:
                text = f"`index` must be 0, for one network; got {index}."
                raise IndexError(text)
            return self

        def curve(name: str) -> Any:
            values = getattr(self, name)
            return None if values is None else values[index]

        return replace(
            self,
            train_loss=curve("train_loss"),
            test_loss=curve("test_loss"),
            train_accuracy=curve("train_accuracy"),
            test_accuracy=curve("test_accuracy"),
            running_loss=curve("running_loss"),
            seeds=(self.seeds[index],),
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a moment, and of many networks one a network and moment."""
        table = []
        for network in range(len(self.seeds)):
            one = self.of_network(network)
            for index in range(len(self.at)):
                row: dict[str, Any] = {self.axis: int(self.at[index])}
                if self.many:
                    row["seed"] = self.seeds[network]
                row["learning_rate"] = float(self.learning_rate[index])
                for name in (*self.PRIMARY, "running_loss"):
                    curve = getattr(one, name)
                    if curve is not None:
                        row[name] = float(curve[index])
                table.append(row)
        return table

    def headline(self) -> str:
        """Return the last losses in one line, of many networks their medians."""
        if not len(self.at):
            return "No training yet"
        parts = []
        for name in self.PRIMARY:
            last = self.final(name)
            if last is not None:
                parts.append(f"{name.replace('_', ' ')} {float(last.median()):.4g}")
        whose = f", medians of {len(self.seeds)} networks" if self.many else ""
        done = int(self.at[-1])
        plural = "" if done == 1 else "s"
        return f"After {done} {self.axis}{plural}{whose}: {', '.join(parts)}"
