"""Tracking of curvature by the trainer of Hugging Face's transformers."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from curvescope._core.checks import describe, message
from curvescope._core.imports import require
from curvescope.autodiff.network import preserved_random_state, unwrapped
from curvescope.callbacks.base import Tracking
from curvescope.losses import CrossEntropy, SquaredError
from curvescope.problem import Problem
from curvescope.results import TrackingCurve

_TOLERANCE = 1e-3


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
            classification of sequences and tokens, and for causal and masked language
            models; it is compared with what the model says on the first batch.
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
            own = model_loss(model) if loss is None else loss
            made = Problem(model, own, data, **settings)
            if loss is None:
                check_own_loss(made)
            return made

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


def model_loss(model: nn.Module) -> Any:
    """Return the loss that a model of transformers computes from its labels.

    Raises:
        ValueError: If it is not known here.
    """
    name = type(unwrapped(model)).__name__
    config = getattr(model, "config", None)
    if name.endswith("ForSequenceClassification"):
        kind = getattr(config, "problem_type", None)
        if kind == "regression" or getattr(config, "num_labels", 2) == 1:
            return SquaredError()
        if kind in (None, "single_label_classification"):
            return "cross_entropy"
        if kind == "multi_label_classification":
            return "bce_with_logits"
    if name.endswith(("ForTokenClassification", "ForMaskedLM")):
        return CrossEntropy(class_dim=-1)
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return "causal_lm"
    if name.endswith("ForImageClassification"):
        return "cross_entropy"
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
    with (
        problem.network.running(),
        torch.no_grad(),
        preserved_random_state(problem.device),
    ):
        own = torch.func.functional_call(
            problem.model,
            {k: v.detach() for k, v in parameters.items()},
            kwargs={**inputs, "labels": batch.targets},
        )
        outputs = problem.outputs(batch, parameters)
        ours = float(problem.loss.total(outputs, batch.targets))
        ours /= problem.loss.denominator(outputs, batch.targets)
    theirs = getattr(own, "loss", None)
    if not isinstance(theirs, Tensor):
        text = describe(type(own))
        raise TypeError(message("model", "return a loss for `labels`", text))
    if not math.isclose(float(theirs), ours, rel_tol=_TOLERANCE, abs_tol=1e-6):
        remedy = "Pass the one that is meant as `loss=`."
        got = f"{float(theirs):.6g} where {problem.loss.name} gives {ours:.6g}"
        contract = "be the model's own loss on the first batch"
        raise ValueError(message("loss", contract, got, remedy))
