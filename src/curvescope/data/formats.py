"""The official file formats, from bytes to arrays; each reader checks what it reads.

Readers take the file's content and its origin, which they only print.
"""

import gzip
import io
import pickle
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curvescope._core.checks import message
from curvescope._core.imports import require

Bytes = NDArray[np.uint8]
Labels = NDArray[np.int64]
_PIXELS = 3 * 32 * 32


def broken(origin: str, contract: str, reason: str) -> ValueError:
    """Return the error for a file that is not what its name says."""
    remedy = "It may be truncated, damaged or of another kind."
    return ValueError(message("root", contract, f"{origin}: {reason}", remedy))


def read_idx(content: bytes, origin: str) -> Bytes:
    """Read an IDX file of unsigned bytes, gzipped or not.

    Args:
        content: The file.
        origin: Its name, for messages.

    Returns:
        The array, with the shape that the file states.

    Raises:
        ValueError: If the file is not whole or not of this format.

    Example:
        >>> read_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 5, 7]), "labels")
        array([5, 7], dtype=uint8)

    References:
        LeCun, Cortes, Burges: the MNIST database, "File formats".
    """
    contract = "hold whole IDX files"
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise broken(origin, contract, str(error)) from None
    if len(content) < 4 or content[:3] != b"\0\0\x08" or not content[3]:
        reason = f"it begins with {content[:4].hex()!r}, not with '0000080n'"
        raise broken(origin, contract, reason)
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise broken(origin, contract, "it ends within its header")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    size = int(np.prod(shape, dtype=object))
    if len(content) != start + size:
        reason = f"{len(content)} bytes, where its header states {start + size}"
        raise broken(origin, contract, reason)
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def read_cifar_binary(
    content: bytes, origin: str, *, num_labels: int, num_classes: int
) -> tuple[Bytes, Labels]:
    """Read the binary version of CIFAR: records of labels and 3,072 pixels.

    Args:
        content: The file.
        origin: Its name, for messages.
        num_labels: Label bytes in a record: 1 for CIFAR-10, 2 for CIFAR-100 (coarse,
            fine), of which the last is kept.
        num_classes: Number of classes.

    Returns:
        Images ``(n, 3, 32, 32)`` and labels.

    Raises:
        ValueError: If the file is not whole or a label is out of range.

    Example:
        >>> images, labels = read_cifar_binary(
        ...     bytes([7]) + bytes(3072), "batch", num_labels=1, num_classes=10
        ... )
        >>> images.shape, labels
        ((1, 3, 32, 32), array([7]))

    References:
        Krizhevsky (2009), https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".
    """
    contract = "hold whole CIFAR batches in the binary version"
    record = num_labels + _PIXELS
    if not content or len(content) % record:
        reason = f"{len(content)} bytes, which are not records of {record}"
        raise broken(origin, contract, reason)
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    labels = rows[:, num_labels - 1].astype(np.int64)
    _check_labels(labels, num_classes, origin, contract)
    return rows[:, num_labels:].reshape(-1, 3, 32, 32).copy(), labels


def read_cifar_python(
    content: bytes, origin: str, *, label_key: str, num_classes: int
) -> tuple[Bytes, Labels]:
    """Read the python version of CIFAR, by an unpickler that admits only arrays.

    Args:
        content: The file.
        origin: Its name, for messages.
        label_key: ``labels``, or ``fine_labels`` in CIFAR-100.
        num_classes: Number of classes.

    Returns:
        Images ``(n, 3, 32, 32)`` and labels.

    Raises:
        ValueError: If the file is not whole, or holds anything but containers,
            numbers, strings and byte arrays.

    References:
        Krizhevsky (2009), https://www.cs.toronto.edu/~kriz/cifar.html, "Python version".
    """
    contract = "hold whole CIFAR batches in the python version"
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # the opcodes of a damaged file can raise anything
        reason = str(error) or type(error).__name__
        raise broken(origin, contract, reason) from None
    if not isinstance(batch, dict):
        raise broken(origin, contract, f"a pickled {type(batch).__name__}")
    named = {_text(key): value for key, value in batch.items()}
    array, raw_labels = named.get("data"), named.get(label_key)
    images = array.value if isinstance(array, _Array) else None
    if images is None or images.ndim != 2 or images.shape[1] != _PIXELS:
        raise broken(origin, contract, "no rows of 3072 bytes under 'data'")
    if (
        not isinstance(raw_labels, list)
        or len(raw_labels) != len(images)
        or not all(type(label) is int for label in raw_labels)
    ):
        reason = f"no integer for each of the {len(images)} images under {label_key!r}"
        raise broken(origin, contract, reason)
    labels = np.array(raw_labels, dtype=np.int64)
    _check_labels(labels, num_classes, origin, contract)
    return images.reshape(-1, 3, 32, 32), labels


