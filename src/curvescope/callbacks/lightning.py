"""Tracking of curvature by Lightning's trainer."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from curvescope._core.imports import require
from curvescope.callbacks.base import Tracking
from curvescope.problem import Problem
from curvescope.results import TrackingCurve


def _callback_class() -> Any:
    """Return the framework's base class, under either of its names, or a stand-in."""
    try:
        from lightning.pytorch import Callback
    except ModuleNotFoundError:
        try:
            from pytorch_lightning import Callback
        except ModuleNotFoundError:
            return object
    return Callback


_Callback: Any = _callback_class()


class CurvatureCallback(_Callback):
    """Track the curvature of a network that ``lightning.Trainer`` trains.

    The trained weights are the same bits with it and without it. Steps are the
    trainer's ``global_step``, its updates; the first measurement is before the first.
    What is measured goes to the trainer's loggers too, as ``curvature/...``. With
    several processes the first one measures, on its own replica; sharded parameters
    (FSDP, DeepSpeed stage 3) cannot be tracked so.

    Args:
        data: The probe set: what `Problem` takes.
        loss: The loss, as `Problem` takes it.
        model: From the LightningModule to the network inside that the loss belongs to;
            by default the LightningModule's own ``forward``.
        problem: Further options of `Problem`, such as ``params`` and ``weight_decay``.
        use_optimizer: Whether the trainer's optimiser, if it is one, gives the limit of
            stability and the metric.
        prefix: Of the names in the loggers.
        **options: Of `curvescope.track`: ``every``, ``k``, ``out`` and so on.

    Raises:
        MissingExtraError: If Lightning is not installed.
    """

    def __init__(
        self,
        data: Any,
        loss: Any,
        *,
        model: Callable[[Any], nn.Module] | None = None,
        problem: Mapping[str, Any] | None = None,
        use_optimizer: bool = True,
        prefix: str = "curvature",
        **options: Any,
    ) -> None:
        if _Callback is object:
            require("lightning", extra="lightning", purpose="`CurvatureCallback`")
        super().__init__()
        chosen, settings = model or (lambda module: module), dict(problem or {})

        def make(module: nn.Module) -> Problem:
            return Problem(chosen(module), loss, data, **settings)

        self._tracking = Tracking(make, dict(options), use_optimizer)
        self._prefix = prefix

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the tracker, and measure at the first weights."""
        if not trainer.is_global_zero:
            return

        def log(numbers: Mapping[str, float], step: int) -> None:
            named = {f"{self._prefix}/{k}": v for k, v in numbers.items()}
            for logger in trainer.loggers:
                logger.log_metrics(named, step=step)

        step = int(trainer.global_step)
        self._tracking.begin(pl_module, list(trainer.optimizers), log, step)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure if the step is due; batches that are accumulated make no step."""
        if trainer.is_global_zero:
            self._tracking.step(int(trainer.global_step))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the curve."""
        if trainer.is_global_zero:
            self._tracking.end()

    def on_exception(
        self, trainer: Any, pl_module: Any, exception: BaseException
    ) -> None:
        """Write what there is of a training that was interrupted."""
        if trainer.is_global_zero:
            self._tracking.end()

    def result(self) -> TrackingCurve:
        """Return what was measured.

        Raises:
            RuntimeError: If no training began.
        """
        return self._tracking.result()
