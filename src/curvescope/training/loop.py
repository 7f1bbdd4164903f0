"""The loop: steps, records, checkpoints. It knows no difference between one and many."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn

from curvescope._core import progress
from curvescope._core.checkpoint import Checkpoint
from curvescope.autodiff.network import preserved_random_state
from curvescope.training.plan import Plan, stream, stream_seed
from curvescope.training.samples import Samples
from curvescope.training.tasks import Task

Augment = Callable[[Tensor, torch.Generator], Tensor]


@final
@dataclass(frozen=True)
class Moment:
    """What a callback sees of a training.

    Attributes:
        axis: What ``at`` counts: ``"epoch"`` or ``"step"``.
        at: How many of them are done.
        num_steps: Updates that were made.
        models: The networks with their present weights, in eval mode.
        train_loss: One number a network.
        test_loss: Likewise; ``None`` without test data.
        train_accuracy: Likewise; ``None`` where the loss is no classifier's.
        test_accuracy: Likewise.
    """

    axis: str
    at: int
    num_steps: int
    models: Sequence[nn.Module]
    train_loss: tuple[float, ...]
    test_loss: tuple[float, ...] | None
    train_accuracy: tuple[float, ...] | None
    test_accuracy: tuple[float, ...] | None


Callback = Callable[[Moment], Any]


@dataclass
class Loop:
    """A training under way.

    Attributes:
        task: Networks and loss.
        samples: The training data.
        test: The test data, or ``None``.
        plan: What is to do.
        augment: Changes a batch of inputs at random, in training only.
        callbacks: Called at every record; one that returns ``True`` ends the training.
        checkpoint: Where the state is kept.
        records: One dictionary of lists a record.
    """

    task: Task
    samples: Samples
    test: Samples | None
    plan: Plan
    device: torch.device
    augment: Augment | None = None
    callbacks: Sequence[Callback] = ()
    checkpoint: Checkpoint | None = None
    records: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0
    passes: float = 0.0
    stopped: bool = False

    def __post_init__(self) -> None:
        self._optimizer = self.plan.make_optimizer(self.task.trained)
        self._running = torch.zeros(2, self.task.size, dtype=torch.float64)
        self._epoch = -1
        self._order = torch.zeros(0, dtype=torch.int64)
        self._in_train_mode = False
        self._denominators: Tensor | None = None

    def run(self) -> None:
        """Do all steps that are left."""
        self._resume()
        began = time.perf_counter() - self.seconds
        label = (
            f"training {self.task.size} networks" if self.task.size > 1 else "training"
        )
        with (
            preserved_random_state(self.device),
            progress.track(label, total=self.plan.num_steps) as bar,
            self.task.running(),
        ):
            bar.update(completed=self.step)
            while self.step < self.plan.num_steps and not self.stopped:
                self._update()
                bar.advance()
                self.seconds = time.perf_counter() - began
                if self.plan.is_record(self.step):
                    self._record()
                if self.checkpoint is not None and self.checkpoint.due():
                    self._save()
            if self.checkpoint is not None:
                self._save()
        self.seconds = time.perf_counter() - began

    def _update(self) -> None:
        plan, task = self.plan, self.task
        for group in self._optimizer.param_groups:
            group["lr"] = plan.rate(self.step)
        inputs, targets, each = self._batch()
        self._seed_dropout()
        if not self._in_train_mode:
            task.set_mode(train=True)
            self._in_train_mode = True
        totals, denominators = task.gradients(
            inputs, targets, each=each, denominators=self._denominators
        )
        if plan.full_batch:
            self._denominators = denominators
        self._optimizer.step()
        # On a GPU the sums stay there: reading them at every step would wait for it.
        if self._running.device != totals.device:
            self._running = self._running.to(totals.device)
        self._running[0] += totals
        self._running[1] += denominators.to(totals.device)
        self.step += 1

    def _batch(self) -> tuple[Any, Tensor, bool]:
        """Return inputs, targets, and whether each network has its own."""
        plan, samples = self.plan, self.samples
        epoch, index = divmod(self.step, plan.steps_per_epoch)
        each = samples.each
        if plan.full_batch:
            inputs, targets = samples.inputs, samples.targets
        else:
            if self._epoch != epoch:
                self._epoch, self._order = epoch, plan.order(epoch).to(self.device)
            places = slice(index * plan.batch_size, (index + 1) * plan.batch_size)
            chosen = self._order[:, places]
            each = each or self.task.size > 1
            inputs, targets = samples.take(chosen if each else chosen[0])
        if self.augment is not None:
            inputs, each, targets = self._augmented(inputs, targets, each=each)
        return inputs, targets, each

    def _augmented(
        self, inputs: Any, targets: Tensor, *, each: bool
    ) -> tuple[Any, bool, Tensor]:
        assert self.augment is not None
        streams = [stream(seed, "augment", self.step) for seed in self.plan.seeds]
        if not self.task.stacked:
            return self.augment(inputs, streams[0]), each, targets
        drawn = [
            self.augment(inputs[r] if each else inputs, source)
            for r, source in enumerate(streams)
        ]
        if not each:
            targets = targets.expand(self.task.size, *targets.shape)
        return torch.stack(drawn), True, targets

    def _seed_dropout(self) -> None:
        seed = stream_seed(self.plan.seeds[0], "network", self.step)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _record(self) -> None:
        plan, task = self.plan, self.task
        self._in_train_mode = False
        total, denominator = self._running.cpu()
        if task.loss.reduction == "sum":
            # A sum over the data, as if the steps had seen all of them once.
            epochs = (self.step - self._last_step) / plan.steps_per_epoch
            denominator = torch.full_like(total, epochs)
        self._running = torch.zeros(2, task.size, dtype=torch.float64)
        loss, accuracy = task.measure(self.samples, plan.batch_size)
        record: dict[str, Any] = {
            "at": self.step // plan.steps_per_unit,
            "step": self.step,
            "learning_rate": plan.rate(self.step - 1),
            "running_loss": (total / denominator).tolist(),
            "train_loss": loss.tolist(),
            "train_accuracy": None if accuracy is None else accuracy.tolist(),
            "test_loss": None,
            "test_accuracy": None,
        }
        if self.test is not None:
            loss, accuracy = task.measure(self.test, plan.batch_size)
            record["test_loss"] = loss.tolist()
            record["test_accuracy"] = None if accuracy is None else accuracy.tolist()
        self.records.append(record)
        self.passes += 1
        if not any(math.isfinite(value) for value in record["train_loss"]):
            self.stopped = True
        if self.callbacks:
            self._call(record)

    @property
    def _last_step(self) -> int:
        return int(self.records[-1]["step"]) if self.records else 0

    def _call(self, record: dict[str, Any]) -> None:
        self.task.release()
        self.task.set_mode(train=False)
        accuracy, test = record["train_accuracy"], record["test_loss"]
        test_accuracy = record["test_accuracy"]
        moment = Moment(
            axis=self.plan.axis,
            at=record["at"],
            num_steps=self.step,
            models=self.task.models(),
            train_loss=tuple(record["train_loss"]),
            test_loss=None if test is None else tuple(test),
            train_accuracy=None if accuracy is None else tuple(accuracy),
            test_accuracy=None if test_accuracy is None else tuple(test_accuracy),
        )
        answers = [callback(moment) for callback in self.callbacks]
        if any(answer is True for answer in answers):
            self.stopped = True

    def _save(self) -> None:
        assert self.checkpoint is not None
        tensors = {f"state.{name}": t for name, t in self.task.state.items()}
        tensors["running"] = self._running
        kept = self._optimizer.state_dict()["state"]
        for index, entries in kept.items():
            for name, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{index}.{name}"] = value
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "passes": self.passes,
            "stopped": self.stopped,
            "records": self.records,
        }
        self.checkpoint.save(state, tensors)

    @torch.no_grad()
    def _resume(self) -> None:
        saved = self.checkpoint.load() if self.checkpoint is not None else None
        if saved is None:
            return
        state, tensors = saved
        self.step, self.seconds = state["step"], state["seconds"]
        self.passes, self.stopped = state["passes"], state["stopped"]
        self.records = state["records"]
        for name, tensor in self.task.state.items():
            tensor.copy_(tensors[f"state.{name}"])
        self._running = tensors["running"].clone()
        whole = self._optimizer.state_dict()
        entries: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                entries.setdefault(int(index), {})[name] = tensor.clone()
        whole["state"] = entries
        self._optimizer.load_state_dict(whole)
        # A single network is trained in place; copies of many are put back.
        self.task.release()
