"""Trap 20: a memory test that cannot see tensors.

`tracemalloc` counts Python's own allocations: a tensor of 200 MB registers 80 bytes.
Tests built on it can never fail.
"""

import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import torch

from curvescope.testing.traps.common import attempt

# function -> bytes that it needed at its peak, beyond what was there before
Measure = Callable[[Callable[[], object]], int]

_BYTES = 96 * 2**20


def check(measure: Measure) -> None:
    """Check that a tensor of 96 MiB is seen, although it is freed before the end.

    Raises:
        AssertionError: If it is not, or if nothing is taken for something.
    """

    def large() -> float:
        return float(torch.ones(_BYTES // 8, dtype=torch.float64).sum())

    seen = attempt(measure, large)
    assert seen >= 0.8 * _BYTES, f"a tensor of {_BYTES} bytes was seen as {seen}"
    nothing = attempt(measure, lambda: None)
    assert nothing < 0.5 * _BYTES, f"nothing was seen as {nothing} bytes"


def peak_growth(function: Callable[[], object]) -> int:
    """Return by how much a call raised this process's resident memory (Linux).

    Raises:
        OSError: Where the kernel does not let the peak be reset.
    """
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident
    before = _resident("VmHWM")
    function()
    return max(0, _resident("VmHWM") - before)


def _resident(key: str) -> int:
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"^{key}:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        text = f"/proc/self/status has no {key}"
        raise OSError(text)
    return int(found[1]) * 1024


def foil(function: Callable[[], object]) -> int:
    """Measure with `tracemalloc`, which sees no tensor."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
