"""Points of a sweep: once each, in any number of processes, through any kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.unit.experiments.toys import Toy, die, square, threads

from curvescope.experiments import PointError, run_points
from curvescope.experiments.sweep import _workers

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log"
    path.mkdir()
    return path


def toys(log, count=5, **options):
    return [Toy(x=x, log=str(log), **options) for x in range(count)]


def computed(log):
    return {int(path.name): len(path.read_text()) for path in log.iterdir()}


def test_values_come_in_the_order_of_the_points(log):
    values = run_points(toys(log), square, jobs=1)

    assert [value["square"] for value in values] == [0, 1, 4, 9, 16]
    assert values[1] == {"square": 1, "third": 1 / 3, "none": None}


def test_a_saved_point_is_never_computed_again(log, tmp_path):
    first = run_points(toys(log, 3), square, folder=tmp_path, jobs=1)
    again = run_points(toys(log, 5), square, folder=tmp_path, jobs=1)

    assert again[:3] == first
    assert computed(log) == {0: 1, 1: 1, 2: 1, 3: 1, 4: 1}
    saved = [json.loads(p.read_text()) for p in (tmp_path / "points").glob("*.json")]
    assert sorted(entry["point"]["x"] for entry in saved) == [0, 1, 2, 3, 4]


def test_another_version_of_the_function_begins_afresh(log, tmp_path):
    run_points(toys(log, 2), square, folder=tmp_path, jobs=1)
    run_points(toys(log, 2), square, folder=tmp_path, jobs=1, version=2)

    assert computed(log) == {0: 2, 1: 2}


def test_a_repeated_point_is_computed_once(log):
    points = toys(log, 2)

    values = run_points([*points, *points], square, jobs=1)

    assert [value["square"] for value in values] == [0, 1, 0, 1]
    assert computed(log) == {0: 1, 1: 1}


def test_without_a_folder_nothing_is_kept(log):
    run_points(toys(log, 1), square, jobs=1)
    run_points(toys(log, 1), square, jobs=1)

    assert computed(log) == {0: 2}


def test_two_jobs_give_what_one_job_gives(log, tmp_path):
    one = run_points(toys(log), square, folder=tmp_path / "one", jobs=1)
    two = run_points(toys(log), square, folder=tmp_path / "two", jobs=2)

    assert two == one
    assert computed(log) == dict.fromkeys(range(5), 2)


def test_workers_have_one_thread_and_the_environment_is_as_before(log):
    before = dict(os.environ)

    values = run_points(toys(log, 2), threads, jobs=2)

    assert {(v["torch"], v["environment"]) for v in values} == {(1, "1")}
    assert os.getpid() not in {value["process"] for value in values}
    assert dict(os.environ) == before


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_a_point_has_as_many_threads_here_as_in_a_worker(log):
    here = run_points(toys(log, 2), threads, jobs=1)
    there = run_points(toys(log, 2), threads, jobs=2)

    assert os.getpid() == here[0]["process"] != there[0]["process"]
    assert {value["torch"] for value in (*here, *there)} == {1}
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_a_failing_point_gives_the_threads_back(log):
    with pytest.raises(PointError):
        run_points(toys(log, 1, bad=True), square, jobs=1)

    assert torch.get_num_threads() == 3


@pytest.mark.slow
def test_the_longest_point_begins_first(log):
    points = toys(log, 3, wait=0.5)

    run_points(points, square, jobs=1)
    marks = {int(p.name): p.stat().st_mtime_ns for p in log.iterdir()}
    assert sorted(marks, key=marks.get) == [0, 1, 2]

    for path in log.iterdir():
        path.unlink()
    run_points(points, square, jobs=2, seconds=lambda point: point.x)
    marks = {int(p.name): p.stat().st_mtime_ns for p in log.iterdir()}
    assert max(marks, key=marks.get) == 0


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failing_point_is_named_and_what_ran_is_saved(log, tmp_path, jobs):
    good, bad = toys(log, 3), Toy(x=7, log=str(log), bad=True, wait=0.5)

    with pytest.raises(PointError, match=r"square failed at x=7, .*`x` must be good"):
        run_points([*good, bad], square, folder=tmp_path, jobs=jobs)

    assert len(list((tmp_path / "points").glob("*.json"))) == 3
    with pytest.raises(PointError):
        run_points([*good, bad], square, folder=tmp_path, jobs=jobs)
    assert computed(log) == {0: 1, 1: 1, 2: 1, 7: 2}


@pytest.mark.slow
def test_a_worker_that_dies_is_told_with_a_remedy(log):
    with pytest.raises(PointError, match=r"for want of memory.*fewer `--jobs`"):
        run_points(toys(log, 2), die, jobs=2)


def test_jobs_below_one_are_refused(log):
    with pytest.raises(ValueError, match="`jobs` must be at least 1; got 0"):
        run_points(toys(log, 2), square, jobs=0)


def test_workers_are_as_many_as_processors_memory_and_work_allow(monkeypatch):
    monkeypatch.setattr("curvescope.experiments.sweep._processors", lambda: 8)
    points = list(range(20))

    assert _workers(points, None, None, None) == 8
    assert _workers(points[:3], None, None, None) == 3
    assert _workers(points, 5, None, None) == 5
    assert _workers([], None, None, None) == 0
    assert _workers(points, None, lambda _: 0.01, None) == 1
    assert _workers(points, None, lambda _: 60.0, None) == 8
    assert _workers(points, None, lambda x: 1e3 * (x == 0) + 1e-3, None) == 1
    assert _workers(points, None, None, lambda _: 1e18) == 1


def _start(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.unit.experiments.sweeping", *map(str, words)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _alive(session):
    """Return the processes of a session, by Linux's own list."""
    alive = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            alive.append(int(path.parent.name))
    return alive


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_sweep_leaves_no_process_and_goes_on_to_the_same_table(
    log, tmp_path, end
):
    folder = tmp_path / "sweep"
    process = _start(log, folder, 2)
    deadline = time.monotonic() + 60
    while len(list(folder.glob("points/*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(end)
    process.communicate()
    while (left := _alive(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left
    done = {p.name for p in folder.glob("points/*.json")}
    assert 3 <= len(done) < 12

    points = [Toy(x=x, log=str(log), wait=0.3) for x in range(12)]
    values = run_points(points, square, folder=folder, jobs=1)

    assert [value["square"] for value in values] == [x**2 for x in range(12)]
    counts = computed(log)
    assert sum(counts.values()) <= 12 + 2  # only what was running is computed twice
    again = run_points(points, square, folder=folder, jobs=1)
    assert again == values
    assert computed(log) == counts


def test_a_saved_point_that_is_no_longer_whole_is_named(tmp_path):
    run_points([{"x": 1}], dict, folder=tmp_path, jobs=1)
    (path,) = (tmp_path / "points").glob("*.json")
    path.write_text("{half")

    with pytest.raises(ValueError, match=rf"{path.name}.*Delete that file"):
        run_points([{"x": 1}], dict, folder=tmp_path, jobs=1)
