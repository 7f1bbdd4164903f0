"""Processes of `torch.distributed`: sums that all agree on, errors that all see.

A sum carries four more numbers than it needs. Two say that a process could not compute
its term, two are a digest of what was multiplied and by what: a process that fails, or
that multiplies something else, is an error in all of them and never a wrong sum.
"""

import contextlib
import datetime as dt
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor

from curvescope._core.checks import message, positive_int, real
from curvescope._core.errors import LostProcessError, ProcessError
from curvescope._core.fingerprints import checksum, combine
from curvescope._core.memory import shared_memory
from curvescope._core.processes import T

# Digests are summed in the dtype of the vectors: in float32, integers are exact up to
# 2^24, which allows as many processes as this. A prime, so that no bit is lost.
_DIGEST = 4093
_TAIL = 4
_POLL = 2e-4  # seconds


def launched() -> bool:
    """Tell whether a launcher, such as ``torchrun``, started this process among others.

    Example:
        >>> launched()
        False
    """
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"))


@final
class TorchProcesses:
    """The processes of a group of `torch.distributed`, all or some.

    Args:
        group: As `torch.distributed` means it; all processes if ``None``.
        timeout: Seconds to wait for the others before they count as dead. The group's
            own limit should not be shorter.

    Attributes:
        rank: Which of them this is.
        size: How many there are.
        num_messages: Sums over the processes so far: one a block product, a gradient,
            an evaluation of the loss.

    Raises:
        ValueError: If `torch.distributed` was not started, or ``timeout`` is not
            positive.
    """

    def __init__(
        self, group: dist.ProcessGroup | None = None, *, timeout: float = 300.0
    ) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            remedy = "Use `with cs.distributed.processes() as group:` under torchrun."
            contract = "be started before it is used"
            raise ValueError(message("torch.distributed", contract, "nothing", remedy))
        self._group = group
        self._timeout = real("timeout", timeout, minimum=0.0, strict=True)
        self.rank = dist.get_rank(group)
        self.size = positive_int("size", dist.get_world_size(group))
        self.num_messages = 0
        self._unread: tuple[Tensor, Any, Tensor] | None = None

    def __repr__(self) -> str:
        return f"<process {self.rank} of {self.size}, {dist.get_backend(self._group)}>"

    def sum(
        self, compute: Callable[[], Tensor], like: Tensor, *, key: Sequence[object]
    ) -> Tensor:
        """Return the sum over all processes of what ``compute`` gives in each.

        Args:
            compute: Gives this process's term, of the shape and dtype of ``like``.
            like: What was multiplied: the same numbers in every process.
            key: What is computed: the same in every process.

        Raises:
            ProcessError: If another process failed, died, or computes something else.

        Cost:
            One message of as many numbers as ``like`` has, and four.
        """
        failure: BaseException | None = None
        sent = like.new_zeros(like.numel() + _TAIL)
        digest = _digest(like, key)
        try:
            term = compute()
            sent[:-_TAIL] = term.reshape(-1)
            del term
        except BaseException as error:  # sent on, and raised again below
            failure = error
            sent[-4], sent[-3] = 1.0, float(self.rank + 1)
        sent[-2:] = digest
        if failure is not None:
            with contextlib.suppress(ProcessError):  # its own error says more
                self._reduce(sent)
            raise failure
        # What the last message said is known by now, also on a GPU that is behind.
        self.check()
        self._reduce(sent)
        self.num_messages += 1
        self._remember(sent[-_TAIL:], digest)
        return sent[:-_TAIL].reshape(like.shape)

    def _reduce(self, sent: Tensor) -> None:
        with self._sendable(sent) as moved:
            dist.all_reduce(moved, group=self._group)

    @contextmanager
    def _sendable(self, tensor: Tensor) -> Iterator[Tensor]:
        """Yield a tensor where the group can send it; bring back what it is then."""
        # Outside of what means a broken connection: nobody died of a missing backend.
        place = sending_device(tensor.device, dist.get_backend_config(self._group))
        moved = tensor.to(place)
        with self._watching():
            yield moved
            if moved is not tensor:
                tensor.copy_(moved)

    def _remember(self, tail: Tensor, digest: Tensor) -> None:
        """Look at what all processes said: at once on a CPU, later on a GPU."""
        if tail.device.type == "cpu":
            self._judge(tail, digest)
            return
        copy = torch.empty(_TAIL, dtype=tail.dtype, pin_memory=True)
        copy.copy_(tail, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._unread = (copy, event, digest)

    def check(self) -> None:
        """Raise if a process was seen to fail, or to compute something else.

        Raises:
            ProcessError: If so, or if the last sum did not come in time.
        """
        if self._unread is None:
            return
        copy, event, digest = self._unread
        self._unread = None
        deadline = time.monotonic() + self._timeout
        while not event.query():
            if time.monotonic() > deadline:
                reason = f"no answer within {self._timeout:g} s"
                raise self._lost(reason)
            time.sleep(_POLL)
        self._judge(copy, digest)

    def _judge(self, tail: Tensor, digest: Tensor) -> None:
        failed, ranks, *found = tail.tolist()
        if failed:
            who = (
                f"process {int(ranks) - 1}"
                if failed == 1
                else f"{int(failed)} processes"
            )
            text = f"{who} of {self.size} failed; its own error says why."
            raise ProcessError(text)
        if found != [self.size * value for value in digest.tolist()]:
            text = (
                f"the {self.size} processes fell out of step: process {self.rank} "
                "multiplies other vectors, or by other weights, than the rest. Give all "
                "of them the same calls, options, weights and library versions, on "
                "machines of one kind and with as much memory."
            )
            raise ProcessError(text)

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Say in words what a broken connection means."""
        try:
            yield
        except (RuntimeError, ValueError) as error:
            if isinstance(error, ProcessError):
                raise
            raise self._lost(str(error).splitlines()[0]) from error

    def _lost(self, reason: str) -> LostProcessError:
        return LostProcessError(
            f"another of the {self.size} processes died or stopped answering; process "
            f"{self.rank} noticed after {self.num_messages} sums ({reason}). What was "
            "finished is saved; the same command, with as many processes as you like, "
            "goes on from there."
        )

    def gather(self, compute: Callable[[], T]) -> list[T]:
        """Return what ``compute`` gives in each process, in their order.

        Args:
            compute: Gives a small object that can be pickled.

        Raises:
            ProcessError: If another process failed or died.
        """
        failure: BaseException | None = None
        mine: tuple[bool, Any]
        try:
            mine = (True, compute())
        except BaseException as error:  # sent on, and raised again below
            failure = error
            mine = (False, f"{type(error).__name__}: {error}")
        found: list[Any] = [None] * self.size
        with self._watching():
            dist.all_gather_object(found, mine, group=self._group)
        if failure is not None:
            raise failure
        for rank, (done, value) in enumerate(found):
            if not done:
                text = f"process {rank} of {self.size} failed: {value}"
                raise ProcessError(text)
        return [value for _, value in found]

    def from_first(self, compute: Callable[[], T]) -> T:
        """Return in every process what ``compute`` gives in the first; called there only.

        Args:
            compute: Gives an object that can be pickled.

        Raises:
            ProcessError: In the others, if the first failed or died.
        """
        failure: BaseException | None = None
        carried: list[Any] = [None]
        if self.rank == 0:
            try:
                carried = [(True, compute())]
            except BaseException as error:  # sent on, and raised again below
                failure = error
                carried = [(False, f"{type(error).__name__}: {error}")]
        with self._watching():
            dist.broadcast_object_list(carried, src=self._first(), group=self._group)
        if failure is not None:
            raise failure
        done, value = carried[0]
        if not done:
            text = f"process 0 of {self.size} failed: {value}"
            raise ProcessError(text)
        return value

    def tensor_from_first(self, tensor: Tensor) -> Tensor:
        """Return in every process the first one's CPU ``tensor``, of the same shape."""
        with self._sendable(tensor) as moved:
            dist.broadcast(moved, src=self._first(), group=self._group)
        return tensor

    def _first(self) -> int:
        return 0 if self._group is None else dist.get_global_rank(self._group, 0)


def sending_device(device: torch.device, backends: str) -> torch.device:
    """Return where tensors of ``device`` must be for a group to send them.

    Args:
        device: Where they are.
        backends: The group's, as `torch.distributed` writes them: ``"cpu:gloo,cuda:nccl"``.

    Raises:
        ValueError: If the group has a backend neither for them, nor for CPUs or GPUs.

    Example:
        >>> sending_device(torch.device("cuda:1"), "cpu:mpi")
        device(type='cpu')
    """
    kinds = [pair.partition(":")[0] for pair in backends.split(",")]
    if device.type in kinds:
        return device
    if "cpu" in kinds:
        return torch.device("cpu")
    if "cuda" in kinds:
        return torch.device("cuda", torch.cuda.current_device())
    contract = f"have a backend for tensors on {device.type}, on CPUs or on GPUs"
    raise ValueError(message("processes", contract, backends))


def _digest(like: Tensor, key: Sequence[object]) -> Tensor:
    """Return two small whole numbers that tell vectors and keys apart."""
    number = int(combine(*key, tuple(like.shape), checksum([like])), 16)
    parts = (number % _DIGEST, number // _DIGEST % _DIGEST)
    return torch.tensor(parts, dtype=like.dtype)


@contextmanager
def processes(
    *, device: torch.device | str | None = None, timeout: float = 300.0
) -> Iterator[TorchProcesses]:
    """Join the other processes that the launcher started, while the block runs.

    Under ``torchrun`` (or any launcher that sets RANK, WORLD_SIZE, MASTER_ADDR and
    MASTER_PORT). A `torch.distributed` that is running already is used, and left.

    Args:
        device: Where products will be computed. ``"cuda"`` means the GPU of this
            process's local rank, and NCCL; otherwise gloo.
        timeout: Seconds after which a process that does not answer counts as dead. It
            must exceed what the slowest process takes longer than the fastest.

    Yields:
        The processes, for `data_parallel`.

    Raises:
        ValueError: If no launcher started this process.
        ProcessError: If the others do not come in time.

    Example:
        >>> def main():  # torchrun --nproc-per-node 4 script.py
        ...     with processes() as group:
        ...         problem = data_parallel(model, "cross_entropy", data, group)
        ...         return eigsh(Hessian(problem), k=5)
    """
    timeout = real("timeout", timeout, minimum=0.0, strict=True)
    if dist.is_available() and dist.is_initialized():
        with _joined(timeout) as group:
            yield group
        return
    if not launched():
        remedy = "Start the script with `torchrun --nproc-per-node N script.py`."
        got = "no RANK, WORLD_SIZE and MASTER_ADDR in the environment"
        contract = "be used in a process that a launcher started"
        raise ValueError(message("processes", contract, got, remedy))
    on_gpu = torch.device(device or "cpu").type == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # Objects go between CPUs; a GPU's own limit comes after ours, which has words.
    backend, limit = (
        ("cpu:gloo,cuda:nccl", 2 * timeout) if on_gpu else ("gloo", timeout)
    )
    try:
        dist.init_process_group(backend, timeout=dt.timedelta(seconds=limit))
    except (RuntimeError, ValueError) as error:
        count = os.environ["WORLD_SIZE"]
        text = f"the {count} processes did not meet: {str(error).splitlines()[0]}"
        raise ProcessError(text) from error
    try:
        with _joined(timeout) as group:
            yield group
    finally:
        dist.destroy_process_group()


@contextmanager
def _joined(timeout: float) -> Iterator[TorchProcesses]:
    """Yield all processes; those of one machine share its memory meanwhile."""
    group = TorchProcesses(timeout=timeout)
    machines = group.gather(platform.node)
    with shared_memory(machines.count(platform.node())):
        yield group
