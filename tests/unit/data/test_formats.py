"""Readers of the official formats, on tiny files made by hand."""

import gzip
import io
import os
import pickle
import struct
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from curvescope.data import formats


def idx(array):
    """Write an IDX file of unsigned bytes, as its specification says."""
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


def _op(text):
    """SHORT_BINSTRING: Python 2's `str`."""
    raw = text if isinstance(text, bytes) else text.encode()
    return b"U" + bytes([len(raw)]) + raw


def _global(module, name):
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def _integer(value):
    return b"J" + struct.pack("<i", value)


def python2_pickle(rows, labels, label_key="labels", dtype="u1", shape=None):
    """Write a batch opcode by opcode, as Python 2's pickle did with protocol 2."""
    shape = rows.shape if shape is None else shape
    array = (
        _global("numpy.core.multiarray", "_reconstruct")
        + _global("numpy", "ndarray")
        + (_integer(0) + b"\x85" + _op("b") + b"\x87R")
        + (b"(" + _integer(1) + _integer(shape[0]) + _integer(shape[1]) + b"\x86")
        + (_global("numpy", "dtype") + _op(dtype) + _integer(0) + _integer(1))
        + (b"\x87R(" + _integer(3) + _op("|") + b"NNN" + _integer(-1) * 2)
        + (_integer(0) + b"tb\x89")
        + (b"T" + struct.pack("<i", rows.size) + rows.tobytes() + b"tb")
    )
    numbers = b"](" + b"".join(_integer(int(label)) for label in labels) + b"e"
    return (
        (b"\x80\x02}(" + _op("batch_label") + _op("batch 1 of 5"))
        + (_op("data") + array + _op(label_key) + numbers)
        + (_op("filenames") + b"](" + _op("a.png") * len(labels) + b"eu.")
    )


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (5, 3072), dtype=np.uint8), np.array([3, 0, 9, 1, 1])


@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, max_side=4)),
    st.booleans(),
)
def test_idx_files_of_any_shape_are_read_back(array, packed):
    content = gzip.compress(idx(array)) if packed else idx(array)

    read = formats.read_idx(content, "here")

    np.testing.assert_array_equal(read, array)


@given(st.integers(0, 40), st.booleans())
def test_an_idx_file_cut_anywhere_is_refused(length, packed):
    whole = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    content = gzip.compress(whole) if packed else whole
    length = min(length, len(content) - 1)

    with pytest.raises(ValueError, match="`root` must hold whole IDX files; got here:"):
        formats.read_idx(content[:length], "here")


def test_an_idx_file_with_bytes_too_many_or_of_another_type_is_refused():
    whole = idx(np.zeros((2, 2), np.uint8))

    with pytest.raises(ValueError, match="17 bytes, where its header states 16"):
        formats.read_idx(whole + b"\0", "here")
    with pytest.raises(ValueError, match="it begins with '00000d02'"):
        formats.read_idx(b"\0\0\x0d" + whole[3:], "here")


def test_a_huge_shape_in_an_idx_header_does_not_overflow():
    header = b"\0\0\x08\x03" + struct.pack(">3I", 2**31, 2**31, 4)

    with pytest.raises(ValueError, match="header states 18446744073709551632"):
        formats.read_idx(header, "here")


@pytest.mark.parametrize(("num_labels", "num_classes"), [(1, 10), (2, 100)])
def test_the_binary_version_of_cifar_is_read(batch, num_labels, num_classes):
    pixels, labels = batch
    columns = [np.full((5, 1), 17, np.uint8)] * (num_labels - 1)
    records = np.hstack([*columns, labels[:, None].astype(np.uint8), pixels])

    images, read = formats.read_cifar_binary(
        records.tobytes(), "here", num_labels=num_labels, num_classes=num_classes
    )

    np.testing.assert_array_equal(read, labels)
    # The first 1,024 bytes are red, row by row.
    assert images[1, 0, 2, 5] == pixels[1, 2 * 32 + 5]
    assert images[4, 2, 31, 31] == pixels[4, 3071]


def test_a_binary_batch_that_is_cut_or_has_wrong_labels_is_refused(batch):
    pixels, _ = batch
    records = np.hstack([np.full((5, 1), 10, np.uint8), pixels]).tobytes()
    options = {"num_labels": 1, "num_classes": 10}

    with pytest.raises(ValueError, match="not records of 3073"):
        formats.read_cifar_binary(records[:-1], "here", **options)
    with pytest.raises(ValueError, match="0 bytes"):
        formats.read_cifar_binary(b"", "here", **options)
    with pytest.raises(ValueError, match=r"labels from 10 to 10, where .* 10 classes"):
        formats.read_cifar_binary(records, "here", **options)


