"""One wording for wrong arguments: ``"`argument` must <contract>; got <value>. <remedy>"``.

Checks run at the public boundary; inner code trusts its input.
"""

import math
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Kind = TypeVar("Kind")


def message(argument: str, contract: str, got: object, remedy: str = "") -> str:
    """Return the house's error text."""
    text = f"`{argument}` must {contract}; got {got}."
    return f"{text} {remedy}" if remedy else text


def describe(value: object) -> str:
    """Describe a value without printing a tensor's entries."""
    if isinstance(value, Tensor):
        shape = tuple(value.shape)
        return f"a tensor of shape {shape}, {value.dtype} on {value.device}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def positive_int(
    argument: str, value: Any, *, minimum: int = 1, remedy: str = ""
) -> int:
    """Return ``value`` as an ``int`` of at least ``minimum``."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(message(argument, "be an integer", describe(value), remedy))
    number = int(value.__index__())
    if number < minimum:
        raise ValueError(message(argument, f"be at least {minimum}", number, remedy))
    return number


def real(
    argument: str,
    value: Any,
    *,
    minimum: float | None = None,
    strict: bool = False,
    remedy: str = "",
) -> float:
    """Return ``value`` as a finite ``float``, above ``minimum`` where one is given."""
    if isinstance(value, (bool, np.bool_, str, bytes)):  # `float` would take these
        raise TypeError(message(argument, "be a number", describe(value), remedy))
    try:
        number = float(value)
    except (TypeError, ValueError):
        text = message(argument, "be a number", describe(value), remedy)
        raise TypeError(text) from None
    if not math.isfinite(number):
        raise ValueError(message(argument, "be finite", number, remedy))
    if minimum is not None and (number < minimum or (strict and number == minimum)):
        relation = "above" if strict else "at least"
        text = message(argument, f"be {relation} {minimum:g}", number, remedy)
        raise ValueError(text)
    return number


def real_tensor(argument: str, value: Any, *, remedy: str = "") -> Tensor:
    """Return real numbers of any shape, float64 on the CPU, without their graph.

    Nothing is dropped on the way: neither imaginary parts nor digits of a list's.
    """
    contract = "hold real numbers"
    if isinstance(value, Tensor):
        if value.is_complex():
            remedy = remedy or "Pass real and imaginary parts, each as real numbers."
            raise TypeError(message(argument, contract, describe(value), remedy))
        return value.detach().to(device="cpu", dtype=torch.float64)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # rows of different lengths
        text = message(argument, contract, describe(value), remedy)
        raise TypeError(text) from None
    if array.dtype.kind not in "biuf":
        if array.dtype.kind == "c":
            remedy = remedy or "Pass real and imaginary parts, each as real numbers."
        raise TypeError(message(argument, contract, describe(value), remedy))
    return torch.from_numpy(array.astype(np.float64))


def instance(
    argument: str, value: Any, kinds: type[Kind] | tuple[type[Kind], ...], remedy: str
) -> Kind:
    """Return ``value`` if it is of one of these classes."""
    if isinstance(value, kinds):
        return value
    each = kinds if isinstance(kinds, tuple) else (kinds,)
    names = [kind.__name__ for kind in each]
    articles = ["an" if name[0] in "AEIOUaeio" else "a" for name in names]
    pairs = zip(articles, names, strict=True)
    contract = f"be {' or '.join(' '.join(pair) for pair in pairs)}"
    raise TypeError(message(argument, contract, describe(value), remedy))


def writable_folder(argument: str, value: Any) -> Path:
    """Return a folder as a path, made if it is not there.

    Raises:
        TypeError: If it is no path.
        OSError: If it cannot be made or written into.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(message(argument, "be a path", describe(value)))
    path, reason = Path(value), "no permission to write"
    try:
        path.mkdir(parents=True, exist_ok=True)
        good = os.access(path, os.W_OK | os.X_OK)
    except OSError as error:
        good, reason = False, error.strerror or str(error)
    if not good:
        contract = "be a folder that can be made and written into"
        raise OSError(message(argument, contract, f"{str(path)!r} ({reason})"))
    return path


def one_of(argument: str, value: Any, options: Collection[Any]) -> Any:
    """Return ``value`` if it is among ``options``."""
    if value not in options:
        names = ", ".join(repr(option) for option in options)
        raise ValueError(message(argument, f"be one of {names}", describe(value)))
    return value


def unique(argument: str, values: Iterable[str]) -> tuple[str, ...]:
    """Return ``values`` as a tuple without repetitions."""
    names = tuple(values)
    if len(set(names)) != len(names):
        raise ValueError(message(argument, "have no repetition", describe(names)))
    return names
