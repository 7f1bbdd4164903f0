"""Time and memory of this process."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class PeakMemory:
    """How far the resident memory rose above what it was at the start.

    Linux only; elsewhere `growth` is ``None`` rather than a guess.
    """

    def __init__(self) -> None:
        self._start = _status("VmRSS")
        self.reset()

    def reset(self) -> None:
        """Forget the peak so far, but not the start."""
        self._resettable = True
        try:
            _CLEAR.write_text("5")
        except OSError:
            self._resettable = False

    def growth(self) -> int | None:
        """Return the peak since the last reset, above the start, in bytes."""
        peak = _status("VmHWM")
        if self._start is None or peak is None or not self._resettable:
            return None
        return max(peak - self._start, 0)


def _status(key: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return None


# Processor time does not see that others had the core, so it is the clock for a shared
# machine; of several threads it would count the waiting ones too.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def seconds_of(call: Callable[[], Any], *, at_least: float, clock: str) -> float:
    """Return the median time of ``call``, repeated until ``at_least`` seconds passed."""
    now = CLOCKS[clock]
    times: list[float] = []
    while sum(times) < at_least:
        start = now()
        call()
        times.append(now() - start)
    return median(times)
