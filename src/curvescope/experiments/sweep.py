"""Independent points of a sweep: each computed once, saved at once, in any order.

It knows what a point is (a frozen dataclass of plain values), not what it is about.
"""

import concurrent.futures
import json
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from curvescope._core import files
from curvescope._core.checks import message, positive_int
from curvescope._core.fingerprints import combine
from curvescope._core.memory import available_memory
from curvescope._core.progress import Task, track
from curvescope.experiments.base import plain
from curvescope.experiments.cluster import Scheduled, answers, chosen, died, one_thread

Value = dict[str, Any]
Function = Callable[[Any], Mapping[str, Any]]

# Read by OpenMP, MKL, OpenBLAS and Accelerate when they are loaded, and never again:
# they must stand in the environment before a worker starts.
_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
# What starting a worker costs (imports), in seconds of a point's own time.
_START = 3.0


class PointError(RuntimeError):
    """A point of a sweep failed; those that were finished are saved."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One point and where its value goes."""

    point: Any
    function: Function
    path: Path | None

    def __call__(self) -> Value:
        start = time.perf_counter()
        value = self.function(self.point)
        return self.kept(value, time.perf_counter() - start)

    def kept(self, value: Mapping[str, Any], seconds: float) -> Value:
        """Save a value, where values are saved, and return what reading it will give."""
        normal = _normal(value)
        if self.path is not None:
            content = {"point": plain(self.point), "value": normal, "seconds": seconds}
            files.write_json(self.path, content)
        return normal


def run_points(
    points: Sequence[Any],
    function: Function,
    *,
    folder: str | Path | None = None,
    version: int = 1,
    jobs: int | None = None,
    seconds: Callable[[Any], float] | None = None,
    memory: Callable[[Any], float] | None = None,
    description: str = "points",
) -> list[Value]:
    """Compute a function of every point, in several processes, each point once.

    With a ``folder``, a finished point lies in ``folder/points`` in a file of its own,
    named by a hash of the point, the function and the version. It is never computed
    again, and a kill loses only what was running. The values are the same for every
    number of jobs, and for an interrupted and resumed sweep.

    A worker is a fresh interpreter ("spawn") with one BLAS thread. As for all uses of
    `multiprocessing`, a script that calls this with more than one job must guard its
    own code with ``if __name__ == "__main__"``. Inside a `scheduled` block the points
    are tasks of a Dask cluster instead, whatever ``jobs`` says; values are saved here,
    as they come back.

    Args:
        points: Frozen dataclasses, or mappings, of plain values.
        function: A module's function from a point to a mapping of plain values.
        folder: Where finished points are kept; nowhere if ``None``.
        version: Of what the function computes; another one begins afresh.
        jobs: Worker processes. One runs everything here, with one thread too. By
            default as many as there are processors, and as memory and work are enough
            for.
        seconds: A guess of what a point costs: the longest begin first, and short
            sweeps start no workers.
        memory: A guess of the bytes that a point needs at its peak.
        description: What the progress bar says.

    Returns:
        The values in the order of the points.

    Raises:
        PointError: If a point failed, after those that were running are saved.
        ValueError: If ``jobs`` is below 1.

    Cost:
        That of the points not yet saved; about 3 s for starting a worker.

    Example:
        >>> run_points([{"x": 1}, {"x": 2}], dict, jobs=1)
        [{'x': 1}, {'x': 2}]
    """
    if jobs is not None:
        positive_int("jobs", jobs)
    place = None if folder is None else Path(folder) / "points"
    name = f"{function.__module__}.{function.__qualname__}"
    keys = [_key(point, name, version) for point in points]
    paths = {key: None if place is None else place / f"{key}.json" for key in keys}
    values = {key: value for key in keys if (value := _saved(paths[key])) is not None}
    missing = {
        key: _Job(point=point, function=function, path=paths[key])
        for key, point in zip(keys, points, strict=True)
        if key not in values
    }
    left = [job.point for job in missing.values()]
    workers = _workers(left, jobs, seconds, memory)
    with track(description, total=len(paths)) as task:
        task.advance(len(values))
        cluster = chosen()
        if workers <= 1 and cluster is None:
            for key, job in missing.items():
                values[key] = _here(job)
                task.advance()
        else:
            if seconds is not None:
                ordered = sorted(missing, key=lambda k: -seconds(missing[k].point))
                missing = {key: missing[key] for key in ordered}
            if cluster is None:
                values.update(_elsewhere(missing, workers, task))
            elif missing:
                values.update(_far_away(missing, cluster, workers, task))
    return [values[key] for key in keys]


def _key(point: Any, name: str, version: int) -> str:
    return combine(json.dumps(plain(point), sort_keys=True), name, version)


