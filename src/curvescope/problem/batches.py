"""Batches: from whatever holds data to pairs of inputs and targets on the device.

Data that fit the memory limit are read once and kept; data that do not are read again
for every pass, and every batch must then have the checksum of the first pass.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

from curvescope._core.checks import describe, message
from curvescope._core.errors import ChangedDuringComputationError
from curvescope._core.fingerprints import checksum, of_samples
from curvescope._core.memory import format_bytes
from curvescope._core.processes import Processes
from curvescope.autodiff.network import plain_tensor, preserved_random_state

_TARGET_KEYS = ("labels", "label", "targets", "target", "y")
Adapter = Callable[[Any], tuple[Any, Any]]


@final
@dataclass(frozen=True)
class Batch:
    """One batch on the device, in the problem's dtype."""

    index: int
    inputs: Any
    targets: Any

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of inputs and targets."""
        leaves, _ = tree_flatten((_plain(self.inputs), _plain(self.targets)))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    @property
    def num_samples(self) -> int:
        """Length of the first dimension."""
        sizes = [t.shape[0] for t in self.tensors if t.ndim > 0]
        return sizes[0] if sizes else 0

    @property
    def num_bytes(self) -> int:
        """Memory of the tensors."""
        return sum(t.numel() * t.element_size() for t in self.tensors)

    def part(self, start: int, stop: int) -> "Batch":
        """Return the samples from ``start`` to ``stop``."""
        size = self.num_samples

        def cut(leaf: Any) -> Any:
            sliced = (
                isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] == size
            )
            return leaf[start:stop] if sliced else leaf

        inputs, targets = tree_map(cut, (_plain(self.inputs), _plain(self.targets)))
        return Batch(self.index, inputs, targets)


def _plain(tree: Any) -> Any:
    """Turn mappings that pytrees do not know (Hugging Face's) into dictionaries."""
    return (
        dict(tree) if isinstance(tree, Mapping) and not isinstance(tree, dict) else tree
    )


def default_adapter(batch: Any) -> tuple[Any, Any]:
    """Split a pair, or a mapping with a target key, into inputs and targets.

    Raises:
        TypeError: If the batch is neither.
    """
    if isinstance(batch, Mapping):
        for key in _TARGET_KEYS:
            if key in batch:
                return {k: v for k, v in batch.items() if k != key}, batch[key]
        got = f"a mapping with keys {sorted(map(str, batch))}"
        contract = f"have one of the keys {', '.join(_TARGET_KEYS)}"
    elif isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    else:
        contract = "be pairs (inputs, targets) or mappings"
        got = describe(batch)
    remedy = "Pass `batch_adapter=`, a function from a batch to (inputs, targets)."
    raise TypeError(message("data", contract, got, remedy))


@final
@dataclass
class BatchSource:
    """The data as a sequence of batches that every pass sees alike.

    Attributes:
        data: What the user gave.
        adapter: From the user's batch to inputs and targets.
        batch_size: For tensors and datasets, which have no batches of their own.
        device: Where the batches go.
        dtype: Of floating-point inputs and targets.
        limit: Bytes that may be kept.
        kept: All batches, where they fit.
        digests: Checksum of every batch, from the first pass.
        sizes: Data points of every batch.
        num_bytes: Memory of all batches.
        content: Hash of all samples, whatever their order and batches.
    """

    data: Any
    adapter: Adapter
    batch_size: int
    device: torch.device
    dtype: torch.dtype
    limit: int
    kept: list[Batch] | None = None
    digests: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    num_bytes: int = 0
    content: int = 0

    def read(self, processes: Processes) -> tuple[int, str]:
        """Read this process's share of the data.

        Returns:
            The number of samples of all processes, and a hash of all their samples.

        Raises:
            ValueError: If the data are not finite, repeatable, or hold nothing.
        """
        shares = processes.gather(self._read)
        num_samples = sum(size for size, _ in shares)
        if num_samples == 0:
            remedy = "A generator can be read only once; pass a list or a loader."
            raise ValueError(
                message("data", "hold at least one sample", "none", remedy)
            )
        content = sum(part for _, part in shares) % 2**64
        return num_samples, f"{num_samples} samples {content:016x}"

    def _read(self) -> tuple[int, int]:
        """Make the first pass: keep what fits, take the checksums, count the samples."""
        loader = self._loader()
        kept: list[Batch] | None = []
        for index, raw in enumerate(self._iterate(loader)):
            batch = self._place(index, raw, copy=kept is not None)
            if isinstance(self.data, Mapping) and _is_empty(batch):
                break  # a share of fewer samples than processes
            _check_batch(batch)
            self.digests.append(checksum(batch.tensors))
            self.sizes.append(batch.num_samples)
            self.content += of_samples(batch.tensors, batch.num_samples)
            self.num_bytes += batch.num_bytes
            if kept is not None:
                kept.append(batch)
                if self.num_bytes > self.limit:
                    self._refuse_if_unrepeatable(loader)
                    kept = None
        self.kept = kept
        if kept is None:
            self._check_repeatable(loader)
            self.data = loader
        return sum(self.sizes), self.content

    def __iter__(self) -> Iterator[Batch]:
        if self.kept is not None:
            yield from self.kept
            return
        count = 0
        for index, raw in enumerate(self._iterate(self.data)):
            batch = self._place(index, raw, copy=False)
            if (
                index >= len(self.digests)
                or checksum(batch.tensors) != self.digests[index]
            ):
                raise ChangedDuringComputationError(
                    _not_repeatable(f"batch {index} differs")
                )
            count += 1
            yield batch
        if count != len(self.digests):
            got = f"{count} batches instead of {len(self.digests)}"
            raise ChangedDuringComputationError(_not_repeatable(got))

    @property
    def num_batches(self) -> int:
        """Number of batches of a pass."""
        return len(self.digests)

    def promoted(self) -> "BatchSource":
        """Return an unread source of the same values in float64."""
        if self.kept is None:
            return BatchSource(
                self.data,
                _rounded(self.adapter, self.dtype),
                self.batch_size,
                self.device,
                torch.float64,
                self.limit,
            )
        pairs = [(batch.inputs, batch.targets) for batch in self.kept]
        return BatchSource(
            pairs,
            _identity,
            self.batch_size,
            self.device,
            torch.float64,
            2 * self.limit,
        )

    def _loader(self) -> Iterable[Any]:
        data = self.data
        if isinstance(data, (tuple, list)) and len(data) == 2:
            data = [
                torch.as_tensor(d) if isinstance(d, np.ndarray) else d for d in data
            ]
        if isinstance(data, (tuple, list)) and len(data) == 2 and _is_tensor_tree(data):
            return _slices(data[0], data[1], self.batch_size)
        if isinstance(data, Mapping):
            return [data]
        if isinstance(data, Tensor):
            contract = "hold inputs and targets"
            raise TypeError(
                message("data", contract, describe(data), "Pass a pair (X, y).")
            )
        if isinstance(data, Dataset) and not isinstance(data, DataLoader):
            if isinstance(data, TensorDataset) and len(data.tensors) == 2:
                return _slices(*data.tensors, self.batch_size)
            return DataLoader(data, batch_size=self.batch_size, shuffle=False)
        if isinstance(data, Iterable):
            return data
        contract = "be a pair of tensors, a Dataset, a DataLoader or batches"
        raise TypeError(message("data", contract, describe(data)))

    def _iterate(self, loader: Iterable[Any]) -> Iterator[Any]:
        # Making a DataLoader's iterator draws from the global stream; so may transforms.
        with preserved_random_state(self.device):
            iterator = iter(loader)
        while True:
            with preserved_random_state(self.device):
                try:
                    raw = next(iterator)
                except StopIteration:
                    return
            yield raw

    def _place(self, index: int, raw: Any, *, copy: bool) -> Batch:
        inputs, targets = self.adapter(raw)

        def move(leaf: Any) -> Any:
            leaf = torch.as_tensor(leaf) if isinstance(leaf, np.ndarray) else leaf
            if not isinstance(leaf, Tensor):
                return leaf
            dtype = self.dtype if leaf.is_floating_point() else leaf.dtype
            moved = plain_tensor(leaf).to(device=self.device, dtype=dtype)
            # A copy, since the user may write into the tensor later.
            return (
                moved.clone() if copy and moved.data_ptr() == leaf.data_ptr() else moved
            )

        with torch.inference_mode(mode=False):
            inputs, targets = tree_map(move, (_plain(inputs), _plain(targets)))
        return Batch(index, inputs, targets)

    def _refuse_if_unrepeatable(self, loader: Iterable[Any]) -> None:
        shuffles = isinstance(loader, DataLoader) and isinstance(
            loader.sampler, RandomSampler
        )
        once = iter(loader) is loader
        if shuffles or once:
            kind = "a loader that shuffles" if shuffles else "a one-shot iterator"
            got = f"{kind} with more than {format_bytes(self.limit)}"
            remedy = "Pass `shuffle=False`, fewer samples, or a larger `memory_limit=`."
            contract = "give the same batches in every pass, or fit the memory limit"
            raise ValueError(message("data", contract, got, remedy))

    def _check_repeatable(self, loader: Iterable[Any]) -> None:
        for index, raw in enumerate(self._iterate(loader)):
            batch = self._place(index, raw, copy=False)
            if checksum(batch.tensors) != self.digests[index]:
                raise ValueError(_not_repeatable(f"batch {index} differs"))
            if index >= 1:
                return


def _identity(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    return pair


def _rounded(adapter: Adapter, dtype: torch.dtype) -> Adapter:
    """Let floating-point leaves pass through ``dtype``, as the first reading did."""

    def adapt(raw: Any) -> tuple[Any, Any]:
        def cast(leaf: Any) -> Any:
            leaf = torch.as_tensor(leaf) if isinstance(leaf, np.ndarray) else leaf
            real = isinstance(leaf, Tensor) and leaf.is_floating_point()
            return leaf.to(dtype) if real else leaf

        inputs, targets = adapter(raw)
        return tree_map(cast, _plain(inputs)), tree_map(cast, _plain(targets))

    return adapt


def _not_repeatable(got: str) -> str:
    remedy = "Switch shuffling and augmentation off, or raise `memory_limit=`."
    return message("data", "give the same batches in every pass", got, remedy)


def _is_tensor_tree(pair: Any) -> bool:
    """Tell (X, y) from a list of two batches: X and y are no pairs themselves."""
    first, second = pair
    return isinstance(second, Tensor) and isinstance(first, (Tensor, Mapping))


def _slices(inputs: Any, targets: Tensor, batch_size: int) -> list[tuple[Any, Tensor]]:
    sizes = {len(t) for t in tree_flatten(_plain(inputs))[0] if isinstance(t, Tensor)}
    if sizes != {len(targets)}:
        contract = "have as many inputs as targets"
        got = f"{sorted(sizes)} inputs and {len(targets)} targets"
        raise ValueError(message("data", contract, got))
    whole = Batch(0, inputs, targets)
    parts = (whole.part(i, i + batch_size) for i in range(0, len(targets), batch_size))
    return [(p.inputs, p.targets) for p in parts]


def _is_empty(batch: Batch) -> bool:
    return isinstance(batch.targets, Sized) and batch.num_samples == 0


def _check_batch(batch: Batch) -> None:
    for tensor in batch.tensors:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            got = f"NaN or infinity in batch {batch.index}"
            raise ValueError(
                message("data", "be finite", got, "Clean or drop these samples.")
            )
    if _is_empty(batch):
        raise ValueError(message("data", "have no empty batch", f"batch {batch.index}"))
