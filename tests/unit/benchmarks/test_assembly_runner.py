"""The assembly runner, with workers that only say what they are told to."""

from dataclasses import dataclass, field

import pytest
from benchmarks.assembly_runner import AssemblyRunner, AssemblySettings
from benchmarks.process import WorkerError
from benchmarks.registry import Implementation

FACTS = {"fingerprint": "same", "num_params": 3, "num_samples": 2}


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self):
        return self.now


@dataclass
class FakeWay:
    """What every process of one way does; an assembly takes ``seconds`` of the clock."""

    key: str
    clock: Clock
    log: list
    seconds: list
    has_blocks: bool = False
    fails_at: str = ""
    fingerprint: str = "same"
    processes: list = field(default_factory=list)

    def start(self):
        self.processes.append(FakeWorker(self))
        return self.processes[-1]


@dataclass
class FakeWorker:
    way: FakeWay
    closed: bool = False
    assembled: int = 0

    def greet(self):
        self.hello = {
            "name": self.way.key.title(),
            "version": "1.2",
            "torch": "2.13.0",
            "fingerprint": self.way.fingerprint,
            "has_blocks": self.way.has_blocks,
        }

    def ask(self, do, **arguments):
        assert not self.closed
        self.way.log.append((self.way.key, do, len(self.way.processes)))
        if do == self.way.fails_at:
            raise WorkerError("RuntimeError: out of memory")
        if do == "tune":
            return {"block": 16, "tried": {"16": 0.1, "64": 0.2}}
        if do == "build":
            assert arguments["block"] == (16 if self.way.has_blocks else None)
            return {"build_seconds": 0.5}
        if do == "check":
            return {"first_seconds": 1.0, "peak_bytes": 1, "relative_error": 1e-15}
        seconds = self.way.seconds[self.assembled % len(self.way.seconds)]
        self.assembled += 1
        self.way.clock.now += seconds
        return {"seconds": seconds}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.closed = True


def measure(ways, clock, **settings):
    chosen = AssemblySettings(problems=("p",), **{"matrices": ("hessian",), **settings})
    by_key = {way.key: way for way in ways}
    runner = AssemblyRunner(
        chosen,
        [Implementation(way.key, "m", "f", "v") for way in ways],
        start=lambda implementation, problem, matrices: by_key[
            implementation.key
        ].start(),
        exact=lambda problem, matrices, path: FACTS,
        say=lambda text: None,
        clock=clock,
    )
    outcome = runner.run()
    assert all(process.closed for way in ways for process in way.processes)
    return outcome


@pytest.fixture
def clock():
    return Clock()


def test_a_ratio_is_over_our_time_of_the_same_round(clock):
    # The machine slows down tenfold in the middle; every round's ratio is still 3.
    ours = FakeWay("curvescope", clock, [], [0.1, 1.0, 0.1])
    peer = FakeWay("peer", clock, [], [0.3, 3.0, 0.3])

    outcome = measure([ours, peer], clock, rounds=3)

    mine, theirs = outcome.rows
    assert mine["ratio"] == 1.0
    assert theirs["all_seconds"] == [0.3, 3.0, 0.3]
    for name in ("ratio", "ratio_min", "ratio_max"):
        assert theirs[name] == pytest.approx(3.0)


def test_rounds_take_turns_at_going_first(clock):
    log = []
    ways = [FakeWay(key, clock, log, [0.1]) for key in ("curvescope", "b")]

    measure(ways, clock, rounds=2)

    order = [key for key, do, _ in log if do == "assemble"]
    assert order == ["curvescope", "b", "b", "curvescope"]


def test_a_block_is_found_once_and_in_a_process_that_ends(clock):
    log = []
    way = FakeWay("peer", clock, log, [0.1], has_blocks=True)

    outcome = measure([way], clock, matrices=("hessian", "hessian+ggn"), rounds=1)

    assert [(do, process) for _, do, process in log] == [
        ("tune", 1),
        ("build", 2), ("check", 2), ("assemble", 2),
        ("build", 3), ("check", 3), ("assemble", 3),
    ]  # fmt: skip
    assert [row["block"] for row in outcome.rows] == [16, 16]
    assert [row["ratio"] for row in outcome.rows] == [None, None]


def test_a_slow_way_has_fewer_rounds_and_the_others_all(clock):
    ours = FakeWay("curvescope", clock, [], [0.1])
    slow = FakeWay("slow", clock, [], [25.0])
    slowest = FakeWay("slowest", clock, [], [90.0])

    outcome = measure([ours, slow, slowest], clock, rounds=5, most=60.0)

    rounds = {row["implementation"]: row["rounds"] for row in outcome.rows}
    assert rounds == {"curvescope": 5, "slow": 2, "slowest": 1}


def test_when_the_budget_is_spent_everyone_still_has_a_round(clock):
    ways = [FakeWay(key, clock, [], [10.0]) for key in ("curvescope", "b")]

    outcome = measure(ways, clock, rounds=5, budget=50.0)

    assert [row["rounds"] for row in outcome.rows] == [2, 2]

    outcome = measure(ways, clock, rounds=5, budget=0.0)

    assert [row["rounds"] for row in outcome.rows] == [1, 1]


@pytest.mark.parametrize("step", ["tune", "build", "check", "assemble"])
def test_a_way_that_fails_is_named_and_the_others_go_on(clock, step):
    good = FakeWay("curvescope", clock, [], [0.1])
    bad = FakeWay("bad", clock, [], [0.1], has_blocks=True, fails_at=step)

    outcome = measure([bad, good], clock, rounds=2)

    assert [row["implementation"] for row in outcome.rows] == ["curvescope"]
    assert outcome.rows[0]["rounds"] == 2
    (failure,) = outcome.failed
    assert failure["implementation"] == "bad"
    assert failure["reason"] == "RuntimeError: out of memory"


def test_a_way_with_other_weights_is_not_measured(clock):
    way = FakeWay("curvescope", clock, [], [0.1], fingerprint="different")

    outcome = measure([way], clock)

    assert outcome.rows == []
    assert "other weights or data" in outcome.failed[0]["reason"]


def test_a_problem_without_its_exact_matrices_is_left_out_by_name(clock):
    def exact(problem, matrix, path):
        raise WorkerError("no memory")

    outcome = AssemblyRunner(
        AssemblySettings(problems=("p",), matrices=("hessian",)),
        [],
        start=lambda *a: None,
        exact=exact,
        say=lambda text: None,
        clock=clock,
    ).run()

    assert outcome.rows == []
    assert outcome.failed[0]["implementation"] == "the reference"
