"""Memory: what is there, what was used at the peak."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch

GIB = 2**30
_sharers: ContextVar[int] = ContextVar("curvescope_sharers", default=1)


@contextmanager
def shared_memory(count: int) -> Iterator[None]:
    """Let `available_memory` give one of ``count`` equal parts of this machine's."""
    token = _sharers.set(count)
    try:
        yield
    finally:
        _sharers.reset(token)


def _cgroup_free() -> int | None:
    """Return what the control group still allows, if one sets a limit."""
    root = Path("/sys/fs/cgroup")
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            allowed = (root / limit).read_text().strip()
            current = int((root / used).read_text())
        except (OSError, ValueError):
            continue
        if allowed.isdigit() and int(allowed) < 2**60:
            return int(allowed) - current
    return None


def available_memory(device: torch.device) -> int:
    """Return the bytes that can still be taken on ``device``."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(
            device
        )
        return int(free) + int(cached)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        lines = [f"MemAvailable: {4 * GIB // 1024} kB"]  # no /proc: a cautious guess
    candidates = [
        int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable:")
    ]
    group = _cgroup_free()
    if group is not None:
        candidates.append(group)
    return min(candidates) // _sharers.get()


def peak_memory(device: torch.device) -> int:
    """Return the peak bytes of this process: resident on a CPU, allocated on a GPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def format_bytes(count: float) -> str:
    """Write a number of bytes for a reader.

    Example:
        >>> format_bytes(3 * 2**20)
        '3.0 MiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError
