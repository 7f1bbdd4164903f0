"""Every sample is in one share, once, in order."""

from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    TensorDataset,
)

from curvescope.distributed import share


def numbers(count):
    return torch.arange(count, dtype=torch.float64)[:, None], torch.arange(count)


class Items(Dataset):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.tensor([float(index)]), index


class Stream(IterableDataset):
    def __iter__(self):
        X, y = numbers(10)
        yield from ((X[i : i + 3], y[i : i + 3]) for i in range(0, 10, 3))


KINDS = {
    "tensors": numbers,
    "arrays": lambda n: tuple(part.numpy() for part in numbers(n)),
    "inputs by name": lambda n: ({"x": numbers(n)[0]}, numbers(n)[1]),
    "one batch by name": lambda n: {"x": numbers(n)[0], "labels": numbers(n)[1]},
    "tensor dataset": lambda n: TensorDataset(*numbers(n)),
    "dataset": Items,
    "loader": lambda n: DataLoader(Items(n), batch_size=4),
    "batches": lambda n: [(x[None], y[None]) for x, y in zip(*numbers(n), strict=True)],
    "generator": lambda n: (
        (x[None], y[None]) for x, y in zip(*numbers(n), strict=True)
    ),
    "loader of batches": lambda n: DataLoader(
        Items(n), batch_sampler=[[i] for i in range(n)]
    ),
}


def targets(data):
    """Return the targets of all samples of a share, in its order."""
    if isinstance(data, dict):
        return data["labels"].tolist()
    if isinstance(data, tuple):
        return [int(y) for y in data[1]]
    return [int(y) for _, part in data for y in torch.as_tensor(part).reshape(-1)]


@pytest.mark.parametrize("kind", KINDS)
@given(count=st.integers(1, 20), size=st.integers(1, 6))
def test_shares_hold_every_sample_once(kind, count, size):
    shares = [
        targets(share(KINDS[kind](count), rank=rank, size=size)) for rank in range(size)
    ]

    assert sorted(chain(*shares)) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    if kind not in ("generator", "loader of batches"):
        assert list(chain(*shares)) == list(range(count))


def test_a_loader_that_shuffles_is_shared_by_its_dataset():
    shares = [
        targets(share(DataLoader(Items(11), 2, shuffle=True), rank=r, size=3))
        for r in range(3)
    ]

    assert list(chain(*shares)) == list(range(11))


def test_a_stream_is_shared_batch_by_batch():
    loader = DataLoader(Stream(), batch_size=None)

    shares = [share(loader, rank=r, size=2) for r in range(2)]

    assert [targets(s) for s in shares] == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9]]
    assert [targets(s) for s in shares] == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9]]
    assert shares[0].digest == shares[1].digest != ""


def test_a_sampler_that_repeats_samples_is_refused():
    data = Items(7)
    sampler = DistributedSampler(data, num_replicas=2, rank=0)

    with pytest.raises(TypeError, match="DistributedSampler"):
        share(DataLoader(data, sampler=sampler), rank=0, size=2)


def test_draws_with_replacement_are_refused():
    sampler = RandomSampler(Items(7), replacement=True)

    with pytest.raises(ValueError, match="the same in every process"):
        share(DataLoader(Items(7), sampler=sampler), rank=0, size=2)


@pytest.mark.parametrize(("rank", "size"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_lies_below_the_number_of_processes(rank, size):
    with pytest.raises(ValueError, match=r"`(rank|size)` must"):
        share(numbers(4), rank=rank, size=size)
