"""Progress bars with the time left; silent unless somebody asked to see them."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_display: ContextVar[Progress | None] = ContextVar("curvescope_progress", default=None)


@dataclass
class Task:
    """One line of the display; every method does nothing when progress is hidden."""

    _progress: Progress | None
    _identity: TaskID | None

    def advance(self, amount: float = 1) -> None:
        """Count ``amount`` more units as done."""
        if self._progress is not None and self._identity is not None:
            self._progress.advance(self._identity, amount)

    def update(
        self,
        *,
        completed: float | None = None,
        total: float | None = None,
        status: str | None = None,
    ) -> None:
        """Set what is done, what is to do, or the remark at the end of the line."""
        if self._progress is None or self._identity is None:
            return
        if status is not None:
            self._progress.update(self._identity, status=status)
        self._progress.update(self._identity, completed=completed, total=total)


@contextmanager
def showing_progress(*, console: Console | None = None) -> Iterator[None]:
    """Show the progress of all verbs called inside.

    Example:
        >>> with showing_progress():
        ...     with track("products", total=1) as task:
        ...         task.advance()
    """
    display = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
        console=console or Console(stderr=True),
        transient=False,
    )
    token = _display.set(display)
    try:
        with display:
            yield
    finally:
        _display.reset(token)


@contextmanager
def track(description: str, *, total: float | None) -> Iterator[Task]:
    """Show one task while the block runs."""
    display = _display.get()
    if display is None:
        yield Task(None, None)
        return
    identity = display.add_task(description, total=total, status="")
    try:
        yield Task(display, identity)
    finally:
        display.stop_task(identity)
