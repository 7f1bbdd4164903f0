"""Where a result was computed: versions, hardware, and the state of the user's code."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = (
    "curvescope",
    "torch",
    "numpy",
    "scipy",
    "matplotlib",
    "timm",
    "transformers",
)


def collect_environment(*, seed: int | None = None) -> dict[str, Any]:
    """Return versions, hardware, time and the git revision of the current folder.

    Args:
        seed: The run's seed, to be kept beside them.

    Returns:
        Plain values only, ready for JSON.

    Example:
        >>> collect_environment()["python"].count(".")
        2
    """
    content: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": _versions(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        names = [
            torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())
        ]
        content["gpu"] = names
        content["cuda"] = torch.version.cuda
    revision = _git("rev-parse", "HEAD")
    if revision:
        dirty = bool(_git("status", "--porcelain", "--untracked-files=no"))
        content["git"] = {"revision": revision, "changed_since": dirty}
    if seed is not None:
        content["seed"] = seed
    return content


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    if sys.platform.startswith("linux"):
        try:
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        except OSError:
            lines = []
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    """Ask git about the current folder; an empty text where there is no answer."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
