"""The runner of whole algorithms, with workers that only say what they are told to."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from benchmarks.process import WorkerError
from benchmarks.registry import Implementation
from benchmarks.solver_runner import (
    Contestant,
    SolverRunner,
    SolverSettings,
    affordable,
)

FACTS = {"fingerprint": "same", "num_params": 3}


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self):
        return self.now


@dataclass
class Solver:
    """What every process of one implementation does; a run takes its ``seconds``."""

    key: str
    clock: Clock
    seconds: list
    log: list = field(default_factory=list)
    fresh: bool = False
    fails_at: int | None = None
    fingerprint: str = "same"
    processes: list = field(default_factory=list)
    runs: int = 0

    def start(self):
        self.processes.append(FakeWorker(self))
        return self.processes[-1]


@dataclass
class FakeWorker:
    solver: Solver
    closed: bool = False

    def greet(self):
        self.hello = {
            "name": self.solver.key.title(),
            "version": "1.2",
            "torch": "2.13.0",
            "fingerprint": self.solver.fingerprint,
        }

    def ask(self, do, **arguments):
        assert not self.closed
        solver = self.solver
        if do == "gradient":
            return {"seconds": 0.5}
        solver.log.append((solver.key, arguments["seed"], arguments["settings"]))
        if solver.runs == solver.fails_at:
            raise WorkerError("RuntimeError: out of memory")
        seconds = solver.seconds[solver.runs % len(solver.seconds)]
        solver.runs += 1
        solver.clock.now += seconds
        Path(arguments["path"]).write_text(f"{solver.key} {arguments['seed']}")
        return {
            "build_seconds": 0.1,
            "seconds": seconds,
            "products": 28,
            "passes": 28,
            "peak_bytes": solver.runs,
        }

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.closed = True


@pytest.fixture
def clock():
    return Clock()


def measure(solvers, clock, *, judge=None, problems=("p",), **settings):
    by_key = {solver.key: solver for solver in solvers}
    runner = SolverRunner(
        SolverSettings(problems=problems, **settings),
        [Implementation(s.key, "m", "f", "v", fresh=s.fresh) for s in solvers],
        start=lambda implementation, problem, matrix: by_key[
            implementation.key
        ].start(),
        prepare=lambda problem: dict(FACTS),
        judge=judge or read,
        say=lambda text: None,
        clock=clock,
    )
    outcome = runner.run()
    assert all(process.closed for s in solvers for process in s.processes)
    return outcome


def read(problem, paths):
    """Judge an answer by what is in its file."""
    return [{"answer": Path(path).read_text()} for path in paths]


def by_key(outcome):
    return {row["implementation"]: row for row in outcome.rows}


def test_a_ratio_is_over_our_time_of_the_same_round(clock):
    # The machine slows down tenfold in the middle; every round's ratio is still 3.
    ours = Solver("curvescope", clock, [9.0, 0.1, 1.0, 0.1])
    peer = Solver("peer", clock, [9.0, 0.3, 3.0, 0.3])

    rows = by_key(measure([ours, peer], clock, rounds=3))

    assert rows["curvescope"]["ratio"] == 1.0
    assert rows["peer"]["all_seconds"] == [0.3, 3.0, 0.3]
    for name in ("ratio", "ratio_min", "ratio_max"):
        assert rows["peer"][name] == pytest.approx(3.0)
    assert rows["peer"]["gradients"] == pytest.approx(0.6)


def test_the_first_run_gives_memory_and_answer_but_no_time(clock):
    row = by_key(measure([Solver("curvescope", clock, [9.0, 1.0])], clock, rounds=1))

    found = row["curvescope"]
    assert found["first_seconds"] == 9.0
    assert found["seconds"] == 1.0
    assert found["peak_bytes"] == 1  # of the first run
    assert found["verdict"] == {"answer": "curvescope 0"}
    assert found["rounds"] == 1


def test_who_is_too_slow_has_its_first_run_only_and_the_fast_have_all(clock):
    ours = Solver("curvescope", clock, [1.0])
    slow = Solver("slow", clock, [100.0])

    rows = by_key(measure([ours, slow], clock, rounds=5, budget=30.0))

    assert rows["curvescope"]["rounds"] == 5
    assert rows["slow"]["rounds"] == 1
    assert not rows["slow"]["warm"]
    assert rows["slow"]["ratio"] == pytest.approx(100.0)


def test_time_left_over_at_the_end_goes_to_the_dearer():
    cheap, dear = (
        Contestant(Implementation(key, "m", "f", "v"), 0, {}, cost=cost)
        for key, cost in (("cheap", 1.0), ("dear", 10.0))
    )

    assert affordable([dear, cheap], 20.0, 5) == [cheap]
    assert affordable([dear, cheap], 20.0, 1) == [dear, cheap]
    assert affordable([dear, cheap], 0.5, 1) == []


def test_what_is_compiled_has_a_process_of_its_own_in_every_round(clock):
    ours = Solver("curvescope", clock, [1.0])
    compiled = Solver("compiled", clock, [4.0, 2.0, 3.0], fresh=True)

    rows = by_key(measure([ours, compiled], clock, rounds=2))

    assert len(ours.processes) == 1
    assert len(compiled.processes) == 3
    # A process's first run is as cold as any, so it counts.
    assert rows["compiled"]["all_seconds"] == [4.0, 2.0, 3.0]


def test_every_setting_is_a_row_and_every_round_has_its_own_seed(clock):
    grid = ({"num_probes": 1}, {"num_probes": 8})
    ours = Solver("curvescope", clock, [1.0])

    outcome = measure([ours], clock, grid=grid, rounds=2, judge_all=True)

    assert [row["settings"] for row in outcome.rows] == list(grid)
    for row in outcome.rows:
        answers = [verdict["answer"] for verdict in row["all_verdicts"]]
        assert answers == ["curvescope 0", "curvescope 1", "curvescope 2"]


def test_a_cold_first_run_does_not_price_its_setting_out_of_the_rounds(clock):
    grid = ({"num_probes": 1}, {"num_probes": 8})
    ours = Solver("curvescope", clock, [100.0] + 99 * [1.0])

    outcome = measure([ours], clock, grid=grid, rounds=5, budget=20.0, judge_all=True)

    first, second = outcome.rows
    assert first["first_seconds"] == 100.0
    assert first["rounds"] == second["rounds"] == 5
    assert first["seconds"] == second["seconds"] == 1.0
    assert [len(row["all_verdicts"]) for row in outcome.rows] == [6, 6]


def test_who_fails_when_warm_is_named_and_the_others_go_on(clock):
    grid = ({"num_probes": 1}, {"num_probes": 8})
    ours = Solver("curvescope", clock, [1.0])
    peer = Solver("peer", clock, [1.0], fails_at=1)

    outcome = measure([ours, peer], clock, grid=grid, rounds=2, judge_all=True)

    assert {row["implementation"] for row in outcome.rows} == {"curvescope"}
    assert [failure["implementation"] for failure in outcome.failed] == ["peer"]


def test_who_would_take_too_long_on_a_problem_is_left_out_there(clock):
    ours, dear = (Solver(key, clock, [1.0]) for key in ("curvescope", "dear"))
    runner = SolverRunner(
        SolverSettings(problems=("p", "q"), rounds=1),
        [
            Implementation("curvescope", "m", "f", "v"),
            Implementation("dear", "m", "f", "v", not_on=("q",)),
        ],
        start=lambda i, problem, matrix: {"curvescope": ours, "dear": dear}[
            i.key
        ].start(),
        prepare=lambda problem: dict(FACTS),
        judge=read,
        say=lambda text: None,
        clock=clock,
    )

    rows = runner.run().rows

    assert [r["problem"] for r in rows if r["implementation"] == "dear"] == ["p"]
    assert len(rows) == 3


def test_rounds_take_turns_at_going_first(clock):
    log = []
    solvers = [Solver(key, clock, [1.0], log=log) for key in ("curvescope", "b")]

    measure(solvers, clock, rounds=2)

    order = [(key, seed) for key, seed, _ in log]
    assert order == [
        ("curvescope", 0), ("b", 0),
        ("b", 1), ("curvescope", 1),
        ("curvescope", 2), ("b", 2),
    ]  # fmt: skip


@pytest.mark.parametrize("run", [0, 1])
def test_a_peer_that_fails_is_named_and_the_others_go_on(clock, run):
    ours = Solver("curvescope", clock, [1.0])
    bad = Solver("bad", clock, [1.0], fails_at=run)

    outcome = measure([bad, ours], clock, rounds=2)

    (failure,) = outcome.failed
    assert failure["implementation"] == "bad"
    assert failure["reason"] == "RuntimeError: out of memory"
    assert by_key(outcome)["curvescope"]["rounds"] == 2
    assert bad.runs == run  # and it was not asked again


def test_a_failure_on_one_problem_does_not_keep_a_peer_from_the_next(clock):
    ours = Solver("curvescope", clock, [1.0])
    once = Solver("once", clock, [1.0], fails_at=0)

    def prepare_again(problem, paths):
        once.fails_at = None
        return read(problem, paths)

    outcome = measure(
        [ours, once], clock, rounds=1, problems=("p", "q"), judge=prepare_again
    )

    there = [r["problem"] for r in outcome.rows if r["implementation"] == "once"]
    assert there == ["q"]


def test_a_worker_with_other_weights_is_not_measured(clock):
    outcome = measure([Solver("other", clock, [1.0], fingerprint="x")], clock)

    assert outcome.rows == []
    assert "other weights or data" in outcome.failed[0]["reason"]


def test_times_of_answers_that_nobody_could_judge_are_not_shown(clock):
    def broken(problem, paths):
        raise WorkerError("the reference ended with 1: no memory")

    outcome = measure([Solver("curvescope", clock, [1.0])], clock, judge=broken)

    assert outcome.rows == []
    assert outcome.failed[0]["implementation"] == "the judge"
