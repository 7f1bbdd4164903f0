"""The pipe to a worker, with children that are a few lines of Python."""

import sys

import pytest
from benchmarks.process import WorkerError, WorkerProcess

ECHO = """
import json, sys
print(json.dumps({"name": "echo"}), flush=True)
for line in sys.stdin:
    print(json.dumps({"got": json.loads(line)}), flush=True)
"""


def child(code, **arguments):
    return WorkerProcess([sys.executable, "-c", code], threads=1, **arguments)


def test_a_worker_answers_one_request_at_a_time_and_ends_with_its_pipe():
    with child(ECHO) as worker:
        worker.greet()
        answers = [worker.ask("product", columns=k) for k in (1, 8)]

    assert worker.hello == {"name": "echo"}
    assert answers == [{"got": {"do": "product", "columns": k}} for k in (1, 8)]


def test_a_worker_that_dies_is_quoted():
    code = "import sys; sys.exit('ImportError: no module named peer')"
    with (
        child(code) as worker,
        pytest.raises(WorkerError, match="no module named peer"),
    ):
        worker.greet()


def test_a_worker_that_refuses_gives_its_reason():
    code = (
        "import json\n"
        "print(json.dumps({}), flush=True)\n"
        "input()\n"
        "print(json.dumps({'error': 'TypeError: no batches'}), flush=True)"
    )
    with child(code) as worker:
        worker.greet()
        with pytest.raises(WorkerError, match="TypeError: no batches"):
            worker.ask("build")


def test_a_worker_that_hangs_is_given_up():
    sleeper = child("import time; time.sleep(60)", timeout=0.2)

    with sleeper, pytest.raises(WorkerError, match="no answer within 0 s"):
        sleeper.greet()
