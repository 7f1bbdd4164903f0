"""Tracking of curvature while a network trains, on a probe set of its own."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import torch

from curvescope._core.checks import describe, message, one_of, positive_int, real
from curvescope._core.checks import unique as checked_unique
from curvescope._core.errors import AccuracyWarning
from curvescope._core.random import resolve_generator
from curvescope.analysis.preconditioning import (
    is_adaptive,
    stability_limit,
    unwrapped_optimiser,
)
from curvescope.analysis.tracking_curve import curve_of
from curvescope.analysis.tracking_file import TrackingFile
from curvescope.analysis.tracking_measures import (
    MEASURES,
    Memory,
    Row,
    Settings,
    measure,
    scalars,
)
from curvescope.analysis.tracking_plan import Prices, notes_before, planned
from curvescope.analysis.tracking_schedule import schedule
from curvescope.problem import Problem
from curvescope.results import TrackingCurve, TrackingPlan

Log = Callable[[Mapping[str, float], int], Any]
_RESULT = "tracking"


def track(
    problem: Problem,
    *,
    every: int | Sequence[int] | Callable[[int], bool] = 100,
    k: int = 5,
    which: str = "LA",
    measures: Sequence[str] | None = None,
    optimizer: Any = None,
    z: float | Sequence[float] | None = None,
    tol: float = 1e-2,
    max_matvecs: int | None = None,
    num_probes: int = 8,
    num_steps: int = 24,
    warm_start: bool = True,
    check_every: int = 10,
    out: str | Path | None = None,
    log: Log | Sequence[Log] = (),
    generator: torch.Generator | None = None,
) -> "Tracker":
    r"""Track the curvature of a network that a loop of the user's own trains.

    The problem's data are the probe set: every measurement is made on all of it, in
    eval mode, at the weights as they are then. Its size sets the cost, which
    ``print(tracker.plan())`` says beforehand. Training goes on as if nothing had
    been measured, to the last bit.

    Args:
        problem: The network that is trained, its loss, and the probe set.
        every: Measure at its multiples; or at these steps, such as `log_spaced`
            gives; or where the function of the step is true.
        k: Eigenvalues.
        which: Which end, as for `eigsh`.
        measures: Any of ``"loss"``, ``"gradient"``, ``"eigenvalues"``, ``"alignment"`` (of
            gradient and eigenvectors), ``"preconditioned"`` (sharpness in the
            optimiser's metric), ``"trace"``, ``"effective_dimension"``, ``"layers"``. By
            default all that the other arguments allow; of ``"layers"`` those that the
            chain rule gives exactly, with a note that names the others, which come from
            probes where ``"layers"`` is asked for.
        optimizer: The torch optimiser that trains the network: its learning rate gives
            the limit of stability, an adaptive one's scales the metric.
        z: Where the effective dimension is asked for, in the unit of an eigenvalue.
        tol: Relative residual of the eigenpairs.
        max_matvecs: Products that one set of eigenpairs may take, by default
            ``20 k + 100``.
        num_probes: Of the trace's rest, the effective dimension and inexact layers.
        num_steps: Lanczos steps of the effective dimension.
        warm_start: Whether eigenpairs start from those of the measurement before.
        check_every: Measurements from one search for repeated eigenvalues to the next; 1
            searches always, for the price of a first measurement.
        out: Folder where every measurement is written at once, as a line of
            ``tracking.jsonl``. The measurements that it has of the same run are kept.
        log: Called with named numbers and the step; or several such functions.
        generator: Gives the seed of the probes, which are the same every time.

    Returns:
        The tracker: call ``tracker.step(step)`` after every update, and
        ``tracker.result()`` at the end.

    Raises:
        ValueError: If an argument is out of range, or ``out`` holds other measurements.
        TypeError: If ``problem`` or ``optimizer`` is of another kind.

    Cost:
        Nothing until a step is due; then what the plan says.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> data = (torch.eye(3), torch.tensor([0, 1, 0]))
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> problem = Problem(model, "cross_entropy", data)
        >>> tracker = track(problem, every=2, k=1, optimizer=sgd)
        >>> for step in range(1, 5):
        ...     loss = torch.nn.functional.cross_entropy(model(data[0]), data[1])
        ...     sgd.zero_grad()
        ...     loss.backward()
        ...     sgd.step()
        ...     _ = tracker.step(step)
        >>> tracker.result().at.tolist()
        [2, 4]

    References:
        Cohen et al. (2021), arXiv:2103.00065, on the edge of stability; Gur-Ari, Roberts
        and Dyer (2018), arXiv:1812.04754, on the gradient in the top space.
    """
    if not isinstance(problem, Problem):
        remedy = "Make one: `cs.Problem(model, loss, probe_set)`."
        raise TypeError(message("problem", "be a Problem", describe(problem), remedy))
    due = schedule(every)
    k = positive_int("k", k)
    if k > problem.num_params:
        contract = f"be at most {problem.num_params}, the dimension"
        raise ValueError(message("k", contract, k))
    one_of("which", which, ("LM", "LA", "SA", "BE"))
    limit = 20 * k + 100 if max_matvecs is None else max_matvecs
    places = _places(z)
    if optimizer is not None:
        optimizer = unwrapped_optimiser(optimizer)
        stability_limit(optimizer)  # refuses a rule that it does not know
    prices = Prices(problem)
    left_out = tuple(prices.layers.inexact) if measures is None else ()
    settings = Settings(
        measures=_chosen(measures, optimizer, places, left_out, problem),
        layers_left_out=left_out,
        k=k,
        which=which,
        tol=real("tol", tol, minimum=0.0, strict=True),
        max_matvecs=positive_int("max_matvecs", limit, minimum=2 * k + 1),
        num_probes=positive_int("num_probes", num_probes, minimum=2),
        num_steps=positive_int("num_steps", num_steps, minimum=2),
        z=places,
        warm_start=warm_start,
        check_every=positive_int("check_every", check_every),
        seed=resolve_generator(generator).initial_seed(),
    )
    logs = (log,) if callable(log) else tuple(log)
    return Tracker(problem, settings, prices, due, optimizer, out, logs)


def _places(z: float | Sequence[float] | None) -> tuple[float, ...]:
    if z is None:
        return ()
    several = [z] if isinstance(z, (int, float)) else list(z)
    return tuple(sorted({real("z", v, minimum=0.0, strict=True) for v in several}))


def _chosen(
    measures: Sequence[str] | None,
    optimizer: Any,
    z: tuple[float, ...],
    layers_left_out: tuple[str, ...],
    problem: Problem,
) -> tuple[str, ...]:
    """Return the measures in their order: all that the other arguments allow."""
    adaptive = optimizer is not None and is_adaptive(optimizer)
    if measures is None:
        left_out = set() if adaptive else {"preconditioned"}
        left_out |= set() if z else {"effective_dimension"}
        some = len(layers_left_out) < len(problem.layers())
        left_out |= set() if some else {"layers"}
        return tuple(name for name in MEASURES if name not in left_out)
    chosen = set(checked_unique("measures", measures))
    unknown = sorted(chosen - set(MEASURES))
    if unknown:
        contract = f"be among {', '.join(MEASURES)}"
        raise ValueError(message("measures", contract, ", ".join(unknown)))
    if "effective_dimension" in chosen and not z:
        text = message("z", "be given for the effective dimension", None)
        raise ValueError(text)
    if "preconditioned" in chosen and not adaptive:
        contract = "be adaptive (Adam, ...) to have a metric of its own"
        got = "None" if optimizer is None else type(optimizer).__name__
        raise ValueError(message("optimizer", contract, got))
    if "alignment" in chosen:
        chosen |= {"eigenvalues", "gradient"}
    return tuple(name for name in MEASURES if name in chosen or name == "loss")


@final
class Tracker:
    """Measures a network's curvature as it trains; `track` makes one.

    Use it as a context, or call `result` at the end: both write the curve into the
    folder.

    Attributes:
        problem: The network, its loss, and the probe set.
        settings: What every measurement is made with.
    """

    def __init__(
        self,
        problem: Problem,
        settings: Settings,
        prices: Prices,
        due: Callable[[int], bool],
        optimizer: Any,
        out: str | Path | None,
        logs: tuple[Log, ...],
    ) -> None:
        self.problem, self.settings = problem, settings
        self._prices, self._due = prices, due
        self._optimizer, self._logs = optimizer, logs
        self._memory = Memory()
        self._folder = None if out is None else Path(out)
        self._file = None
        self._kept: list[Row] = []
        if self._folder is not None:
            self._file = TrackingFile(self._folder, self._identity())
        self._warned = False

    def _identity(self) -> dict[str, Any]:
        """Return what all measurements of a folder have in common."""
        fields = dataclasses.asdict(self.settings)
        # Found from the weights, which are others where a run is resumed.
        del fields["layers_left_out"]
        of = self.problem.provenance("Hessian")
        described = {"description": of.description, "unit": of.unit}
        return {**described, **fields}

    @property
    def rows(self) -> list[Row]:
        """The measurements so far, ascending in their steps."""
        return self._kept if self._file is None else self._file.rows

    def step(self, step: int) -> Row | None:
        """Measure if the step is due; to be called after every update.

        A step that was measured before at the same weights, in a run that was resumed,
        is not measured again. One at other weights, or below the last, begins anew from
        there: later measurements are moved into ``tracking-replaced.jsonl``.

        Args:
            step: Updates that were made.

        Returns:
            The measurement, or ``None`` if the step is not due.
        """
        step = positive_int("step", step, minimum=0)
        return self.measure(step) if self._due(step) else None

    __call__ = step

    def measure(self, step: int) -> Row:
        """Measure now, whether the step is due or not.

        Raises:
            ChangedDuringComputationError: If the weights change meanwhile.
        """
        step = positive_int("step", step, minimum=0)
        trouble = ""
        try:
            fingerprint = self.problem.refresh()
        except ValueError as error:  # weights that are not finite
            fingerprint, trouble = "", str(error)
        there = [row for row in self.rows if row["step"] == step]
        if there and there[0]["fingerprint"] == fingerprint:
            return there[0]
        self._drop_from(step)
        row: Row = {"step": step, "fingerprint": fingerprint}
        if not trouble:
            trouble = self._measure_into(row)
        if trouble:
            row |= {"loss": None, "trouble": trouble, "cost": {}}
            self._warn(step, trouble)
        self._add(row)
        return row

    def _measure_into(self, row: Row) -> str:
        """Measure, or say why not: a training that diverges is not stopped here."""
        try:
            self.problem.evaluate()
        except ValueError as error:
            return str(error)
        numbers, parts = measure(
            self.problem, self.settings, self._memory, self._optimizer
        )
        row |= numbers
        row["cost"] = parts
        if self.settings.z:
            row["z"] = list(self.settings.z)
        self._prices.learn(row)
        return ""

    def _warn(self, step: int, trouble: str) -> None:
        if not self._warned:
            self._warned = True
            text = f"nothing could be measured at step {step}: {trouble}"
            warnings.warn(text, AccuracyWarning, stacklevel=4)

    def _drop_from(self, step: int) -> None:
        if self._file is not None:
            self._file.replace_from(step)
        self._kept = [row for row in self._kept if row["step"] < step]

    def _add(self, row: Row) -> None:
        if self._file is not None:
            self._file.append(row)
        else:
            self._kept.append(row)
        numbers = scalars(row)
        for log in self._logs:
            log(numbers, row["step"])

    def plan(self) -> TrackingPlan:
        """Return what measurements will cost, in gradients of the probe set.

        Before the first measurement it rests on rules of thumb, after it on what that
        one took. Bounds hold in any case.
        """
        return planned(self.settings, self._prices)

    def result(self) -> TrackingCurve:
        """Return all measurements as one curve; saved, where there is a folder."""
        notes = notes_before(self.settings, self._prices)
        curve = curve_of(self.rows, self.settings, self.problem, notes)
        if self._folder is not None:
            curve.save(self._folder, _RESULT)
        return curve

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Also of a training that was interrupted: what was measured is there.
        if self._folder is not None and self.rows:
            self.result()
