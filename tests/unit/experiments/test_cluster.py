"""Sweeps on a Dask cluster: the same values, also when a worker dies in the middle."""

import json
import os
import signal
import threading
import time

import pytest
from tests.unit.experiments.toys import Toy, die, die_at_three_once, square, threads

from curvescope.experiments import PointError, run_points
from curvescope.experiments.cluster import scheduled
from curvescope.experiments.rank_sweep import RankVsWidth, rank_sweep

distributed = pytest.importorskip("distributed")

# Dask's own: sockets and loops that it closes when the interpreter cleans up.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, memory_limit=0, dashboard_address=":0"
    ) as started:
        yield started


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log"
    path.mkdir()
    return path


def toys(log, count=5, **options):
    return [Toy(x=x, log=str(log), **options) for x in range(count)]


def computed(log):
    return {int(path.name): len(path.read_text()) for path in log.iterdir()}


def saved(folder):
    return list((folder / "points").glob("*.json"))


def test_a_cluster_gives_what_one_process_gives_and_saves_here(cluster, log, tmp_path):
    here = run_points(toys(log), square, folder=tmp_path / "here", jobs=1)
    with scheduled(cluster.scheduler_address) as used:
        there = run_points(toys(log), square, folder=tmp_path / "there", jobs=1)
        again = run_points(toys(log), square, folder=tmp_path / "there", jobs=1)

    assert there == here == again
    assert used.num_points == 5
    assert computed(log) == dict.fromkeys(range(5), 2)
    assert [p.name for p in saved(tmp_path / "here")] == [
        p.name for p in saved(tmp_path / "there")
    ]
    assert all(
        json.loads(p.read_text())["seconds"] >= 0 for p in saved(tmp_path / "there")
    )


def test_workers_compute_in_one_thread(cluster, log):
    with scheduled(cluster.scheduler_address):
        values = run_points(toys(log, 3), threads)

    assert {value["torch"] for value in values} == {1}
    assert os.getpid() not in {value["process"] for value in values}


def test_a_failing_point_is_named_and_what_was_finished_is_saved(
    cluster, log, tmp_path
):
    points = [*toys(log, 3), Toy(x=7, log=str(log), bad=True, wait=0.5)]

    with (
        scheduled(cluster.scheduler_address),
        pytest.raises(PointError, match=r"square failed at x=7, .*`x` must be good"),
    ):
        run_points(points, square, folder=tmp_path)

    assert len(saved(tmp_path)) == 3


def test_a_scheduler_that_is_not_there_is_said(log, monkeypatch):
    monkeypatch.setattr("curvescope.experiments.cluster._PATIENCE", 1)

    with (
        scheduled("tcp://127.0.0.1:1"),
        pytest.raises(ValueError, match="`scheduler` must be `local`, or the address"),
    ):
        run_points(toys(log, 1), square)


def test_other_versions_at_the_workers_are_refused(cluster, log, monkeypatch):
    monkeypatch.setattr(
        "curvescope.experiments.cluster._versions", lambda: "curvescope 9"
    )

    with (
        scheduled(cluster.scheduler_address),
        pytest.raises(PointError, match="must have curvescope 9, as here"),
    ):
        run_points(toys(log, 1), square)


def kill_one_worker_after(cluster, folder, count, killed):
    """Kill a worker as soon as so many points are saved."""
    with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
        victim = next(iter(client.run(os.getpid).values()))
    deadline = time.monotonic() + 120
    while len(saved(folder)) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(victim, signal.SIGKILL)
    killed.append(len(saved(folder)))


def table(sweep):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in sweep.records]


@pytest.mark.slow
def test_a_published_figure_is_the_same_with_a_worker_killed_in_the_middle(
    cluster, tmp_path, data_root
):
    config = RankVsWidth(widths=tuple(range(4, 33, 4)), data_root=data_root, jobs=1)
    killed = []
    reaper = threading.Thread(
        target=kill_one_worker_after, args=(cluster, tmp_path / "there", 2, killed)
    )

    reaper.start()
    with scheduled(cluster.scheduler_address):
        there = rank_sweep(config, folder=tmp_path / "there")["rank_sweep"]
    reaper.join()
    here = rank_sweep(config, folder=tmp_path / "here")["rank_sweep"]

    assert 2 <= killed[0] < len(here.records)
    assert table(there) == table(here)
    assert len(saved(tmp_path / "there")) == len(saved(tmp_path / "here"))


def test_what_was_finished_is_not_computed_again_when_its_worker_dies(cluster, log):
    with scheduled(cluster.scheduler_address):
        values = run_points(toys(log, 6, wait=1.0), die_at_three_once)

    assert [value["square"] for value in values] == [x**2 for x in range(6)]
    # The first two were finished a second before; what ran beside may run again.
    assert computed(log)[0] == computed(log)[1] == 1
    assert computed(log)[3] == 1  # not the one that died


@pytest.mark.slow
def test_a_point_that_kills_every_worker_is_told_and_the_others_are_saved(
    cluster, log, tmp_path
):
    with scheduled(cluster.scheduler_address):
        run_points(toys(log, 2), square, folder=tmp_path)
        with pytest.raises(PointError, match="finished points are saved"):
            run_points(toys(log, 1), die, folder=tmp_path)

    assert len(saved(tmp_path)) == 2


@pytest.mark.slow
def test_local_workers_are_made_and_ended(log):
    before = dict(os.environ)

    with scheduled("local"):
        values = run_points(toys(log, 2), threads, jobs=2)

    assert {(v["torch"], v["environment"]) for v in values} == {(1, "1")}
    assert os.getpid() not in {value["process"] for value in values}
    assert dict(os.environ) == before
