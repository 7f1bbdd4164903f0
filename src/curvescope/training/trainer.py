"""`train` and `train_many`: from models, loss and data to trained models and a curve."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from curvescope._core.checkpoint import Checkpoint
from curvescope._core.checks import describe, message
from curvescope._core.errors import AccuracyWarning
from curvescope._core.fingerprints import combine
from curvescope._core.memory import peak_memory
from curvescope.autodiff.network import unwrapped
from curvescope.losses.base import fingerprint as loss_fingerprint
from curvescope.losses.resolve import resolve as resolve_loss
from curvescope.results import Cost, Provenance, TrainingResult
from curvescope.training.loop import Augment, Callback, Loop
from curvescope.training.plan import Plan, make_plan
from curvescope.training.samples import PerModel, Samples, read_samples
from curvescope.training.schedules import Schedule
from curvescope.training.tasks import SingleTask, StackedTask, Task

_VERSION = 1


def train(
    model: nn.Module,
    loss: Any,
    data: Any,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    learning_rate: float,
    optimizer: str = "sgd",
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    schedule: str | Schedule = "constant",
    batch_size: int | None = None,
    test_data: Any = None,
    augment: Augment | None = None,
    evaluate_every: int | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> TrainingResult:
    r"""Train a network in place, and return the curve of its losses.

    Each step goes along the gradient of the batch's own objective, the sum of its
    losses over its denominator (or the sum, for a loss that reduces so). Everything
    random comes from ``seed``: the same call on the same machine and number of threads
    gives the same bits on a CPU, also after a kill. Modes, gradients and the global
    random streams are left as they were.

    Args:
        model: The network. Parameters without ``requires_grad`` stay.
        loss: What a `Problem` takes.
        data: Likewise. They are read once, as they come, and kept on the device: what a
            loader augments at random stays as it was drawn.
        epochs: Passes over the data; or else
        steps: Updates.
        learning_rate: The first one.
        optimizer: ``"sgd"``, ``"adam"`` or ``"adamw"``, as torch has them.
        momentum: Of ``"sgd"``.
        weight_decay: As torch's optimizer means it; for ``"sgd"`` and ``"adam"`` the
            objective then has ``weight_decay / 2 * ||theta||^2`` more.
        schedule: ``"constant"``, ``"published"``, ``"cosine"``, or a function from the
            part that is done to the factor of the first rate. The rate changes after
            every epoch, or after every step where ``steps`` are given.
        batch_size: Samples of a step, in a new order every epoch. ``None`` means a
            loader's own, and all samples of any other data.
        test_data: Measured too, never trained on.
        augment: Changes a batch of inputs at random; `curvescope.data.CropAndFlip`.
        evaluate_every: Epochs (or steps) between two records; every epoch, or a hundred
            times in all where ``steps`` are given.
        seed: Of the order, the augmentation and dropout; not of the first weights.
        checkpoint: A folder. A training that was killed goes on from there, one that
            was finished is returned from there; one of other settings, data or first
            weights is overwritten.
        callbacks: Called with a `Moment` at every record; ``True`` ends the training.

    Returns:
        The curve. A training that diverged ends at the first record that is not finite,
        with a note and a warning.

    Raises:
        TypeError: If model, loss or data are of no known kind.
        ValueError: If a value is out of range, or the data do not fit the loss.

    Cost:
        One pass forward and backward an epoch, and one forward over training and test
        data a record.

    Example:
        >>> X = torch.linspace(-1, 1, 8)[:, None]
        >>> model = nn.Linear(1, 1)
        >>> result = train(model, "mse", (X, 3 * X), steps=200, learning_rate=0.5)
        >>> round(model.weight.item(), 3)
        3.0
    """
    if not isinstance(model, nn.Module):
        text = message("model", "be a torch.nn.Module", describe(model))
        raise TypeError(text)
    for name, value in (("data", data), ("test_data", test_data)):
        if isinstance(value, PerModel):
            remedy = "Use `train_many`."
            text = message(name, "be of one model", "PerModel", remedy)
            raise TypeError(text)
    task = SingleTask(unwrapped(model), resolve_loss(loss))
    return _train(
        task,
        data,
        test_data,
        request={
            "epochs": epochs,
            "steps": steps,
            "learning_rate": learning_rate,
            "optimizer": optimizer,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "schedule": schedule,
            "batch_size": batch_size,
            "evaluate_every": evaluate_every,
            "seeds": (seed,),
        },
        augment=augment,
        checkpoint=checkpoint,
        callbacks=callbacks,
    )


def train_many(
    models: Sequence[nn.Module],
    loss: Any,
    data: Any,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    learning_rate: float,
    optimizer: str = "sgd",
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    schedule: str | Schedule = "constant",
    batch_size: int | None = None,
    test_data: Any = None,
    augment: Augment | None = None,
    evaluate_every: int | None = None,
    seeds: Sequence[int] | None = None,
    checkpoint: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> TrainingResult:
    """Train networks of one shape at once, each as `train` would, up to rounding.

    Their weights are stacked, and one batched product does what each would do by
    itself; that pays where the networks are small. A network that diverges does not
    disturb the others.

    Args:
        models: Networks of one shape, trained in place; without dropout.
        loss: As for `train`.
        data: As for `train`, the same for all; or `PerModel`, one set a network.
        epochs: As for `train`, and so are the arguments that follow.
        steps: Updates.
        learning_rate: The first one.
        optimizer: ``"sgd"``, ``"adam"`` or ``"adamw"``.
        momentum: Of ``"sgd"``.
        weight_decay: As torch's optimizer means it.
        schedule: Name or function.
        batch_size: Samples of a step of each network.
        test_data: The same for all, or `PerModel`.
        augment: Changes a batch of one network's inputs at random.
        evaluate_every: Epochs (or steps) between two records.
        seeds: One a network; 0, 1, 2, ... by default.
        checkpoint: A folder.
        callbacks: Called with a `Moment` at every record; ``True`` ends all trainings.

    Returns:
        The curves, of shape ``(R, T)``.

    Raises:
        TypeError: If models, loss or data are of no known kind.
        ValueError: If the networks have not one shape, or a value is out of range.

    Cost:
        As R trainings, but the overhead of one; the memory of R networks.

    Example:
        >>> X = torch.linspace(-1, 1, 8)[:, None]
        >>> nets = [nn.Linear(1, 1) for _ in range(3)]
        >>> result = train_many(nets, "mse", (X, 3 * X), steps=200, learning_rate=0.5)
        >>> [round(net.weight.item(), 3) for net in nets]
        [3.0, 3.0, 3.0]
    """
    models = [unwrapped(model) for model in models]
    if not models:
        raise ValueError(message("models", "hold at least one network", "none"))
    chosen = range(len(models)) if seeds is None else seeds
    if len(chosen) != len(models):
        contract = f"be {len(models)} numbers, one a model"
        raise ValueError(message("seeds", contract, len(chosen)))
    for name, value in (("data", data), ("test_data", test_data)):
        if isinstance(value, PerModel) and len(value) != len(models):
            contract = f"hold {len(models)} sets, one a model"
            raise ValueError(message(name, contract, len(value)))
    return _train(
        StackedTask(models, resolve_loss(loss)),
        data,
        test_data,
        request={
            "epochs": epochs,
            "steps": steps,
            "learning_rate": learning_rate,
            "optimizer": optimizer,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "schedule": schedule,
            "batch_size": batch_size,
            "evaluate_every": evaluate_every,
            "seeds": tuple(chosen),
        },
        augment=augment,
        checkpoint=checkpoint,
        callbacks=callbacks,
    )


def _train(
    task: Task,
    data: Any,
    test_data: Any,
    *,
    request: Mapping[str, Any],
    augment: Augment | None,
    checkpoint: str | Path | None,
    callbacks: Sequence[Callback],
) -> TrainingResult:
    if not task.trained:
        remedy = "Set `requires_grad` of some parameters."
        text = message("model", "have parameters to train", "none", remedy)
        raise ValueError(text)
    device, dtype = task.trained[0].device, task.trained[0].dtype
    samples = read_samples(data, device=device, dtype=dtype)
    test = None
    if test_data is not None:
        test = read_samples(test_data, device=device, dtype=dtype, argument="test_data")
    request = dict(request)
    if request["batch_size"] is None and isinstance(data, DataLoader):
        request["batch_size"] = data.batch_size
    plan = make_plan(num_samples=samples.num_samples, **request)
    _check_outputs(task, samples)
    loop = Loop(task, samples, test, plan, device, augment, callbacks)
    if checkpoint is not None:
        key = _key(task, samples, test, plan, augment)
        loop.checkpoint = Checkpoint(Path(checkpoint), key)
    loop.run()
    return _result(loop)


def _check_outputs(task: Task, samples: Samples) -> None:
    """Let the loss say what is wrong: with all targets, and the first sample's output."""
    flags = [(m, m.training) for model in task.models() for m in model.modules()]
    try:
        task.set_mode(train=False)
        inputs, _ = samples.take(slice(0, 1))
        with torch.no_grad():
            outputs = task.outputs(inputs, each=samples.each)
    finally:
        for module, training in flags:
            module.training = training
    for index in range(task.size):
        own = samples.targets[index] if samples.each else samples.targets
        shape = (samples.num_samples, *outputs.shape[2:])
        task.loss.check(outputs[index].expand(shape), own)


