"""Checksums of tensors: the proof that nothing changed between two looks.

Version counters are no proof: fused optimisers and writes through ``.data`` do not
move them. Checksums read every byte, which is cheap beside one product.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ROW = 4096  # bytes
_MULTIPLIERS = (0x9E3779B97F4A7C15 - 2**64, 0x2545F4914F6CDD1D)


def _on_device(tensor: Tensor) -> Tensor:
    """Sum the words of ``tensor``, each mixed with its place, without leaving the device."""
    flat = tensor.detach().contiguous().reshape(-1)
    words = (
        flat.view(torch.uint8) if flat.numel() else flat.new_zeros(0, dtype=torch.uint8)
    )
    if words.numel() % 4 == 0:
        words = words.view(torch.int32)
    mixed = words.to(torch.int64)
    places = torch.arange(1, mixed.numel() + 1, device=mixed.device) * _MULTIPLIERS[0]
    return ((mixed ^ places) * _MULTIPLIERS[1]).sum()


class _Words:
    """The memory of a contiguous tensor on the CPU, summed again and again.

    The sums are of the words' rows and columns: as fast as memory can be read. A change
    of one weight moves a row's sum; a swap of two moves a column's.
    """

    def __init__(self, tensor: Tensor) -> None:
        flat = tensor.detach().reshape(-1)
        octets = (
            flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)
        )
        whole = octets.size // _ROW * _ROW
        self._tail = octets[whole:]
        self._words = octets[:whole].view(np.uint64).reshape(-1, _ROW // 8)
        num_rows, num_columns = self._words.shape
        self._sums = np.empty(num_rows + num_columns, np.uint64)

    def feed(self, digest: Any) -> None:
        """Give what the memory holds now to a hash."""
        num_rows = len(self._words)
        if num_rows:
            np.add.reduce(self._words, axis=1, out=self._sums[:num_rows])
            np.add.reduce(self._words, axis=0, out=self._sums[num_rows:])
            digest.update(self._sums.data)
        digest.update(self._tail.data)


class Watch:
    """Checksums of the same tensors, looked at many times at little cost.

    It remembers how their memory is laid out, never what it held, and keeps it alive:
    another tensor at the same address cannot be taken for one of them.
    """

    def __init__(self) -> None:
        self._layout: list[Any] = []
        self._kinds = b""
        self._words: list[_Words | None] = []

    def checksum(self, tensors: Iterable[Tensor]) -> str:
        """Return a short hash of the values (not the names) of tensors, in their order."""
        tensors = list(tensors)
        layout = [
            (t.data_ptr(), t.shape, t.dtype, t.stride(), t.device) for t in tensors
        ]
        if layout != self._layout:
            self._layout = layout
            self._kinds = "".join(
                f"{t.dtype}{tuple(t.shape)}" for t in tensors
            ).encode()
            self._words = [_Words(t) if _lies_flat(t) else None for t in tensors]
        digest = hashlib.blake2b(self._kinds, digest_size=12)
        remote = []
        for tensor, words in zip(tensors, self._words, strict=True):
            if words is not None:
                words.feed(digest)
            elif tensor.device.type == "cpu":
                _Words(tensor.detach().contiguous()).feed(digest)
            else:
                remote.append(_on_device(tensor))
        if remote:
            digest.update(torch.stack(remote).cpu().numpy().tobytes())
        return digest.hexdigest()


def _lies_flat(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.is_contiguous()


def checksum(tensors: Iterable[Tensor]) -> str:
    """Return a short hash of the values (not the names) of tensors, in their order."""
    return Watch().checksum(tensors)


def of_samples(tensors: Sequence[Tensor], size: int) -> int:
    """Return a hash of samples that knows neither their order nor their batches.

    It is a sum, modulo 2^64: sums of parts are the hash of the whole.

    Args:
        tensors: A batch's; those whose first dimension is ``size`` hold a row a sample,
            others belong to every sample.
        size: Samples of the batch.
    """
    kinds = "".join(
        f"{t.dtype}{tuple(t.shape[1:] if _is_rows(t, size) else t.shape)}"
        for t in tensors
    )
    begun = hashlib.blake2b(kinds.encode(), digest_size=8)
    rows = []
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous()
        if _is_rows(tensor, size):
            rows.append(flat.reshape(size, -1).view(torch.uint8).numpy())
        elif flat.numel():
            begun.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    total = 0
    for sample in range(size):
        digest = begun.copy()
        for row in rows:
            digest.update(row[sample].data)
        total += int.from_bytes(digest.digest(), "little")
    return total % 2**64


def _is_rows(tensor: Tensor, size: int) -> bool:
    return tensor.ndim > 0 and tensor.shape[0] == size and tensor.numel() > 0


def combine(*parts: object) -> str:
    """Return a short hash of the parts' texts."""
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        digest.update(repr(part).encode())
    return digest.hexdigest()
