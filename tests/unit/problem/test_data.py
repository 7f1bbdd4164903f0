"""Every kind of data gives the same matrix, or one clear error."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from curvescope._core.errors import ChangedDuringComputationError
from curvescope.curvature import Hessian
from curvescope.problem import Problem


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def data(num=12):
    g = torch.Generator().manual_seed(0)
    X = torch.randn(num, 4, generator=g, dtype=torch.float64)
    return X, torch.randint(0, 3, (num,), generator=g)


X, Y = data()
WEIGHTED = nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 4.0]))


def hessian(source, **options):
    return Hessian(Problem(net(), WEIGHTED, source, **options)).to_dense()


TRUTH = hessian((X, Y), batch_size=12)


class Pairs(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index], Y[index]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


class Rereads:
    """An iterable that makes its batches anew, and may change them."""

    def __init__(self, change=None):
        self.change = change
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        for i, (x, y) in enumerate(zip(X.split(5), Y.split(5), strict=True)):
            if self.change is not None and (self.passes, i) >= self.change:
                x = x + 1.0
            yield x.clone(), y.clone()


SOURCES = {
    "tensors": lambda: (X, Y),
    "a list of tensors": lambda: [X, Y],
    "arrays": lambda: (X.numpy(), Y.numpy()),
    "a tensor dataset": lambda: TensorDataset(X, Y),
    "a dataset": Pairs,
    "a loader": lambda: DataLoader(Pairs(), batch_size=5),
    "a shuffling loader": lambda: DataLoader(Pairs(), batch_size=5, shuffle=True),
    "a loader of a stream": lambda: DataLoader(Stream(), batch_size=5),
    "a list of batches": lambda: list(zip(X.split(5), Y.split(5), strict=True)),
    "a list of two batches": lambda: [(X[:9], Y[:9]), (X[9:], Y[9:])],
    "batches of arrays": lambda: [(X[:9].numpy(), Y[:9].numpy()), (X[9:], Y[9:])],
    "dictionaries": lambda: [{"input": X[:5], "labels": Y[:5]}, {"input": X[5:], "labels": Y[5:]}],
    "one dictionary": lambda: {"input": X, "target": Y},
    "a pair of a dictionary and targets": lambda: ({"input": X}, Y),
    "a generator": lambda: ((X[i : i + 5], Y[i : i + 5]) for i in (0, 5, 10)),
    "an iterable that rereads": Rereads,
}  # fmt: skip


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_data_gives_the_same_matrix(kind):
    torch.testing.assert_close(
        hessian(SOURCES[kind](), batch_size=5), TRUTH, rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("kind", SOURCES)
def test_a_problem_counts_its_samples_and_batches(kind):
    problem = Problem(net(), WEIGHTED, SOURCES[kind](), batch_size=5)

    assert problem.num_samples == 12
    assert sum(problem.batch_sizes) == 12
    assert problem.num_batches == len(problem.batch_sizes)


def test_an_adapter_reads_any_batch():
    batches = [{"image": X[:7], "kind": {"id": Y[:7]}}, {"image": X[7:], "kind": {"id": Y[7:]}}]  # fmt: skip

    got = hessian(batches, batch_adapter=lambda b: (b["image"], b["kind"]["id"]))

    torch.testing.assert_close(got, TRUTH, rtol=1e-12, atol=1e-14)


SMALL = 400  # bytes: less than the data, which have 12 x 40


def test_data_beyond_the_memory_limit_are_streamed_to_the_same_matrix():
    source = Rereads()
    problem = Problem(net(), WEIGHTED, source, memory_limit=SMALL)

    H = Hessian(problem).to_dense()

    assert problem.kept_data_bytes == 0
    assert source.passes > 2
    torch.testing.assert_close(H, TRUTH, rtol=1e-12, atol=1e-14)


def test_kept_data_are_copies():
    x, y = X.clone(), Y.clone()
    H = Hessian(Problem(net(), WEIGHTED, (x, y)))

    x.fill_(3.0)
    y.fill_(0)

    torch.testing.assert_close(H.to_dense(), TRUTH, rtol=1e-12, atol=1e-14)


def test_streamed_data_that_change_in_the_middle_are_an_error():
    source = Rereads()
    H = Hessian(Problem(net(), WEIGHTED, source, memory_limit=SMALL))
    v = torch.ones(H.shape[0], dtype=torch.float64)
    H @ v

    source.change = (source.passes + 1, 1)

    with pytest.raises(ChangedDuringComputationError, match="batch 1 differs"):
        H @ v


def test_streamed_data_that_end_early_are_an_error():
    batches = list(zip(X.split(5), Y.split(5), strict=True))
    H = Hessian(Problem(net(), WEIGHTED, batches, memory_limit=SMALL))
    batches.pop()

    with pytest.raises(ChangedDuringComputationError, match="2 batches instead of 3"):
        H @ torch.ones(H.shape[0], dtype=torch.float64)


def test_an_augmenting_source_too_large_to_keep_is_refused():
    with pytest.raises(ValueError, match="same batches in every pass"):
        Problem(net(), WEIGHTED, Rereads(change=(2, 0)), memory_limit=SMALL)


def test_a_shuffling_loader_too_large_to_keep_is_refused():
    loader = DataLoader(Pairs(), batch_size=5, shuffle=True)

    with pytest.raises(ValueError, match=r"a loader that shuffles.*shuffle=False"):
        Problem(net(), WEIGHTED, loader, memory_limit=SMALL)


def test_a_generator_too_large_to_keep_is_refused():
    with pytest.raises(ValueError, match="a one-shot iterator with more than"):
        Problem(net(), WEIGHTED, iter([(X, Y)]), memory_limit=SMALL)


BAD = [
    ((X[:0], Y[:0]), ValueError, "at least one sample"),
    ([], ValueError, "at least one sample; got none"),
    (iter(()), ValueError, "A generator can be read only once"),
    ([(X[:0], Y[:0])], ValueError, "have no empty batch"),
    ({"x": X[:0], "y": Y[:0]}, ValueError, "hold at least one sample"),
    ((X / 0.0, Y), ValueError, "be finite; got NaN or infinity in batch 0"),
    ((X, Y[:5]), ValueError, r"as many inputs as targets; got \[12\] inputs and 5"),
    ([(X, Y[:5])], ValueError, r"have shape \(12,\)"),
    ((X, Y + 1), ValueError, r"lie in 0\.\.2.*labels from 1 to 3"),
    (X, TypeError, "Pass a pair"),
    ([X, Y, X], TypeError, "be pairs .*batch_adapter="),
    ([{"x": X, "z": Y}], TypeError, r"one of the keys labels.*keys \['x', 'z'\]"),
    (3, TypeError, "be a pair of tensors, a Dataset, a DataLoader or batches; got 3"),
]


@pytest.mark.parametrize(("source", "error", "text"), BAD, ids=lambda v: str(v)[:20])
def test_bad_data_are_refused(source, error, text):
    with pytest.raises(error, match=text):
        Problem(net(), WEIGHTED, source)


def test_all_targets_ignored_leave_nothing_to_divide_by():
    with pytest.raises(ValueError, match=r"positive denominator; got 0\.0"):
        Problem(net(), "cross_entropy", (X, torch.full_like(Y, -100)))


def test_reading_data_leaves_the_random_streams_alone():
    model = net()
    before = torch.get_rng_state()

    Problem(model, WEIGHTED, DataLoader(Pairs(), batch_size=5, shuffle=True))

    assert torch.equal(torch.get_rng_state(), before)
