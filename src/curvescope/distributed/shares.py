"""Which part of the data each process holds: every sample once, none twice."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
)

from curvescope._core.checks import message, one_of, positive_int
from curvescope._core.fingerprints import checksum


def share(data: Any, *, rank: int, size: int) -> Any:
    """Return the part of the data that one of several processes holds.

    Tensors, datasets and loaders over them are cut into contiguous blocks of samples,
    lists of batches into contiguous blocks of batches; of other iterables each process
    keeps every ``size``-th batch. Blocks differ by one sample (batch) at most, nothing
    is repeated to fill up, and where there is less than one for each some are empty.

    Args:
        data: As for `Problem`: the whole of it, the same in every process.
        rank: Which process, from 0.
        size: How many there are.

    Returns:
        Data of the same kind.

    Raises:
        ValueError: If a loader would draw other batches in every process.
        TypeError: If the data are shared already (`DistributedSampler`), or are no data.

    Cost:
        Nothing is read, except of iterables, which every process reads to the end.

    Example:
        >>> X, y = torch.arange(7.0), torch.zeros(7)
        >>> [len(share((X, y), rank=r, size=3)[0]) for r in range(3)]
        [2, 2, 3]
    """
    positive_int("size", size)
    one_of("rank", rank, range(size))
    if isinstance(data, DataLoader):
        return _of_loader(data, rank, size)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        if isinstance(data, Sized):
            return Subset(data, block(len(data), rank, size))
        contract = "have a length to be shared"
        raise ValueError(message("data", contract, type(data).__name__))
    if isinstance(data, Mapping) or _is_pair(data):
        return _rows(data, rank, size)
    if isinstance(data, Sequence):
        part = block(len(data), rank, size)
        return list(data[part.start : part.stop])
    if isinstance(data, IterableDataset):
        return EveryNth(DataLoader(data, batch_size=None), rank, size)
    return EveryNth(data, rank, size)


def block(count: int, rank: int, size: int) -> range:
    """Return the positions of one of ``size`` contiguous blocks of ``count`` things.

    Example:
        >>> [len(block(10, rank, 4)) for rank in range(4)]
        [2, 3, 2, 3]
    """
    return range(count * rank // size, count * (rank + 1) // size)


def _is_pair(data: Any) -> bool:
    """Tell inputs and targets from a list of two batches, as `Problem` does."""
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        return False
    arrays = (Tensor, np.ndarray)
    return isinstance(data[1], arrays) and isinstance(data[0], (*arrays, Mapping))


def _rows(tree: Any, rank: int, size: int) -> Any:
    """Cut all tensors of a batch along their first dimension."""
    tree = (
        dict(tree)
        if isinstance(tree, Mapping)
        else tuple(dict(part) if isinstance(part, Mapping) else part for part in tree)
    )
    lengths = [
        len(leaf)
        for leaf in tree_flatten(tree)[0]
        if hasattr(leaf, "ndim") and leaf.ndim
    ]
    count = lengths[0] if lengths else 0
    part = block(count, rank, size)

    def cut(leaf: Any) -> Any:
        whole = not (hasattr(leaf, "ndim") and leaf.ndim and len(leaf) == count)
        return leaf if whole else leaf[part.start : part.stop]

    return tree_map(cut, tree)


def _of_loader(loader: DataLoader, rank: int, size: int) -> Any:
    if isinstance(loader.sampler, DistributedSampler):
        remedy = (
            "Give the whole data without it; or, if every process shall keep what its "
            "loader gives, build it with `drop_last=True` and pass `shared=True`: it "
            "repeats samples otherwise."
        )
        got = "a loader with a DistributedSampler"
        text = message("data", "be the whole data", got, remedy)
        raise TypeError(text)
    if isinstance(loader.dataset, IterableDataset):
        return EveryNth(loader, rank, size)
    if not _takes_every_sample_once(loader):
        if isinstance(loader.sampler, RandomSampler):
            got = "a loader that draws at random"
            remedy = "Pass `shuffle=False`, or a list of the batches."
            contract = "be the same in every process"
            raise ValueError(message("data", contract, got, remedy))
        return EveryNth(loader, rank, size)
    count = len(loader.dataset)  # type: ignore[arg-type]
    return DataLoader(
        Subset(loader.dataset, block(count, rank, size)),
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
        generator=loader.generator,
    )


def _takes_every_sample_once(loader: DataLoader) -> bool:
    """Tell whether the loader's batches are the dataset's samples, each once."""
    plain = type(loader.batch_sampler) is BatchSampler and not loader.drop_last
    if not plain or loader.batch_size is None:
        return False
    sampler = loader.sampler
    if type(sampler) is SequentialSampler:
        return True
    # The objective does not know the order.
    return (
        type(sampler) is RandomSampler
        and not sampler.replacement
        and sampler.num_samples == len(loader.dataset)  # type: ignore[arg-type]
    )


@final
class EveryNth:
    """Every ``size``-th batch, from the ``rank``-th on; remembers what all were.

    Attributes:
        digest: Hash of all batches of the first pass, those of others included: where
            it differs between processes, they do not share one and the same data.
    """

    def __init__(self, batches: Iterable[Any], rank: int, size: int) -> None:
        if not isinstance(batches, Iterable):
            contract = "be tensors, a Dataset, a DataLoader or batches"
            raise TypeError(message("data", contract, type(batches).__name__))
        self.digest = ""
        self._rank, self._size = rank, size
        # An iterator can be read only once: what is to be kept of it is kept here.
        self._kept: list[Any] | None = None
        self._batches = batches
        if iter(batches) is batches:
            self._kept = list(self._first_pass())

    def __iter__(self) -> Iterator[Any]:
        if self._kept is not None:
            return iter(self._kept)
        if not self.digest:
            return self._first_pass()
        return itertools.islice(iter(self._batches), self._rank, None, self._size)

    def _first_pass(self) -> Iterator[Any]:
        digest = hashlib.blake2b(digest_size=12)
        for index, batch in enumerate(self._batches):
            leaves, _ = tree_flatten(
                dict(batch) if isinstance(batch, Mapping) else batch
            )
            tensors = [torch.as_tensor(t) for t in leaves if hasattr(t, "shape")]
            digest.update(checksum(tensors).encode())
            if index % self._size == self._rank:
                yield batch
        self.digest = digest.hexdigest()