def _key(
    task: Task,
    samples: Samples,
    test: Samples | None,
    plan: Plan,
    augment: Augment | None,
) -> str:
    """Return a hash of all that the result depends on."""
    return combine(
        _VERSION,
        torch.__version__,
        task.fingerprint(),
        loss_fingerprint(task.loss),
        samples.fingerprint(),
        None if test is None else test.fingerprint(),
        sorted(plan.settings().items()),
        [plan.rate(step) for step in range(0, plan.num_steps, plan.steps_per_unit)],
        repr(augment),
    )


def _result(loop: Loop) -> TrainingResult:
    task, plan = loop.task, loop.plan
    num_params = sum(p.numel() for p in task.trained) // task.size

    def curve(name: str) -> Tensor | None:
        values = [record[name] for record in loop.records]
        if any(value is None for value in values):
            return None
        stacked = torch.tensor(values, dtype=torch.float64).T.contiguous()
        return stacked if isinstance(task, StackedTask) else stacked[0]

    train_loss, running = curve("train_loss"), curve("running_loss")
    assert train_loss is not None
    assert running is not None
    lost = int((~torch.isfinite(train_loss[..., -1])).sum())
    notes = []
    if lost:
        notes.append(f"diverged: {lost} of {task.size}; take a smaller learning rate")
        warnings.warn(notes[-1], AccuracyWarning, stacklevel=4)
    if loop.step < plan.num_steps:
        notes.append(f"ended after {loop.step:,} of {plan.num_steps:,} steps")
    name = type(task.models()[0]).__name__
    epochs = loop.step / plan.steps_per_epoch
    settings = {**plan.settings(), "augment": repr(loop.augment)}
    return TrainingResult(
        axis=plan.axis,
        at=torch.tensor([record["at"] for record in loop.records]),
        learning_rate=torch.tensor(
            [record["learning_rate"] for record in loop.records], dtype=torch.float64
        ),
        train_loss=train_loss,
        test_loss=curve("test_loss"),
        train_accuracy=curve("train_accuracy"),
        test_accuracy=curve("test_accuracy"),
        running_loss=running,
        seeds=plan.seeds,
        num_params=num_params,
        num_steps=loop.step,
        of=Provenance(
            matrix="training",
            description=f"{name}, {task.loss.name}",
            reduction=task.loss.reduction,
            unit="",
            num_params=num_params,
            num_samples=loop.samples.num_samples,
        ),
        cost=Cost(
            num_data_passes=round(epochs + loop.passes),
            seconds=loop.seconds,
            peak_memory=peak_memory(loop.device),
        ),
        settings=settings,
        notes=tuple(notes),
    )
