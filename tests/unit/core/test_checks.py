"""Numbers, tensors and folders at the public boundary: taken whole, or refused by name."""

import numpy as np
import pytest
import torch

from curvescope._core.checks import instance, real, real_tensor, writable_folder


@pytest.mark.parametrize("value", ["1", b"1", True, np.True_, None, 1j, [1.0, 2.0]])
def test_what_is_no_number_is_not_made_one(value):
    with pytest.raises(TypeError, match="`x` must be a number"):
        real("x", value)


@pytest.mark.parametrize("value", [1, 1.0, np.float32(1), torch.tensor(1.0)])
def test_every_kind_of_number_is_taken(value):
    assert real("x", value) == 1.0


@pytest.mark.parametrize(
    "value",
    [
        [0.1, 3],
        (0.1, 3.0),
        np.array([0.1, 3]),
        torch.tensor([0.1, 3], dtype=torch.float64),
    ],
)
def test_real_numbers_keep_all_their_digits(value):
    found = real_tensor("x", value)

    assert found.dtype == torch.float64
    assert found.tolist() == [0.1, 3.0]


def test_a_tensor_loses_its_graph_and_nothing_is_shared_with_an_array():
    array = np.ones(3)
    found = real_tensor("x", array)
    found += 1.0

    assert array.tolist() == [1.0, 1.0, 1.0]
    assert not real_tensor("x", torch.ones(2, requires_grad=True)).requires_grad


@pytest.mark.parametrize("value", [1j, torch.ones(2) * 1j])
def test_imaginary_parts_are_not_dropped(value):
    with pytest.raises(TypeError, match=r"`x` must hold real numbers.*Pass real and"):
        real_tensor("x", value)


def test_a_class_is_named_where_another_thing_was_passed():
    assert instance("x", 3, (int, str), "") == 3
    with pytest.raises(
        TypeError, match=r"`x` must be an int or a str; got None\. Do it"
    ):
        instance("x", None, (int, str), "Do it.")


def test_a_folder_is_made_and_a_file_in_its_place_is_refused(tmp_path):
    assert writable_folder("x", str(tmp_path / "a" / "b")).is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="`x` must be a folder that can be made"):
        writable_folder("x", tmp_path / "file")