def read_svhn(content: bytes, origin: str) -> tuple[Bytes, Labels]:
    """Read an SVHN file of format 2 (cropped digits, ``.mat``).

    Args:
        content: The file.
        origin: Its name, for messages.

    Returns:
        Images ``(n, 3, 32, 32)`` and labels; the file's label 10 is the digit 0.

    Raises:
        MissingExtraError: If SciPy is not installed.
        ValueError: If the file is not whole or not of this format.

    References:
        Netzer et al. (2011), http://ufldl.stanford.edu/housenumbers/.
    """
    scipy_io = require("scipy.io", extra="experiments", purpose="SVHN's format")
    contract = "hold whole SVHN files (.mat, cropped digits)"
    try:
        found = scipy_io.loadmat(io.BytesIO(content), variable_names=["X", "y"])
        pixels, digits = found["X"], found["y"].reshape(-1)
    except Exception as error:  # scipy raises all kinds on damaged files
        reason = str(error) or type(error).__name__
        raise broken(origin, contract, reason) from None
    shape_fits = pixels.ndim == 4 and pixels.shape == (32, 32, 3, len(digits))
    if not shape_fits or pixels.dtype != np.uint8:
        reason = f"X of shape {pixels.shape} with {len(digits)} labels"
        raise broken(origin, contract, reason)
    labels = np.where(digits == 10, 0, digits).astype(np.int64)
    _check_labels(labels, 10, origin, contract)
    return np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)), labels


def _check_labels(labels: Labels, num_classes: int, origin: str, contract: str) -> None:
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        reason = (
            f"labels from {labels.min()} to {labels.max()}, where there are "
            f"{num_classes} classes"
        )
        raise broken(origin, contract, reason)


def _text(key: Any) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


class _Dtype:
    """Stands in for ``numpy.dtype``: remembers its name and runs nothing."""

    def __init__(self, name: Any = "", *_: Any) -> None:
        self.name = _text(name)

    def __setstate__(self, state: Any) -> None:
        pass


class _Array:
    """Stands in for ``numpy.ndarray``: makes an array of bytes, and no other."""

    value: Bytes | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, _Dtype) or dtype.name not in ("u1", "|u1"):
            text = "an array that is not of bytes"
            raise pickle.UnpicklingError(text)
        flat = np.frombuffer(content, np.uint8)
        if fortran:
            flat = flat.reshape(shape[::-1]).T
        self.value = np.ascontiguousarray(flat.reshape(shape))


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    """Undo what Python 3 does to bytes in old protocols."""
    if encoding != "latin1":
        message_text = f"an encoding that is not latin1 ({encoding!r})"
        raise pickle.UnpicklingError(message_text)
    return text.encode("latin1")


_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Admits containers, numbers, strings and stand-ins for arrays; calls no library."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of an admitted name; refuse all others."""
        try:
            return _ADMITTED[module, name]
        except KeyError:
            text = f"refused to unpickle {module}.{name}, which is not an array"
            raise pickle.UnpicklingError(text) from None


def joined(parts: list[tuple[Bytes, Labels]]) -> tuple[Bytes, Labels]:
    """Put the images and labels of several files behind each other."""
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)
