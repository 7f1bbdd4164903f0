"""Whole commands, timed from outside."""

import os
import resource

import pytest
from benchmarks import commands
from benchmarks.commands import Command

MODULE = """
import sys, time
assert sys.argv[-2] == "--out"
if "fail" in sys.argv:
    sys.exit("ValueError: no such sweep")
if "hang" in sys.argv:
    time.sleep(60)
block = bytearray(200 * 2**20)
time.sleep(0.2)
open(sys.argv[-1], "w").close()
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "a_sweep.py").write_text(MODULE)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    monkeypatch.setattr(commands, "environment", lambda threads: environment)
    return tmp_path


def test_a_command_is_timed_with_its_peak_memory(module):
    rows, failed = commands.measure([Command("key", "text", ("a_sweep",))], threads=1)

    assert failed == []
    (row,) = rows
    assert row["problem"] == "key"
    assert row["description"] == "text"
    assert 0.2 <= row["seconds"] < 60.0
    # Linux counts the parent's memory at the fork too: a large pytest worker shows.
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert 200 * 2**20 < row["peak_bytes"] < max(400 * 2**20, 1.2 * own)


def test_a_command_that_fails_is_quoted_and_the_next_one_runs(module):
    chosen = [
        Command("bad", "bad one", ("a_sweep", "fail")),
        Command("good", "good one", ("a_sweep",)),
    ]

    rows, failed = commands.measure(chosen, threads=1)

    assert [row["problem"] for row in rows] == ["good"]
    (failure,) = failed
    assert failure["reason"] == "ended with 1: ValueError: no such sweep"


def test_a_command_that_hangs_is_ended(module):
    chosen = [Command("slow", "slow one", ("a_sweep", "hang"))]

    rows, failed = commands.measure(chosen, threads=1, timeout=0.5)

    assert rows == []
    assert "ended with -9" in failed[0]["reason"]


def test_a_command_without_its_data_says_so(tmp_path):
    command = Command("key", "text", ("a_sweep",), needs=tmp_path / "mnist")

    rows, failed = commands.measure([command], threads=1)

    assert rows == []
    assert "no data in a folder `mnist`" in failed[0]["reason"]
