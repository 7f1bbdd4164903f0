"""Functions of points that worker processes can import."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A number, and where to leave a mark of every computation."""

    x: int
    log: str
    wait: float = 0.0
    bad: bool = False


def square(point):
    """Leave a mark, wait, and square or fail."""
    with (Path(point.log) / f"{point.x}").open("a") as file:
        file.write("x")
    time.sleep(point.wait)
    if point.bad:
        text = "`x` must be good; got 3."
        raise ValueError(text)
    return {"square": point.x**2, "third": point.x / 3, "none": None}


def threads(point):
    """Return what a worker may use."""
    return {
        "torch": torch.get_num_threads(),
        "environment": os.environ.get("OPENBLAS_NUM_THREADS"),
        "process": os.getpid(),
    }


def die(point):
    """End the process, as the system does when there is no memory."""
    os._exit(9)


def die_at_three_once(point):
    """Square; the first time that x is 3, end the process after a while."""
    died = Path(point.log) / "9"
    if point.x == 3 and not died.exists():
        died.write_text("")
        time.sleep(point.wait)
        os._exit(9)
    return square(point)
