"""Interleaved rounds of whole algorithms, within a budget of time.

Everybody runs once, in a process that has done nothing yet: that tells the memory, the
answer that is judged, and what a round costs. Then come the rounds, in turns at who goes
first: the cheap ones always, a dear one where the time left allows it, so that who is
fast has all its rounds and who is slow has at least its first. A ratio is over
curvescope's time of the same round. The runner knows workers only by what they answer.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.process import WorkerError
from benchmarks.registry import OURS, Implementation
from benchmarks.runner import Outcome, Worker


@dataclass(frozen=True)
class SolverSettings:
    """What is measured.

    Attributes:
        problems: Names.
        matrix: Of the operator.
        grid: Settings of the algorithm; every implementation runs with each.
        rounds: Wanted for each, beside the first run.
        budget: Seconds for the rounds of all problems, after everybody's first run.
        shares: Of the budget, by problem, in any unit; 1 where none is given.
        judge_all: Whether the answers of all rounds are judged, or the first's only.
    """

    problems: tuple[str, ...]
    matrix: str = "hessian"
    grid: tuple[dict[str, Any], ...] = ({},)
    rounds: int = 5
    budget: float = 900.0
    shares: dict[str, float] = field(default_factory=dict)
    judge_all: bool = False


@dataclass
class Contestant:
    """One implementation with one setting on one problem."""

    implementation: Implementation
    number: int
    settings: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    first: dict[str, Any] | None = None
    cost: float = 0.0
    rounds: dict[int, dict[str, Any]] = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)


class SolverRunner:
    """Measures every problem, one group of workers after another.

    Args:
        settings: What to measure.
        implementations: Who takes part.
        start: ``(implementation, problem, matrix) -> worker``.
        prepare: ``problem -> facts``: the task's, with its fingerprint.
        judge: ``(problem, paths of answers) -> facts``, one for each path.
        say: Where progress goes.
        clock: Seconds, for the budget.
    """

    def __init__(
        self,
        settings: SolverSettings,
        implementations: Sequence[Implementation],
        *,
        start: Callable[[Implementation, str, str], Worker],
        prepare: Callable[[str], dict[str, Any]],
        judge: Callable[[str, Sequence[str]], list[dict[str, Any]]],
        say: Callable[[str], None] = print,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._implementations = implementations
        self._start = start
        self._prepare = prepare
        self._judge = judge
        self._say = say
        self._clock = clock
        self._workers: dict[str, Worker] = {}
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Measure everybody once, and in as many rounds as fit the budget."""
        settings = self._settings
        shares = [settings.shares.get(p, 1.0) for p in settings.problems]
        for problem, share in zip(settings.problems, shares, strict=True):
            if self._prepared(problem):
                self._group(problem, settings.budget * share / sum(shares))
        return self.outcome

    def _prepared(self, problem: str) -> bool:
        """Have the exact answers made."""
        self._say(f"{problem}: exact answers")
        try:
            self.outcome.problems[problem] = self._prepare(problem)
        except WorkerError as error:
            self._fail("the reference", problem, str(error))
            return False
        return True

    def _group(self, problem: str, seconds: float) -> None:
        with tempfile.TemporaryDirectory() as folder:
            contestants = [
                Contestant(implementation, number, settings)
                for number, settings in enumerate(self._settings.grid)
                for implementation in self._implementations
                if problem not in implementation.not_on
            ]
            try:
                there = self._firsts(problem, contestants, folder)
                self._rounds(problem, there, folder, self._clock() + seconds)
            finally:
                for worker in self._workers.values():
                    worker.__exit__(None, None, None)
                self._workers.clear()
            self._finish(problem, [c for c in there if c.first is not None])

    def _firsts(
        self, problem: str, contestants: list[Contestant], folder: str
    ) -> list[Contestant]:
        """Run everybody once; return those who could.

        What an implementation runs first starts and warms its process up. It runs once
        more, to know what it costs in the rounds.
        """
        begun: set[str] = set()
        for contestant in contestants:
            implementation = contestant.implementation
            if self._is_lost(contestant, problem):
                continue
            contestant.first = self._once(problem, contestant, 0, folder)
            warming = implementation.key not in begun and not implementation.fresh
            begun.add(implementation.key)
            several = sum(c.implementation == implementation for c in contestants) > 1
            if warming and several and contestant.first is not None:
                again = self._once(problem, contestant, 0, folder)
                # Its answer took the place of the first one's.
                contestant.answers = contestant.answers[:1] if again else []
                contestant.first = contestant.first if again else None
        return [c for c in contestants if c.first is not None]

    def _is_lost(self, contestant: Contestant, problem: str) -> bool:
        """Whether the implementation has failed on this problem before."""
        key = contestant.implementation.key
        return any(
            row["implementation"] == key and row["problem"] == problem
            for row in self.outcome.failed
        )

    def _rounds(
        self, problem: str, contestants: list[Contestant], folder: str, end: float
    ) -> None:
        for number in range(1, self._settings.rounds + 1):
            there = [c for c in contestants if not self._is_lost(c, problem)]
            left = self._settings.rounds + 1 - number
            chosen = affordable(there, end - self._clock(), left)
            first = number % max(len(chosen), 1)
            for contestant in chosen[first:] + chosen[:first]:
                if self._is_lost(contestant, problem):
                    continue
                found = self._once(problem, contestant, number, folder)
                if found is not None:
                    contestant.rounds[number] = found

    def _once(
        self, problem: str, contestant: Contestant, number: int, folder: str
    ) -> dict[str, Any] | None:
        implementation = contestant.implementation
        key = implementation.key
        name = f"{key}-{contestant.number}-{number}.pt"
        path = str(Path(folder) / name)
        begin = self._clock()
        try:
            worker = self._worker(implementation, problem)
            contestant.facts = {
                fact: worker.hello[fact] for fact in ("name", "version", "torch")
            }
            gradient = worker.ask("gradient")["seconds"]
            found = worker.ask(
                "run", seed=number, settings=contestant.settings, path=path
            )
        except WorkerError as error:
            self._leave(key)
            self._fail(key, problem, str(error))
            return None
        if implementation.fresh:
            self._leave(key)
        contestant.cost = self._clock() - begin
        if number == 0 or self._settings.judge_all:
            contestant.answers.append(path)
        if number == 0:
            words = " ".join(f"{k}={v}" for k, v in contestant.settings.items())
            text = f"{problem}: {key} {words}".rstrip()
            self._say(f"{text}, first {found['seconds']:.2f} s")
        return {**found, "gradient_seconds": gradient}

    def _worker(self, implementation: Implementation, problem: str) -> Worker:
        key = implementation.key
        if key not in self._workers:
            worker = self._start(implementation, problem, self._settings.matrix)
            self._workers[key] = worker
            worker.greet()
            facts = self.outcome.problems[problem]
            if worker.hello["fingerprint"] != facts["fingerprint"]:
                raise WorkerError("other weights or data than the reference's")
        return self._workers[key]

    def _leave(self, key: str) -> None:
        if key in self._workers:
            self._workers.pop(key).__exit__(None, None, None)

    def _finish(self, problem: str, contestants: list[Contestant]) -> None:
        paths = [path for c in contestants for path in c.answers]
        self._say(f"{problem}: judging {len(paths)} answers")
        try:
            verdicts = dict(zip(paths, self._judge(problem, paths), strict=True))
        except WorkerError as error:
            # Times whose answers nobody has checked say nothing.
            self._fail("the judge", problem, str(error))
            return
        ours = {c.number: c for c in contestants if c.implementation.key == OURS}
        self.outcome.rows.extend(
            {
                "problem": problem,
                "matrix": self._settings.matrix,
                **_summary(c, [verdicts[p] for p in c.answers], ours.get(c.number)),
            }
            for c in contestants
        )

    def _fail(self, key: str, problem: str, reason: str) -> None:
        self._say(f"{problem}: {key} failed: {reason}")
        self.outcome.failed.append(
            {
                "implementation": key,
                "problem": problem,
                "matrix": self._settings.matrix,
                "reason": reason,
            }
        )


