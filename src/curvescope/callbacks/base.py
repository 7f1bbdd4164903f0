"""What the frameworks' callbacks have in common: a tracker that is made when training begins."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

from torch import nn

from curvescope.analysis.tracking import Tracker, track
from curvescope.problem import Problem
from curvescope.results import TrackingCurve


@final
@dataclass
class Tracking:
    """A problem and a tracker in waiting, since model and optimiser come later.

    Attributes:
        make_problem: From the model that is trained to the problem on the probe set.
        options: Of `track`.
        use_optimizer: Whether the trainer's optimiser is looked at.
        tracker: There from the beginning of the training on.
    """

    make_problem: Callable[[nn.Module], Problem]
    options: dict[str, Any]
    use_optimizer: bool
    tracker: Tracker | None = field(default=None, init=False)

    def begin(
        self, model: nn.Module, optimizers: list[Any], log: Any, step: int
    ) -> None:
        """Make the tracker, and measure at the first weights if that step is due."""
        optimizer = None
        # Of several optimisers (GANs) none is the one that stability is about.
        if self.use_optimizer and len(optimizers) == 1:
            optimizer = optimizers[0]
        options = dict(self.options)
        logs = options.pop("log", ())
        logs = (logs,) if callable(logs) else tuple(logs)
        self.tracker = track(
            self.make_problem(model), optimizer=optimizer, log=(*logs, log), **options
        )
        self.tracker.step(step)

    def step(self, step: int) -> None:
        """Measure if the step is due."""
        if self.tracker is not None:
            self.tracker.step(step)

    def end(self) -> None:
        """Write the curve into the folder, where there is one."""
        if self.tracker is not None:
            self.tracker.result()

    def result(self) -> TrackingCurve:
        """Return what was measured.

        Raises:
            RuntimeError: If no training began.
        """
        if self.tracker is None:
            text = "`result` must follow a training; got none. Pass the callback to a trainer, and fit."
            raise RuntimeError(text)
        return self.tracker.result()
