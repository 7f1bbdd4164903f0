"""Whole commands, timed from outside as their user waits for them."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.process import environment
from benchmarks.registry import DATA


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        key: Short name, unique.
        description: For the table.
        arguments: Of ``python -m``; ``--out FOLDER`` is added.
        needs: A folder without which it cannot run.
    """

    key: str
    description: str
    arguments: tuple[str, ...]
    needs: Path | None = None


def _width_sweep(data: str, *arguments: str) -> tuple[str, ...]:
    experiment = ("curvescope", "experiment", "rank-vs-width")
    return (*experiment, "--data", data, *arguments)


COMMANDS = (
    Command(
        "rank-vs-width-digits",
        "`curvescope experiment rank-vs-width --data digits`",
        _width_sweep("digits"),
    ),
    Command(
        "rank-vs-width-mnist",
        "`curvescope experiment rank-vs-width --data mnist --dim 64`, the published sweep",
        _width_sweep("mnist", "--dim", "64", "--data-root", str(DATA)),
        needs=DATA / "mnist",
    ),
)


def measure(
    commands: Sequence[Command],
    *,
    threads: int,
    say: Callable[[str], None] = print,
    timeout: float = 1200.0,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run each command once; return what was measured and what failed."""
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for command in commands:
        facts = {"problem": command.key, "description": command.description}
        try:
            found = _once(command, threads, timeout)
        except RuntimeError as error:
            say(f"{command.key}: failed: {error}")
            failed.append({**facts, "reason": str(error)})
            continue
        say(f"{command.key}: {found['seconds']:.1f} s")
        rows.append({**facts, **found})
    return rows, failed


def _once(command: Command, threads: int, timeout: float) -> dict[str, Any]:
    if command.needs is not None and not command.needs.is_dir():
        message = (
            f"no data in a folder `{command.needs.name}`: set CURVESCOPE_TEST_DATA"
        )
        raise RuntimeError(message)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", *command.arguments, "--out", f"{folder}/run"],
            cwd=folder,
            env=environment(threads),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        # `wait4` alone tells the memory of this one child; it knows no timeout.
        clock = threading.Timer(timeout, process.kill)
        clock.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        clock.cancel()
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
    if process.returncode:
        last = lines[-1].strip() if lines else "no message"
        late = f" (after {seconds:.0f} s)" if seconds >= timeout else ""
        message = f"ended with {process.returncode}{late}: {last}"
        raise RuntimeError(message)
    return {"seconds": seconds, "peak_bytes": usage.ru_maxrss * 1024}
