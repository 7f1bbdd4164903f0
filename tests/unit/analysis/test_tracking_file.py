"""The growing file of measurements survives whatever stops its writer."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curvescope.analysis.tracking_file import FILE, TrackingFile
from curvescope.analysis.tracking_schedule import log_spaced, schedule

SETTINGS = {"k": 2, "measures": ["loss"]}


def filled(folder, steps):
    file = TrackingFile(folder, SETTINGS)
    for step in steps:
        file.append({"step": step, "loss": 0.5 * step})
    return file


def test_rows_come_back_in_order(tmp_path):
    filled(tmp_path, [0, 5, 10])

    assert [r["step"] for r in TrackingFile(tmp_path, SETTINGS).rows] == [0, 5, 10]


def test_numbers_that_are_not_finite_come_back(tmp_path):
    filled(tmp_path, []).append({"step": 3, "loss": float("inf")})

    assert TrackingFile(tmp_path, SETTINGS).rows[0]["loss"] == float("inf")


def test_any_torn_last_line_is_dropped_and_the_others_stay(tmp_path):
    filled(tmp_path, [0, 5, 10])
    whole = (tmp_path / FILE).read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1

    for cut in range(last, len(whole) - 1):
        (tmp_path / FILE).write_bytes(whole[:cut])
        file = TrackingFile(tmp_path, SETTINGS)
        assert [r["step"] for r in file.rows] == [0, 5]
        file.append({"step": 10, "loss": 5.0})
        assert (tmp_path / FILE).read_bytes() == whole


def test_a_torn_header_begins_the_file_anew(tmp_path):
    filled(tmp_path, [])
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[:10])

    assert TrackingFile(tmp_path, SETTINGS).rows == []
    assert (tmp_path / FILE).read_bytes() == whole


def test_a_broken_line_in_the_middle_is_refused(tmp_path):
    filled(tmp_path, [0, 5])
    lines = (tmp_path / FILE).read_text().splitlines()
    lines[1] = lines[1][:-3]
    (tmp_path / FILE).write_text("\n".join(lines) + "\n")

    with pytest.raises(ValueError, match="with a broken line 2"):
        TrackingFile(tmp_path, SETTINGS)


def test_measurements_with_other_settings_are_refused_and_named(tmp_path):
    filled(tmp_path, [0])

    with pytest.raises(ValueError, match=re.escape("got one with another k.")):
        TrackingFile(tmp_path, {**SETTINGS, "k": 3})


def test_another_file_of_that_name_is_refused(tmp_path):
    (tmp_path / FILE).write_text('{"step": 3}\n')

    with pytest.raises(ValueError, match="`out` must hold a tracking file, or none"):
        TrackingFile(tmp_path, SETTINGS)


def test_replaced_rows_are_kept_aside(tmp_path):
    file = filled(tmp_path, [0, 5, 10])

    assert file.replace_from(5) == 2
    file.append({"step": 5, "loss": -1.0})
    assert file.replace_from(4) == 1

    assert [r["step"] for r in TrackingFile(tmp_path, SETTINGS).rows] == [0]
    aside = (tmp_path / "tracking-replaced.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in aside] == [5, 10, 5]


WRITER = """
import sys
from curvescope.analysis.tracking_file import TrackingFile
file = TrackingFile(sys.argv[1], {"k": 1})
print("ready", flush=True)
step = len(file.rows)
while True:
    file.append({"step": step, "values": [0.1] * 500})
    step += 1
"""


def test_a_killed_writer_leaves_whole_rows(tmp_path):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=os.environ,
    )
    assert writer.stdout.readline() == b"ready\n"
    deadline = time.monotonic() + 30
    while (tmp_path / FILE).stat().st_size < 25_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()

    rows = TrackingFile(tmp_path, {"k": 1}).rows

    assert len(rows) > 5
    assert [r["step"] for r in rows] == list(range(len(rows)))


def test_schedules_are_numbers_steps_or_functions():
    due = [schedule(3), schedule([1, 4]), schedule(lambda step: step > 5)]

    found = [[step for step in range(8) if one(step)] for one in due]

    assert found == [[0, 3, 6], [1, 4], [6, 7]]


@pytest.mark.parametrize(
    ("every", "error", "text"),
    [
        (0, ValueError, "`every` must be at least 1; got 0."),
        ([], ValueError, "`every` must have at least one step; got none."),
        ([2, -1], ValueError, "`every` must be at least 0; got -1."),
        ("often", TypeError, "`every` must be a number, steps, or a function"),
        (1.5, TypeError, "`every` must be a number, steps, or a function"),
    ],
)
def test_other_schedules_are_refused(every, error, text):
    with pytest.raises(error, match=re.escape(text)):
        schedule(every)


@given(last=st.integers(1, 10**6), per_decade=st.integers(1, 40))
def test_log_spaced_steps_ascend_from_0_to_the_last(last, per_decade):
    steps = log_spaced(last, per_decade=per_decade)

    assert steps[0] == 0
    assert steps[-1] == last
    assert all(a < b for a, b in pairwise(steps))