def affordable(
    contestants: list[Contestant], seconds: float, rounds_left: int
) -> list[Contestant]:
    """Return who runs in a round, so that the cheapest have all their rounds.

    Args:
        contestants: With what one run of each costs.
        seconds: What is left.
        rounds_left: This one included.
    """
    chosen: list[Contestant] = []
    total = 0.0
    for contestant in sorted(contestants, key=lambda c: c.cost):
        total += contestant.cost
        if total * rounds_left > seconds:
            break
        chosen.append(contestant)
    return [c for c in contestants if c in chosen]


def _summary(
    contestant: Contestant, verdicts: list[dict[str, Any]], ours: Contestant | None
) -> dict[str, Any]:
    """Join what was measured: medians over the rounds, the first's memory and answer."""
    runs = _timed(contestant)
    seconds = [run["seconds"] for run in runs.values()]
    gradients = [run["gradient_seconds"] for run in runs.values()]
    ratios = [] if ours is None else _ratios(runs, _timed(ours))
    first = contestant.first
    known = ("seconds", "gradient_seconds", "products", "passes", "build_seconds")
    return {
        "implementation": contestant.implementation.key,
        **contestant.facts,
        "settings": contestant.settings,
        **{k: v for k, v in first.items() if k not in known},
        "first_seconds": first["seconds"],
        "rounds": len(seconds),
        "warm": bool(contestant.rounds),
        "all_seconds": seconds,
        "all_gradient_seconds": gradients,
        "seconds": median(seconds),
        "seconds_gradient": median(gradients),
        "build_seconds": median(run["build_seconds"] for run in runs.values()),
        "products": median(run["products"] for run in runs.values()),
        "passes": median(run["passes"] for run in runs.values()),
        "gradients": median(a / b for a, b in zip(seconds, gradients, strict=True)),
        "ratio": median(ratios) if ratios else None,
        "ratio_min": min(ratios, default=None),
        "ratio_max": max(ratios, default=None),
        "verdict": verdicts[0],
        "all_verdicts": verdicts,
    }


def _timed(contestant: Contestant) -> dict[int, dict[str, Any]]:
    """Return the runs that count: the rounds, or the first where there were none.

    What needs a process of its own is as cold in every round as in the first.
    """
    if contestant.implementation.fresh or not contestant.rounds:
        return {0: contestant.first, **contestant.rounds}
    return contestant.rounds


def _ratios(
    theirs: dict[int, dict[str, Any]], ours: dict[int, dict[str, Any]]
) -> list[float]:
    """Return the ratios of the same rounds, or one of the medians if there are none."""
    both = sorted(theirs.keys() & ours.keys())
    if both:
        return [theirs[n]["seconds"] / ours[n]["seconds"] for n in both]
    middle = [median(run["seconds"] for run in who.values()) for who in (theirs, ours)]
    return [middle[0] / middle[1]]
