"""The benchmark's runner, with workers that only say what they are told to."""

import itertools
from dataclasses import dataclass, field

import pytest
from benchmarks.process import WorkerError
from benchmarks.registry import Implementation
from benchmarks.runner import Runner, Settings


@dataclass
class FakeWorker:
    """Answers with a product ``ratio`` times as long as a gradient, per column."""

    key: str
    ratio: float
    log: list
    gradients: list = field(default_factory=lambda: [1.0])
    fails_at: str = ""
    fingerprint: str = "same"
    closed: bool = False

    def __post_init__(self):
        self.hello = {}
        self._gradients = itertools.cycle(self.gradients)
        self._last = 1.0

    def greet(self):
        self.hello = {
            "name": self.key.title(),
            "version": "1.2",
            "torch": "2.13.0",
            "fingerprint": self.fingerprint,
        }

    def ask(self, do, **arguments):
        assert not self.closed
        self.log.append((self.key, do, arguments.get("columns")))
        if do == self.fails_at:
            raise WorkerError("ValueError: no such layer")
        if do == "build":
            return {"build_seconds": 0.5, "first_product_seconds": 0.25}
        if do == "gradient":
            self._last = next(self._gradients)
            return {"seconds": self._last}
        seconds = self.ratio * self._last * arguments["columns"]
        if do == "product":
            return {"seconds": seconds}
        return {"seconds": seconds, "peak_bytes": 2**20, "relative_error": 1e-7}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.closed = True


FACTS = {"fingerprint": "same", "num_params": 3, "num_batches": 1}


def measure(workers, *, clock=None, **settings):
    chosen = Settings(problems=("p",), matrices=("hessian",), **settings)
    implementations = [Implementation(w.key, "m", "f", "v") for w in workers]
    by_key = {w.key: w for w in workers}
    runner = Runner(
        chosen,
        implementations,
        start=lambda implementation, problem, matrix: by_key[implementation.key],
        exact=lambda problem, matrix, columns, path: FACTS,
        say=lambda text: None,
        clock=clock or itertools.count(0, 0.001).__next__,
    )
    return runner.run()


def test_ratio_is_of_a_product_and_the_gradient_of_its_own_round():
    # The machine slows down tenfold in the middle; every round's ratio is still 2.5.
    worker = FakeWorker("ours", 2.5, [], gradients=[1.0, 10.0, 1.0])

    outcome = measure([worker], columns=(1, 8), rounds=3)

    assert [row["columns"] for row in outcome.rows] == [1, 8]
    for row in outcome.rows:
        assert row["rounds"] == 3
        assert row["gradient_seconds"] == [1.0, 10.0, 1.0]
        assert row["ratio"] == row["ratio_min"] == row["ratio_max"] == 2.5
        assert row["seconds_per_column"] == 2.5
    assert worker.closed


def test_rounds_are_interleaved_and_take_turns_at_going_first():
    log = []
    workers = [FakeWorker(key, 1.0, log) for key in "ab"]

    measure(workers, columns=(1,), rounds=2)

    timed = [(key, do) for key, do, _ in log if do in ("gradient", "product")]
    assert timed == [
        ("a", "gradient"), ("a", "product"), ("b", "gradient"), ("b", "product"),
        ("b", "gradient"), ("b", "product"), ("a", "gradient"), ("a", "product"),
    ]  # fmt: skip


@pytest.mark.parametrize("step", ["build", "check", "product"])
def test_a_peer_that_fails_is_named_with_its_reason_and_the_others_go_on(step):
    good = FakeWorker("good", 1.0, [])
    bad = FakeWorker("bad", 1.0, [], fails_at=step)

    outcome = measure([bad, good], columns=(1, 8), rounds=2)

    assert [(row["implementation"], row["columns"]) for row in outcome.rows] == [
        ("good", 1),
        ("good", 8),
    ]
    (failure,) = outcome.failed
    assert failure["implementation"] == "bad"
    assert failure["reason"] == "ValueError: no such layer"
    assert bad.closed
    assert good.closed


def test_a_worker_with_other_weights_is_not_measured():
    worker = FakeWorker("other", 1.0, [], fingerprint="different")

    outcome = measure([worker], columns=(1,), rounds=1)

    assert outcome.rows == []
    assert "other weights or data" in outcome.failed[0]["reason"]


def test_the_budget_ends_the_rounds_and_skips_wide_blocks_but_says_so():
    # Every look at the clock costs a second, and a product takes 100 s a column.
    worker = FakeWorker("slow", 100.0, [])

    outcome = measure(
        [worker],
        columns=(1, 32),
        rounds=9,
        budget=12.0,
        clock=itertools.count().__next__,
    )

    (row,) = outcome.rows
    assert 1 <= row["rounds"] < 9
    assert outcome.skipped == [{"problem": "p", "matrix": "hessian", "columns": 32}]
