"""Checksums notice every change of a value, and nothing else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curvescope._core.fingerprints import _on_device, checksum, combine

DTYPES = [torch.float32, torch.float64, torch.float16, torch.int64, torch.bool]


@given(st.integers(0, 59), st.sampled_from(DTYPES))
def test_one_changed_entry_changes_the_checksum(place, dtype):
    tensor = (torch.arange(60).reshape(3, 20) % 2).to(dtype)
    before = checksum([tensor]), int(_on_device(tensor))

    flat = tensor.reshape(-1)
    flat[place] = ~flat[place] if dtype == torch.bool else flat[place] + 1

    assert checksum([tensor]) != before[0]
    assert int(_on_device(tensor)) != before[1]


def test_the_order_of_entries_and_of_tensors_counts():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0])

    assert checksum([a]) != checksum([b])
    assert checksum([a, b]) != checksum([b, a])
    assert int(_on_device(a)) != int(_on_device(b))


def test_dtype_and_shape_count():
    zeros = torch.zeros(4)

    assert checksum([zeros]) != checksum([zeros.reshape(2, 2)])
    assert checksum([zeros]) != checksum([zeros.double()])


def test_layout_in_memory_does_not_count():
    tensor = torch.randn(3, 4)

    assert checksum([tensor]) == checksum([tensor.T.contiguous().T])


@pytest.mark.parametrize("shape", [(0,), (0, 3), ()])
def test_empty_and_scalar_tensors_have_checksums(shape):
    assert checksum([torch.zeros(shape)]) == checksum([torch.zeros(shape)])


def test_a_write_that_moves_no_version_counter_is_seen():
    parameter = torch.nn.Parameter(torch.ones(5))
    before, version = checksum([parameter]), parameter._version

    parameter.detach().numpy()[2] = 7.0

    assert parameter._version == version
    assert checksum([parameter]) != before


def test_parts_are_told_apart():
    assert combine("ab", "c") != combine("a", "bc")
    assert combine(1) != combine("1")
    assert combine(None) == combine(None)
