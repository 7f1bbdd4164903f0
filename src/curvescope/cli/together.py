"""One command in several processes: who speaks, who is stopped, who may not run."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from types import FrameType
from typing import Any

from curvescope._core.checks import message
from curvescope._core.errors import LostProcessError, ProcessError
from curvescope._core.processes import ALONE, Processes
from curvescope.cli.options import ProblemOptions
from curvescope.distributed import launched, processes

STOPPED = 128 + signal.SIGTERM


class Stopped(KeyboardInterrupt):
    """The launcher ended this process."""


def _number() -> tuple[int, int]:
    """Return which process of how many this is, by the launcher's word."""
    if not launched():
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def speaker() -> str:
    """Return who speaks, to stand before an error; nothing in a run of one process."""
    rank, size = _number()
    return f"process {rank} of {size}: " if size > 1 else ""


def has_to_say(error: BaseException) -> bool:
    """Tell whether this process prints an error, or another one does."""
    elsewhere = isinstance(error, ProcessError)
    lost = isinstance(error, LostProcessError)
    return _number()[0] == 0 or lost or not elsewhere


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Let only the first process print while the block runs: help, wrong options."""
    if _number()[0] == 0:
        yield
        return
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,  # noqa: PTH123
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def refuse_several() -> None:
    """Refuse a command that does not share its work among torchrun's processes.

    Raises:
        ValueError: If there are several.
    """
    _, size = _number()
    if size > 1:
        contract = "start analyze, spectrum, density or effdim"
        remedy = "Run this command once; sweeps have `--jobs` and `--scheduler`."
        got = f"another command in {size} processes"
        raise ValueError(message("torchrun", contract, got, remedy))


@contextlib.contextmanager
def joined(options: ProblemOptions) -> Iterator[Processes]:
    """Join the launcher's other processes while the block runs; none if there are none."""
    if not launched():
        yield ALONE
        return
    with (
        _stopped_in_words(),
        processes(device=options.device, timeout=options.process_timeout) as group,
    ):
        yield group


def on_own_device(options: ProblemOptions) -> ProblemOptions:
    """Return the options with the GPU of this process, where ``--device cuda`` was said."""
    if not launched() or options.device != "cuda":
        return options
    return replace(options, device=f"cuda:{os.environ.get('LOCAL_RANK', '0')}")


@contextlib.contextmanager
def _stopped_in_words() -> Iterator[None]:
    """Turn the launcher's SIGTERM, which follows the death of a process, into words."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_: int, __: FrameType | None) -> Any:
        text = (
            f"{speaker()}stopped by the launcher (SIGTERM): another process died, or the "
            "job was ended; the same command, with as many processes as you like, goes "
            "on from here"
        )
        raise Stopped(text)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