def test_the_hand_made_pickle_is_one(batch):
    pixels, labels = batch
    content = python2_pickle(pixels, labels)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy renamed the module
        plain = pickle.loads(content, encoding="bytes")

    np.testing.assert_array_equal(plain[b"data"], pixels)


@pytest.mark.parametrize("key", ["labels", "fine_labels"])
def test_the_python_version_of_cifar_is_read(batch, key):
    pixels, labels = batch

    images, read = formats.read_cifar_python(
        python2_pickle(pixels, labels, key), "here", label_key=key, num_classes=10
    )

    np.testing.assert_array_equal(images, pixels.reshape(5, 3, 32, 32))
    np.testing.assert_array_equal(read, labels)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("key", [b"%s", "%s"], ids=["bytes", "str"])
def test_batches_pickled_by_python_3_are_read_too(batch, protocol, order, key):
    pixels, labels = batch
    kind = type(key)
    names = [name if kind is str else name.encode() for name in ("data", "labels")]
    content = pickle.dumps(
        {names[0]: np.array(pixels, order=order), names[1]: labels.tolist()},
        protocol=protocol,
    )

    images, read = formats.read_cifar_python(
        content, "here", label_key="labels", num_classes=10
    )

    np.testing.assert_array_equal(images.reshape(5, -1), pixels)
    np.testing.assert_array_equal(read, labels)


class Payload:
    """Would make a folder when unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, batch, protocol):
    witness = tmp_path / "ran"
    pixels, labels = batch
    for payload in (Payload(os.mkdir, str(witness)), Payload(eval, "1 / 0")):
        content = pickle.dumps(
            {b"data": pixels, b"labels": labels.tolist(), b"more": payload},
            protocol=protocol,
        )

        with pytest.raises(ValueError, match=r"refused to unpickle .*not an array"):
            formats.read_cifar_python(
                content, "here", label_key="labels", num_classes=10
            )

    assert not witness.exists()


def test_nothing_of_numpy_runs_while_a_pickle_is_read(batch):
    # Arrays of objects, and those larger than the file, never get as far as numpy.
    pixels, labels = batch

    for content in (
        python2_pickle(pixels, labels, dtype="O"),
        python2_pickle(pixels, labels, dtype="f8"),
        python2_pickle(pixels, labels, shape=(2**31 - 1, 3072)),
    ):
        with pytest.raises(ValueError, match="hold whole CIFAR batches"):
            formats.read_cifar_python(
                content, "here", label_key="labels", num_classes=10
            )


@given(st.integers(0, 15_600))
def test_a_python_batch_cut_anywhere_is_refused(length):
    content = python2_pickle(np.zeros((5, 3072), np.uint8), np.arange(5))

    with pytest.raises(ValueError, match="hold whole CIFAR batches in the python"):
        formats.read_cifar_python(
            content[: min(length, len(content) - 1)],
            "here",
            label_key="labels",
            num_classes=10,
        )


def test_a_pickle_of_something_else_is_refused(batch):
    pixels, labels = batch

    for content, message in (
        (pickle.dumps([1, 2]), "a pickled list"),
        (pickle.dumps({"labels": [1]}), "no rows of 3072 bytes"),
        (python2_pickle(pixels[:, :3], labels), "no rows of 3072 bytes"),
        (python2_pickle(pixels, labels[:3]), "no integer for each of the 5 images"),
        (python2_pickle(pixels, labels, "names"), "under 'labels'"),
        (python2_pickle(pixels, labels + 1), "labels from 1 to 10"),
    ):
        with pytest.raises(ValueError, match=message):
            formats.read_cifar_python(
                content, "here", label_key="labels", num_classes=10
            )


def test_svhn_files_are_read_with_ten_as_the_digit_zero():
    scipy_io = pytest.importorskip("scipy.io")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    digits = np.array([[1], [10], [9], [10]], np.uint8)
    file = io.BytesIO()
    scipy_io.savemat(file, {"X": pixels, "y": digits})

    images, labels = formats.read_svhn(file.getvalue(), "here")

    np.testing.assert_array_equal(labels, [1, 0, 9, 0])
    assert images.shape == (4, 3, 32, 32)
    assert images[2, 1, 7, 8] == pixels[7, 8, 1, 2]


def test_an_svhn_file_that_is_cut_or_another_one_is_refused():
    scipy_io = pytest.importorskip("scipy.io")
    file = io.BytesIO()
    scipy_io.savemat(file, {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.ones(3)})
    other = io.BytesIO()
    scipy_io.savemat(other, {"Z": np.zeros(3)})
    contract = "hold whole SVHN files .*here: "

    with pytest.raises(ValueError, match=contract):
        formats.read_svhn(file.getvalue()[:300], "here")
    with pytest.raises(ValueError, match=contract + ".*with 3 labels"):
        formats.read_svhn(file.getvalue(), "here")
    with pytest.raises(ValueError, match=contract):
        formats.read_svhn(other.getvalue(), "here")