def _saved(path: Path | None) -> Value | None:
    if path is None or not path.exists():
        return None
    try:
        return files.read_json(path)["value"]
    except (ValueError, KeyError, TypeError) as error:
        contract = "hold what a finished point left"
        remedy = "Delete that file; the point is then computed again."
        raise ValueError(
            message("folder", contract, f"{path}: {error}", remedy)
        ) from None


def _normal(value: Mapping[str, Any]) -> Value:
    """Return what reading the saved value will give."""
    return json.loads(json.dumps(plain(value)))


def _workers(
    points: Sequence[Any],
    jobs: int | None,
    seconds: Callable[[Any], float] | None,
    memory: Callable[[Any], float] | None,
) -> int:
    """Return how many processes to start."""
    if jobs is not None or not points:
        return min(jobs or 1, len(points))
    count = min(_processors(), len(points))
    if seconds is not None:
        costs = [seconds(point) for point in points]
        # With n workers the time is that of the longest point or an n-th of all.
        longest, total = max(costs), sum(costs)
        times = [
            max(longest, total / n) + _START * (n > 1) for n in range(1, count + 1)
        ]
        count = times.index(min(times)) + 1
    if memory is not None:
        most = max(memory(point) for point in points)
        count = min(count, math.floor(available_memory(torch.device("cpu")) / most))
    return max(count, 1)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _here(job: _Job) -> Value:
    try:
        with one_thread():  # as in a worker
            return job()
    except Exception as error:
        raise _failure(job, error) from error


def _failure(job: _Job, error: BaseException) -> PointError:
    point = ", ".join(f"{name}={value}" for name, value in _flat(job.point).items())
    reason = f"{type(error).__name__}: {error}"
    return PointError(f"{job.function.__name__} failed at {point}: {reason}")


def _flat(point: Any) -> dict[str, Any]:
    """Return a point's fields, those of its parts among them, that have a value."""
    flat: dict[str, Any] = {}
    for name, value in plain(point).items():
        flat |= _flat(value) if isinstance(value, Mapping) else {name: value}
    return {name: value for name, value in flat.items() if value is not None}


def _elsewhere(jobs: Mapping[str, _Job], workers: int, task: Task) -> dict[str, Value]:
    """Compute the jobs in worker processes, in their order."""
    values: dict[str, Value] = {}
    failed: PointError | None = None
    with _pool(workers) as pool:
        waiting: dict[Future[Value], str] = {
            pool.submit(job): key for key, job in jobs.items()
        }
        for future in concurrent.futures.as_completed(waiting):
            if future.cancelled():
                continue
            key = waiting[future]
            error = future.exception()
            if error is None:
                values[key] = future.result()
                task.advance()
            elif isinstance(error, BrokenProcessPool):
                raise PointError(_died(workers)) from error
            elif failed is None:
                failed = _failure(jobs[key], error)
                failed.__cause__ = error
                for other in waiting:
                    other.cancel()
    if failed is not None:
        raise failed
    return values


def _far_away(
    jobs: Mapping[str, _Job], cluster: Scheduled, workers: int, task: Task
) -> dict[str, Value]:
    """Compute the jobs on a Dask cluster, in their order; save them here."""
    values: dict[str, Value] = {}
    failed: PointError | None = None
    function = next(iter(jobs.values())).function
    points = {key: job.point for key, job in jobs.items()}
    with _single_threaded():  # of local workers, which begin inside
        found = answers(
            points, function, cluster, workers, lambda text: task.update(status=text)
        )
        for answer in found:
            job = jobs[answer.key]
            if answer.value is not None:
                values[answer.key] = job.kept(answer.value, answer.seconds)
                task.advance()
            elif failed is None and answer.error is not None:
                failed = (
                    PointError(died(answer.error))
                    if answer.lost
                    else _failure(job, answer.error)
                )
                failed.__cause__ = answer.error
    if failed is not None:
        raise failed
    return values


def _died(workers: int) -> str:
    return (
        f"one of {workers} worker processes died, perhaps for want of memory; finished "
        "points are saved. The same command with fewer `--jobs` goes on from there."
    )


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield worker processes that end when the block, or this process, ends."""
    context = multiprocessing.get_context("spawn")
    watched, held = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(watched,)
    )
    try:
        with _single_threaded():
            yield pool
    except BaseException:
        held.close()  # the workers end at once, whatever they are doing
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        held.close()
        watched.close()


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Let processes that start inside the block have one BLAS thread each."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _begin(watched: Connection) -> None:
    """Start a worker: one thread, deaf to Ctrl-C, gone when its parent is gone."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(watched,), daemon=True).start()


def _end_with_parent(watched: Connection) -> None:
    try:
        watched.recv_bytes()  # nothing is ever sent: it returns when the pipe closes
    except (EOFError, OSError):
        os._exit(1)
