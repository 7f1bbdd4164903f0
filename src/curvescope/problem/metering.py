"""How much memory a piece of torch takes: followed tensor by tensor, on any device."""

import ctypes
import functools
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode

# Of glibc's `mallopt`, and the largest threshold it takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP = 32 * 2**20


@final
class AllocationMeter(TorchDispatchMode):
    """Counts the bytes of the tensors that are made while it is entered.

    What kernels take inside of themselves is not seen; nor is what was there before.

    Attributes:
        live: Bytes of what was made and still is there.
        peak: The largest value of ``live``.
        made: Bytes of all that was made.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Say that no compiler need be told of this: torch would import it for that."""
        return False

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self.made = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation and look at what it returns."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given: set[int] | None = None
        for made in _tensors((result,)):
            storage = _storage(made)
            if storage is None or storage._cdata in self._known:
                continue
            if given is None:
                there = map(_storage, _tensors((args, tuple(kwargs.values()))))
                given = {s._cdata for s in there if s is not None}
            # A view of what was there before, or the same changed in place.
            if storage._cdata not in given:
                self._follow(storage)
        return result

    def _follow(self, storage: UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self.live += size
        self.made += size
        self.peak = max(self.peak, self.live)

        def gone(_: Any) -> None:
            self.live -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, gone)


def _storage(tensor: Tensor) -> UntypedStorage | None:
    try:
        return tensor.untyped_storage()
    except (RuntimeError, NotImplementedError):  # a subclass without memory
        return None


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


def return_free_memory() -> None:
    """Give memory that is free inside the C library back to the system.

    glibc keeps the holes that temporaries leave between tensors that stay, which makes
    a process up to twice as large as what it holds. Elsewhere nothing happens.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@contextmanager
def retained_heap() -> Iterator[None]:
    """Keep what is freed for what comes next, and give it back at the end.

    glibc returns the top of its heap as soon as more than some ten MiB are free there.
    Where a graph is built, used and dropped for every batch, the system then clears the
    same pages again and again: 5 % of such a product. Afterwards the thresholds are
    the largest that glibc chooses by itself. Elsewhere nothing happens.
    """
    options = _heap_options()
    if options is None:
        yield
        return
    settle_heap()
    options(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        options(_TRIM_THRESHOLD, 2 * _LARGEST_MMAP)
        return_free_memory()


@functools.cache
def settle_heap() -> None:
    """Set the heap's thresholds to the largest that glibc comes to by itself.

    It raises them with the sizes that are freed. Until then products of many columns
    have their pages cleared by the system each time: a tenth and more of their time.
    Once for a process; elsewhere, and where the user has set them, nothing happens.
    """
    options = _heap_options()
    if options is not None:
        options(_TRIM_THRESHOLD, 2 * _LARGEST_MMAP)
        options(_MMAP_THRESHOLD, _LARGEST_MMAP)


@functools.cache
def _heap_options() -> Callable[[int, int], int] | None:
    theirs = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")
    tuned = "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if tuned or any(name in os.environ for name in theirs):
        return None
    try:
        return ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return None


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
