"""Probes and steps of a quadrature, chosen from the error that is wanted.

Two probes go on step by step until more steps would not pay; what is left of the error
then says how many probes there have to be.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curvescope._core.checkpoint import Checkpoint
from curvescope._core.checks import message, positive_int, real
from curvescope.linalg._lockstep import Lockstep, ProbeBases
from curvescope.linalg._session import Session
from curvescope.linalg.slq import Quadrature, dense_quadrature, quadratures
from curvescope.linop.base import LinearOperator
from curvescope.results import student_t_quantile

MAX_MATVECS = 10_000
_PILOT = 2
_FIRST_STEPS = 8
_GROWTH = 1.25
_DENSE_BELOW = 4096

# Error of the probes and error of the steps, of nodes and weights, in the unit of the
# wanted one.
Judge = Callable[[Tensor, Tensor], tuple[float, float]]


def wanted_settings(
    error: float | None,
    max_matvecs: int | None,
    **fixed: int | None,
) -> tuple[float, int]:
    """Check the error that is wanted, and what may be spent on it.

    Raises:
        ValueError: If it is not above 0, or probes or steps are given beside.
    """
    wanted = real("error", error, minimum=0.0, strict=True)
    for name, value in fixed.items():
        if value is not None:
            contract = "be left out where `error` is given"
            remedy = "The error decides how many there are."
            raise ValueError(message(name, contract, value, remedy))
    limit = MAX_MATVECS if max_matvecs is None else max_matvecs
    return wanted, positive_int("max_matvecs", limit, minimum=2 * _PILOT)


def relative_half_width(value: float, deviation: float, degrees: float) -> float:
    """Return half the width of the 95 % interval over the value."""
    half = student_t_quantile(0.975, degrees) * deviation
    if half == 0.0:
        return 0.0
    return half / abs(value) if value else math.inf


def next_count(done: int, half: float, error: float) -> int:
    """Return how many probes more an error needs that falls like their root.

    At most as many again as there are: where it falls faster, that is seen in time.
    """
    wanted = done * min(2.0, 1.1 * (half / error) ** 2)
    return max(1, math.ceil(wanted) - done)


class WantedError(Lockstep):
    """A lockstep run that goes on until its two errors together are small enough.

    Attributes:
        dense: Whether the whole matrix is cheaper than what is still missing.
        errors: Of the probes and of the steps, as they are now.
    """

    def __init__(
        self,
        session: Session,
        generator: torch.Generator,
        checkpoint: Checkpoint | None,
        *,
        basis: str | Path,
        error: float,
        max_matvecs: int,
        judge: Judge,
        name: str,
        independent: bool,
    ) -> None:
        steps = min(_FIRST_STEPS, session.n, max_matvecs // _PILOT)
        super().__init__(session, steps, generator, checkpoint, basis=basis)
        self.error, self.limit, self.judge = error, max_matvecs, judge
        self.independent = independent
        self.identity = f"wanted {name} {error!r} {max_matvecs}"
        self.phase, self.target = "pilot", _PILOT
        self.dense = False
        self.errors = (math.inf, math.inf)

    def run(self) -> tuple[Tensor, Tensor]:
        """Return diagonals and off-diagonals, shape ``(num_probes, num_steps)``."""
        resumed = self.resume()
        if not resumed:
            self.group_size(_PILOT)
            self.begin_group(_PILOT)
        if self.phase == "pilot":
            self._pilot()
            self.end_group()
            self.phase, resumed = "probes", False
            self._choose_target()
        while not self.dense:
            self.group = self.group_size(self.target)
            self.finish_probes(self.target, resumed=resumed)
            resumed = False
            if not self._choose_target():
                break
        return self.done[:, : self.num_steps], self.done[:, self.num_steps :]

    def allocate(self, p: int) -> None:
        """Make room for one vector more: from it the steps may go on."""
        self.bases = ProbeBases(self.basis, p, self.num_steps + 1, self.session)
        self.current = torch.zeros(
            p, 2 * self.num_steps, dtype=torch.float64, device=self.session.device
        )

    def _judged(self, rows: Tensor) -> tuple[float, float]:
        steps = self.num_steps
        nodes, weights = quadratures(rows[:, :steps], rows[:, steps:])
        return self.judge(nodes * (self.session.scale or 1.0), weights)

    @property
    def total(self) -> float:
        """Both errors together: squares add where they are independent."""
        return math.hypot(*self.errors) if self.independent else sum(self.errors)

    def _pilot(self) -> None:
        """Step two probes until one step more would save no product."""
        while True:
            self.run_group()
            self.errors = self._judged(self.current.cpu())
            more = min(
                math.ceil(_GROWTH * self.num_steps),
                self.session.n,
                self.limit // _PILOT,
            )
            # Zeros beside the diagonal: the Krylov spaces ended, and are exact.
            last = self.current[:, 2 * self.num_steps - 1]
            if more <= self.num_steps or not bool((last > 0.0).any()):
                return
            now = self._products(self.num_steps, self.errors[1])
            later = self._products(more, self.errors[1] * self.num_steps / more)
            if now <= later < math.inf or not self._has_room(more):
                return
            if self._dense_fits() and _PILOT * more >= self.session.n:
                return
            self._grow(more)

    def _dense_fits(self) -> bool:
        """Whether the whole matrix is small enough, and its columns can be paid."""
        n = self.session.n
        return n <= _DENSE_BELOW and n <= self.limit - self.session.num_matvecs

    def _has_room(self, steps: int) -> bool:
        """Whether the pilot's bases can be copied into larger ones."""
        fits, _ = self._room()
        if fits >= _PILOT * (self.num_steps + steps + 4):
            return True
        self.notes.append(f"{self.num_steps} steps: the memory holds no more")
        return False

    def _products(self, steps: int, step_error: float) -> float:
        """Return how many products steps of this error would need in all."""
        return steps * self._probes_for(step_error, self.errors[0], _PILOT)

    def _probes_for(self, step_error: float, probe_error: float, p: int) -> float:
        if step_error >= self.error:
            return math.inf
        if self.independent:
            left = self.error**2 - step_error**2
        else:
            left = (self.error - step_error) ** 2
        return max(_PILOT, p * probe_error**2 / left)

    def _grow(self, steps: int) -> None:
        """Make room for more steps of the same probes."""
        before, old, rows = self.num_steps, self.bases, self.current
        self.num_steps = steps
        self.allocate(rows.shape[0])
        for j in range(old.written):
            self.bases.write(j, old.read(j))
        self.current[:, :before] = rows[:, :before]
        self.current[:, steps : steps + before] = rows[:, before:]
        self.done = torch.zeros(0, 2 * steps, dtype=torch.float64)
        self.step = before
        self.session.expect(2 * self.session.num_matvecs)

    def _choose_target(self) -> bool:
        """Decide how many probes there have to be; ``False`` if there are enough."""
        p, steps, session = self.done.shape[0], self.num_steps, self.session
        self.errors = self._judged(self.done)
        if self.total <= self.error:
            return False
        wanted = self._probes_for(self.errors[1], self.errors[0], p)
        if self._dense_fits() and (wanted - p) * steps >= session.n:
            self.dense = True
            return True
        affordable = p + (self.limit - session.num_matvecs) // steps
        if math.isinf(wanted):
            # More probes alone do not reach it; half of the way they may still help.
            wanted = max(_PILOT, p * (self.errors[0] / (0.5 * self.error)) ** 2)
        self.target = min(max(p + 1, math.ceil(wanted)), affordable)
        if self.target <= p or (math.isinf(self.errors[1]) and p >= wanted):
            return False
        session.expect(session.num_matvecs + (self.target - p) * steps)
        return self.target > p

    def note(self, of_what: str) -> str:
        """Say what was not reached; ``""`` if all was."""
        if self.dense or self.total <= self.error:
            return ""
        probes, steps = self.errors
        return (
            f"the error of {of_what} is {self.total:.2g} ({probes:.2g} by probes, "
            f"{steps:.2g} by steps), not {self.error:g}: "
            f"{self.session.num_matvecs} of at most {self.limit} products were made"
        )

    def state(self) -> dict[str, Any]:
        """Return the numbers that a resumed run needs."""
        return {
            **super().state(),
            "phase": self.phase,
            "num_steps": self.num_steps,
            "target": self.target,
        }

    def restore(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Take over numbers and tensors."""
        self.num_steps = state["num_steps"]
        self.phase, self.target = state["phase"], state["target"]
        super().restore(state, tensors)


def quadrature_of_error(
    operator: LinearOperator,
    *,
    error: float,
    max_matvecs: int,
    judge: Judge,
    name: str,
    independent: bool = True,
    basis: str | Path = "device",
    checkpoint: Checkpoint | None = None,
    generator: torch.Generator,
) -> Quadrature:
    """Return a quadrature with as many probes and steps as an error needs.

    Args:
        operator: A symmetric one.
        error: What `judge` says in the end, at most.
        max_matvecs: Products to spend at most.
        judge: Tells the errors of nodes and weights.
        name: What the error is of, in words.
        independent: Whether the squares of the two errors add, or they themselves.
        basis: As for `slq`.
        checkpoint: As for `slq`.
        generator: Source of the probes.
    """
    seed = generator.initial_seed()
    with Session(operator, name, total=None) as session:
        run = WantedError(
            session,
            generator,
            checkpoint,
            basis=basis,
            error=error,
            max_matvecs=max_matvecs,
            judge=judge,
            name=name,
            independent=independent,
        )
        nodes, weights = quadratures(*run.run())
        if run.dense:
            nodes, weights = dense_quadrature(session)
        cost, scale = session.cost(), session.scale or 1.0
        notes = [*run.notes, *run.rounding_note()]
        text = run.note(name)
    settings: dict[str, Any] = {
        "error": error,
        "max_matvecs": max_matvecs,
        "num_probes": nodes.shape[0],
        "num_steps": nodes.shape[1],
        "basis": "disk" if isinstance(basis, Path) else basis,
        "seed": seed,
    }
    if run.dense:
        settings["method"] = f"dense: all n = {session.n} columns"
    if operator.positive_semidefinite:
        settings["positive_semidefinite"] = True
    return Quadrature(
        of=operator.info,
        cost=cost,
        settings=settings,
        notes=(*notes, text) if text else tuple(notes),
        nodes=nodes * scale,
        weights=weights,
        dimension=session.n,
        exact=run.dense,
    )
