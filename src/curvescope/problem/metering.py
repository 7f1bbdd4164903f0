"""How much memory a piece of torch takes: followed tensor by tensor, on any device."""

import ctypes
import functools
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


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
        for given in _tensors(args):
            self._follow(given, num_bytes=0)
        result = func(*args, **(kwargs or {}))
        for made in _tensors((result,)):
            self._follow(made, num_bytes=None)
        return result

    def _follow(self, tensor: Tensor, *, num_bytes: int | None) -> None:
        try:
            storage = tensor.untyped_storage()
        except (RuntimeError, NotImplementedError):  # a subclass without memory
            return
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if num_bytes is None else num_bytes
        self.live += size
        self.made += size
        self.peak = max(self.peak, self.live)

        def gone(_: Any) -> None:
            self.live -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, gone)


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


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
