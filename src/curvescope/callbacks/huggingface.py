"""Tracking of curvature by the trainer of Hugging Face's transformers."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from curvescope._core.checks import describe, message
from curvescope._core.imports import require
from curvescope._core.memory import available_memory
from curvescope._core.processes import ALONE
from curvescope.autodiff.network import call_with, preserved_random_state, unwrapped
from curvescope.callbacks.base import Tracking
from curvescope.losses import CrossEntropy, SquaredError
from curvescope.problem import Problem
from curvescope.problem.batches import Adapter, BatchSource, default_adapter
from curvescope.results import TrackingCurve

_TOLERANCE = 1e-3
_PEEK = 256


def _callback_class() -> Any:
    """Return the framework's base class, or a stand-in where it is not installed."""
    try:
        from transformers import TrainerCallback
    except ModuleNotFoundError:
        return object
    return TrainerCallback


_Callback: Any = _callback_class()


class CurvatureCallback(_Callback):
    """Track the curvature of a model that ``transformers.Trainer`` trains.

    The trained weights are the same bits with it and without it. Steps are the
    trainer's ``global_step``, its updates; the first measurement is before the first.
    `log_through` connects it with the trainer's loggers.

    Args:
        data: The probe set: batches as the model takes them, dictionaries with
            ``labels``; a list of them, or a loader. A dataset of samples needs a loader
            with the trainer's collator.
        loss: The loss, as `Problem` takes it. By default the model's own, known for
            classification of sequences, images and tokens (with one output regression,
            with float labels multi-label classification, as in transformers), and for
            causal and masked language models; it is compared with what the model says
            on the first batch.
        problem: Further options of `Problem`, such as ``params``.
        use_optimizer: Whether the trainer's optimiser gives the limit of stability and
            the metric.
        prefix: Of the names in the log.
        **options: Of `curvescope.track`: ``every``, ``k``, ``out`` and so on.

    Raises:
        MissingExtraError: If transformers is not installed.
    """

    def __init__(
        self,
        data: Any,
        loss: Any = None,
        *,
        problem: Mapping[str, Any] | None = None,
        use_optimizer: bool = True,
        prefix: str = "curvature",
        **options: Any,
    ) -> None:
        if _Callback is object:
            require("transformers", extra="huggingface", purpose="`CurvatureCallback`")
        super().__init__()
        settings = dict(problem or {})

        def make(model: nn.Module) -> Problem:
            if loss is None:
                return own_problem(model, data, settings)
            return Problem(model, loss, data, **settings)

        self._tracking = Tracking(make, dict(options), use_optimizer)
        self._prefix = prefix
        self._log: Callable[[dict[str, float]], Any] | None = None

    def log_through(self, trainer: Any) -> None:
        """Pass measurements on to a trainer's loggers, by its own ``log``.

        A callback does not know its trainer. Without this call the numbers go into the
        history of the trainer's state, which is saved, and to no logger.

        Args:
            trainer: The ``transformers.Trainer`` that has this callback.
        """
        self._log = trainer.log

    def on_train_begin(
        self, args: Any, state: Any, control: Any, **kwargs: Any
    ) -> None:
        """Make the tracker, and measure at the first weights."""
        if not state.is_world_process_zero:
            return

        def log(numbers: Mapping[str, float], step: int) -> None:
            named = {f"{self._prefix}/{k}": v for k, v in numbers.items()}
            if self._log is not None:
                self._log(named)
            else:
                state.log_history.append({**named, "step": step})

        optimizer = kwargs.get("optimizer")
        found = [] if optimizer is None else [optimizer]
        step = int(state.global_step)
        self._tracking.begin(unwrapped(kwargs["model"]), found, log, step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure if the step is due."""
        if state.is_world_process_zero:
            self._tracking.step(int(state.global_step))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the curve."""
        if state.is_world_process_zero:
            self._tracking.end()

    def result(self) -> TrackingCurve:
        """Return what was measured.

        Raises:
            RuntimeError: If no training began.
        """
        return self._tracking.result()


def own_problem(model: nn.Module, data: Any, settings: Mapping[str, Any]) -> Problem:
    """Return the problem with the loss that a model of transformers computes itself.

    Raises:
        ValueError: If the model's loss is not known here, or is another one.
    """
    options = dict(settings)
    adapter: Adapter = options.pop("batch_adapter", None) or default_adapter
    kind = None
    if has_problem_type(model):
        if isinstance(data, Iterator):
            data = list(data)  # it is looked at once more
        kind = problem_type(model, lambda: first_labels(data, adapter))
        config: Any = model.config
        if kind == "regression" and config.num_labels == 1:
            adapter = in_a_column(adapter)
    made = Problem(
        model, model_loss(model, kind), data, batch_adapter=adapter, **options
    )
    check_own_loss(made)
    return made


def has_problem_type(model: nn.Module) -> bool:
    """Tell whether the model's configuration says which loss it has."""
    return type(unwrapped(model)).__name__.endswith(
        ("ForSequenceClassification", "ForImageClassification")
    )


def problem_type(model: nn.Module, labels: Callable[[], Any]) -> str:
    """Return what transformers takes a classifier's labels for.

    The rule is transformers' own: what the configuration says; else a single output is
    a regression, labels of type long or int name one class, and others are multi-label.
    """
    config: Any = model.config
    if config.problem_type is not None:
        return str(config.problem_type)
    if config.num_labels == 1:
        return "regression"
    kind = getattr(labels(), "dtype", None)
    one = kind in (torch.long, torch.int)
    return "single_label_classification" if one else "multi_label_classification"


def first_labels(data: Any, adapter: Adapter) -> Any:
    """Return the labels of the first batch."""
    place = torch.device("cpu")
    limit = available_memory(place) // 4
    source = BatchSource(data, adapter, _PEEK, place, torch.float32, limit)
    source.read(ALONE)
    return next(iter(source)).targets


def in_a_column(adapter: Adapter) -> Adapter:
    """Give labels of shape ``(n,)`` the shape ``(n, 1)`` of a single output.

    Transformers squeezes both instead, which is the same loss.
    """

    def adapt(batch: Any) -> tuple[Any, Any]:
        inputs, labels = adapter(batch)
        if isinstance(labels, Tensor) and labels.ndim == 1:
            labels = labels[:, None]
        return inputs, labels

    return adapt


def model_loss(model: nn.Module, kind: str | None = None) -> Any:
    """Return the loss that a model of transformers computes from its labels.

    Args:
        model: The model.
        kind: Its `problem_type`, where it has one.

    Raises:
        ValueError: If it is not known here.
    """
    name = type(unwrapped(model)).__name__
    if kind == "regression":
        return SquaredError()
    if kind == "single_label_classification":
        return "cross_entropy"
    if kind == "multi_label_classification":
        return "bce_with_logits"
    if name.endswith(("ForTokenClassification", "ForMaskedLM")):
        return CrossEntropy(class_dim=-1)
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return "causal_lm"
    remedy = (
        'Pass it: `loss="cross_entropy"`, or a `cs.Loss(...)` of logits and labels.'
    )
    raise ValueError(message("loss", "be given for this model", name, remedy))


def check_own_loss(problem: Problem) -> None:
    """Compare the problem's loss on its first batch with the model's own.

    Raises:
        TypeError: If the model gives no loss.
        ValueError: If they differ: the curvature would be that of another loss.
    """
    batch = next(iter(problem.batches()))
    inputs = dict(batch.inputs) if isinstance(batch.inputs, Mapping) else None
    if inputs is None or not isinstance(batch.targets, Tensor):
        return
    _, parameters = problem.leaves()
    config: Any = getattr(problem.model, "config", None)
    before = getattr(config, "problem_type", None)
    with (
        problem.network.running(),
        torch.no_grad(),
        preserved_random_state(problem.device),
    ):
        own = call_with(
            problem.model,
            {k: v.detach() for k, v in parameters.items()},
            kwargs={**inputs, "labels": batch.targets},
        )
        outputs = problem.outputs(batch, parameters)
        ours = float(problem.loss.total(outputs, batch.targets))
        ours /= problem.loss.denominator(outputs, batch.targets)
    if getattr(config, "problem_type", None) != before:
        config.problem_type = before  # what it infers it also writes down
    theirs = getattr(own, "loss", None)
    if not isinstance(theirs, Tensor):
        text = describe(type(own))
        raise TypeError(message("model", "return a loss for `labels`", text))
    if not math.isclose(float(theirs), ours, rel_tol=_TOLERANCE, abs_tol=1e-6):
        remedy = "Pass the one that is meant as `loss=`."
        got = f"{float(theirs):.6g} where {problem.loss.name} gives {ours:.6g}"
        contract = "be the model's own loss on the first batch"
        raise ValueError(message("loss", contract, got, remedy))
