"""What the numbers were measured on, and who else was there."""

import os
import platform
import re
import resource
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.registry import ROOT


def describe(threads: int, clock: str) -> dict[str, Any]:
    """Return versions and hardware."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "threads": threads,
        "clock": clock,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "mkldnn": torch.backends.mkldnn.is_available(),
    }


def source() -> dict[str, Any]:
    """Return which state of the code ran."""
    return {
        "revision": _git("rev-parse", "--short=12", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--", "src")),
    }


def hardware_slug(environment: dict[str, Any]) -> str:
    """Return the hardware as a part of a file's name."""
    words = re.sub(r"\(.*?\)|processor|cpu", " ", environment["cpu"].lower())
    slug = re.sub(r"[^a-z0-9]+", "-", words).strip("-")
    return f"{slug}-{environment['cores']}c"


class Neighbours:
    """How many cores other processes kept busy while we measured."""

    def __init__(self) -> None:
        self.load_start = list(os.getloadavg())
        self._start = time.perf_counter()
        self._total, self._ours = _busy_seconds(), _own_seconds()

    def summary(self) -> dict[str, Any]:
        """Say it; our own children must have ended, or they count as others."""
        elapsed = time.perf_counter() - self._start
        total = _busy_seconds()
        others = None
        if total is not None and self._total is not None:
            ours = _own_seconds() - self._ours
            others = max(total - self._total - ours, 0.0) / elapsed
        return {
            "load_average_start": self.load_start,
            "load_average_end": list(os.getloadavg()),
            "cores_busy_with_others": others,
            "elapsed_seconds": elapsed,
        }


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.machine()


def _memory_gib() -> float:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return round(pages * size / 2**30, 1)


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _busy_seconds() -> float | None:
    """CPU seconds of everybody since the machine started: user, nice, system."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return None
    return sum(int(field) for field in fields[1:4]) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    usages = [
        resource.getrusage(who)
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
