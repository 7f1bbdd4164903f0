"""Measurements of a tracker as TensorBoard's scalars."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from curvescope._core.checks import describe, message
from curvescope._core.imports import require


def scalar_log(
    writer: Any, *, prefix: str = "curvature"
) -> Callable[[Mapping[str, float], int], None]:
    """Return a ``log`` for `curvescope.track` that writes TensorBoard scalars.

    Args:
        writer: A folder, for a new ``torch.utils.tensorboard.SummaryWriter``; or any
            object with its ``add_scalar(name, value, step)``.
        prefix: Stands before each name, with a slash.

    Returns:
        The function; every call is flushed, where the writer can.

    Raises:
        MissingExtraError: If a folder is given and tensorboard is not installed.
        TypeError: If ``writer`` is neither.

    Example:
        >>> class Printer:
        ...     def add_scalar(self, name, value, step):
        ...         print(name, value, step)
        >>> scalar_log(Printer())({"loss": 0.5}, 3)
        curvature/loss 0.5 3
    """
    if isinstance(writer, (str, Path)):
        require("tensorboard", extra="tensorboard", purpose="`scalar_log` of a folder")
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(writer))
    if not callable(getattr(writer, "add_scalar", None)):
        contract = "be a folder, or have `add_scalar`"
        raise TypeError(message("writer", contract, describe(writer)))

    def log(numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            writer.add_scalar(f"{prefix}/{name}" if prefix else name, value, step)
        flush = getattr(writer, "flush", None)
        if callable(flush):
            flush()

    return log
