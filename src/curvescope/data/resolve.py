"""Data from what stands on a command line: a name, an import path, a text."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset, Subset

from curvescope._core import imports
from curvescope._core.checks import message
from curvescope.data.images import first_count
from curvescope.data.sets import load, names
from curvescope.data.text import load_text

_TEXT = "text:"


def resolve(
    spec: str,
    *,
    root: str | Path | None = None,
    split: str | None = None,
    num_samples: int | None = None,
    normalize: str | None = None,
    download: bool = True,
    vocab: str | Path | None = None,
    context: int | None = None,
) -> Any:
    """Return the data that ``spec`` names.

    Options that were given must have a meaning: one that the data cannot honour is an
    error, never passed over.

    Args:
        spec: A data set's name; ``text:FILE``; or ``package.module:callable`` or
            ``path/file.py:callable`` (a function, or ready data). A callable is given
            those of ``root, split, num_samples, normalize`` that it has parameters for.
        root: The folder that holds one folder a set.
        split: ``train`` or ``test``; ``train`` for a named set if ``None``.
        num_samples: Only the first so many samples (of a text: windows).
        normalize: Name of pixel statistics.
        download: Whether absent files of a named set may be downloaded.
        vocab: JSON file from characters to ids, for a text.
        context: Length of a text's windows; 32 if ``None``.

    Returns:
        A ``Dataset``, a ``DataLoader``, or whatever batches the callable returns.

    Raises:
        FileNotFoundError: If a file does not exist.
        TypeError: If the callable returns something that holds no batches.
        ValueError: If a name or option is unknown, or the callable raises.

    Example:
        >>> len(resolve("digits", split="test", num_samples=20))
        20
    """
    files = {"root": root, "split": split, "normalize": normalize}
    text = {"vocab": vocab, "context": context}
    if spec.startswith(_TEXT):
        _refuse(files, "a text has none")
        return load_text(
            spec.removeprefix(_TEXT),
            vocabulary=vocab,
            context=32 if context is None else context,
            num_samples=num_samples,
        )
    _refuse(text, "only a text has one")
    if imports.is_object(spec):
        return _user(spec, {**files, "num_samples": num_samples})
    if spec not in names():
        contract = (
            f"be one of {', '.join(names())}, `text:FILE`, `package.module:callable` "
            "or `file.py:callable`"
        )
        raise ValueError(message("data", contract, repr(spec)))
    return load(
        spec,
        root=root,
        split="train" if split is None else split,
        num_samples=num_samples,
        download=download,
        normalize=normalize,
    )


def _refuse(options: Mapping[str, Any], why: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise ValueError(message(name, f"not be given here: {why}", repr(value)))


def _user(spec: str, options: dict[str, Any]) -> Any:
    given = {name: value for name, value in options.items() if value is not None}
    with imports.importable(spec):
        found = imports.load_object(spec, argument="data")
        passed: dict[str, Any] = {}
        if callable(found) and not isinstance(found, (Dataset, DataLoader)):
            passed = {k: v for k, v in given.items() if k in _parameters(found)}
            made = imports.call_object(found, passed, spec=spec, argument="data")
        else:
            made = found
    left = {name: value for name, value in given.items() if name not in passed}
    if not _holds_batches(made):
        contract = f"name data: a Dataset, a DataLoader or batches ({spec})"
        raise TypeError(message("data", contract, type(made).__name__))
    if "num_samples" in left and isinstance(made, Dataset) and hasattr(made, "__len__"):
        count = first_count(left.pop("num_samples"), len(made), spec)
        made = Subset(made, range(count))
    _refuse(left, f"{spec} has no parameter of this name")
    return made


def _parameters(function: Any) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except ValueError:  # a builtin without a signature
        return ()


def _holds_batches(value: Any) -> bool:
    if isinstance(value, (str, bytes, type)):
        return False
    return isinstance(value, (Dataset, DataLoader)) or hasattr(value, "__iter__")
