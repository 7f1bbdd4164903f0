"""Points of a sweep as tasks of a Dask cluster: here, or on other machines.

Values come back to this process, which alone writes files: workers need neither the
folder nor each other. A worker that dies takes along only what it was computing, and
that is computed again by another one.
"""

import threading
import time
from asyncio import CancelledError
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from curvescope._core.checks import message
from curvescope._core.errors import MissingExtraError

LOCAL = "local"
Function = Callable[[Any], Mapping[str, Any]]

# Of the scheduler's answer to the first call, seconds.
_PATIENCE = 30
# A task's own threads would disturb each other's random streams and thread counts.
_one_at_a_time = threading.Lock()


@dataclass
class Scheduled:
    """Where sweeps go while a `scheduled` block runs.

    Attributes:
        scheduler: ``"local"``, an address, or a scheduler file.
        num_points: Points that were handed over so far.
    """

    scheduler: str
    num_points: int = 0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a point: a value, or an error.

    Attributes:
        key: Which point.
        value: What the function returned.
        seconds: How long it took.
        error: What it raised, or why nothing came back.
        lost: Whether the error is the cluster's and not the function's.
    """

    key: str
    value: Mapping[str, Any] | None = None
    seconds: float = 0.0
    error: BaseException | None = None
    lost: bool = False


_scheduled: ContextVar[Scheduled | None] = ContextVar(
    "curvescope_scheduled", default=None
)


@contextmanager
def scheduled(scheduler: str | None) -> Iterator[Scheduled | None]:
    """Let all sweeps inside the block compute their points on a Dask cluster.

    Args:
        scheduler: ``"local"`` for workers on this machine; the address of a running
            scheduler, such as ``"tcp://10.0.0.1:8786"``; the file that
            ``dask scheduler --scheduler-file`` wrote; ``None`` changes nothing.

    Yields:
        What was handed over, or ``None``.

    Raises:
        MissingExtraError: If Dask is not installed.

    Example:
        >>> with scheduled(None) as cluster:
        ...     cluster is None
        True
    """
    if scheduler is None:
        yield None
        return
    _dask()
    token = _scheduled.set(Scheduled(scheduler))
    try:
        yield _scheduled.get()
    finally:
        _scheduled.reset(token)


def chosen() -> Scheduled | None:
    """Return where sweeps go now, if anywhere else."""
    return _scheduled.get()


def _dask() -> Any:
    try:
        from dask import distributed
    except ImportError:
        text = 'A Dask cluster needs dask: pip install "curvescope[dask]".'
        raise MissingExtraError(text) from None
    return distributed


def answers(
    points: Mapping[str, Any],
    function: Function,
    cluster: Scheduled,
    workers: int,
    status: Callable[[str], None],
) -> Iterator[Answer]:
    """Yield what becomes of every point, as it becomes.

    Args:
        points: By key; the first are begun first.
        function: What to compute, importable by the workers.
        cluster: Where.
        workers: How many to start, of local ones.
        status: Shows a remark.

    Raises:
        ValueError: If the scheduler does not answer.
    """
    dask = _dask()
    with _client(dask, cluster.scheduler, workers) as client:
        cluster.num_points += len(points)
        if not client.scheduler_info()["workers"]:
            status("waiting for workers")
        waiting = {
            client.submit(
                _compute, function, point, key=f"curvescope-{key}", priority=-place
            ): key
            for place, (key, point) in enumerate(points.items())
        }
        try:
            yield from _collected(dask, client, waiting, status)
        finally:
            for future in waiting:
                future.release()


def _collected(
    dask: Any, client: Any, waiting: dict[Any, str], status: Callable[[str], None]
) -> Iterator[Answer]:
    failed = False
    # Values are fetched as they come, whatever is done here meanwhile, and are no longer
    # wanted of the worker then: else they would be computed again when it dies.
    completed = dask.as_completed(
        waiting, loop=client.loop, with_results=True, raise_errors=False
    )
    for future, found in completed:
        status("")
        key = waiting[future]
        if future.cancelled():
            if not failed:
                text = "the scheduler is gone"
                yield Answer(key=key, error=ConnectionError(text), lost=True)
            continue
        error = future.exception()
        if error is None:
            future.release()
            yield _checked(key, *found)
            continue
        lost = isinstance(error, (dask.KilledWorker, CancelledError))
        yield Answer(key=key, error=error, lost=lost)
        if not failed:
            # What runs may end and be kept; what waits need not begin.
            failed = True
            running = {name for names in client.processing().values() for name in names}
            client.cancel([f for f in waiting if f.key not in running and not f.done()])


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch have one thread inside the block: with more, sums round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _compute(function: Function, point: Any) -> tuple[Any, float, str]:
    """Compute a point, in a worker; one thread, so that every worker gives the same."""
    with _one_at_a_time, one_thread():
        start = time.perf_counter()
        value = function(point)
        return value, time.perf_counter() - start, _versions()


def _versions() -> str:
    names = ("curvescope", "torch", "numpy")
    return ", ".join(f"{name} {version(name)}" for name in names)


def _checked(key: str, value: Any, seconds: float, versions: str) -> Answer:
    """Refuse what other code computed."""
    if versions == _versions():
        return Answer(key=key, value=value, seconds=seconds)
    contract = f"have {_versions()}, as here"
    text = message("scheduler's workers", contract, versions, "Install the same there.")
    return Answer(key=key, error=ValueError(text), lost=True)


@contextmanager
def _client(dask: Any, scheduler: str, workers: int) -> Iterator[Any]:
    """Connect to the scheduler, which is made here if it is local."""
    with ExitStack() as stack:
        if scheduler == LOCAL:
            address: Any = stack.enter_context(
                dask.LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    memory_limit=0,  # a limit of its own would kill what fits
                    dashboard_address=":0",
                )
            )
            place = {"address": address}
        elif scheduler.endswith(".json"):
            place = {"scheduler_file": scheduler}
        else:
            place = {"address": scheduler}
        try:
            client = dask.Client(**place, timeout=_PATIENCE, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            contract = "be `local`, or the address or file of a running Dask scheduler"
            remedy = "Start one with `dask scheduler`, and workers with `dask worker`."
            got = f"{scheduler} ({type(error).__name__}: {error})"
            raise ValueError(message("scheduler", contract, got, remedy)) from error
        with client:
            yield client


def died(error: BaseException) -> str:
    """Say what a loss means."""
    return (
        f"the cluster could not finish a point ({type(error).__name__}: {error}); "
        "finished points are saved. The same command goes on from there."
    )
