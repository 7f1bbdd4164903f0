"""A hash of samples knows neither batches nor order, and notices every change."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curvescope._core.fingerprints import of_samples


def samples(count):
    generator = torch.Generator().manual_seed(count)
    return [
        torch.randn(count, 3, generator=generator),
        torch.randint(0, 5, (count,), generator=generator),
    ]


@given(
    count=st.integers(1, 12), cuts=st.sets(st.integers(1, 11)), seed=st.integers(0, 9)
)
def test_batches_and_order_play_no_part(count, cuts, seed):
    X, y = samples(count)
    whole = of_samples([X, y], count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    edges = [0, *sorted(c for c in cuts if c < count), count]

    parts = [
        of_samples([X[order][a:b], y[order][a:b]], b - a) for a, b in pairwise(edges)
    ]

    assert sum(parts) % 2**64 == whole


@given(place=st.integers(0, 11))
def test_one_entry_or_label_changes_it(place):
    X, y = samples(12)
    before = of_samples([X, y], 12)
    moved, relabelled = X.clone(), y.clone()
    moved.reshape(-1)[place] += 1e-3
    relabelled[place] += 1

    assert of_samples([moved, y], 12) != before
    assert of_samples([X, relabelled], 12) != before


@pytest.mark.parametrize("other", ["dtype", "pairing", "twice", "shared"])
def test_what_else_changes_it(other):
    X, y = samples(4)
    mask = torch.ones(7, dtype=torch.bool)
    before = of_samples([X, y, mask], 4)
    changed = {
        "dtype": lambda: of_samples([X.double(), y, mask], 4),
        "pairing": lambda: of_samples([X.flip(0), y, mask], 4),
        "twice": lambda: of_samples(
            [torch.cat([X, X[:1]]), torch.cat([y, y[:1]]), mask], 5
        ),
        "shared": lambda: of_samples([X, y, ~mask], 4),
    }

    assert changed[other]() != before
