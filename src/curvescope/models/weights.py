"""Weights from a file into a network: all of them or none, and never by pickle."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from curvescope._core import files
from curvescope._core.checks import message

_TORCH_SUFFIXES = (".pt", ".pth", ".th", ".bin", ".ckpt")
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
_SHOWN = 3


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a file's weights into ``model``; on any error the model is as before.

    A state dict may lie under ``state_dict``, ``model_state_dict`` or ``model`` of a
    checkpoint, and its keys may carry the prefixes ``module.`` (data parallel) and
    ``_orig_mod.`` (compiled). Batch normalisation's counters may be missing (files from
    before torch 0.4.1), and so may a tied tensor whose partner is there.

    Args:
        model: The network, on any device.
        path: A ``.safetensors`` file, or ``.pt``, ``.pth``, ``.th``, ``.bin``, ``.ckpt``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not whole, holds pickled objects, or belongs to
            another architecture.

    Cost:
        One copy of the weights beside the model's own.

    Example:
        >>> import tempfile
        >>> net = nn.Linear(2, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(net.state_dict(), f"{folder}/net.pt")
        ...     load_weights(nn.Linear(2, 1), f"{folder}/net.pt")
    """
    place = Path(path).expanduser()
    content = read_weights(place)
    own = model.state_dict()
    state = _match_names(content, own)
    _check(state, own, place)
    before = {key: value.clone() for key, value in own.items() if _is_tensor(value)}
    try:
        with torch.no_grad():
            model.load_state_dict(state, strict=False)
    except Exception as error:
        model.load_state_dict(before, strict=False)
        got = f"{place} ({error})"
        raise ValueError(message("path", "hold weights of this model", got)) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file's state dict, with the keys that it has.

    Args:
        path: The file.

    Returns:
        Names and tensors, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is of no known kind, not whole, or holds pickled objects.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "net.pt"
        ...     torch.save({"state_dict": {"weight": torch.ones(2)}}, file)
        ...     read_weights(file)
        {'weight': tensor([1., 1.])}
    """
    if not path.is_file():
        raise FileNotFoundError(message("path", "name an existing file", str(path)))
    if path.suffix == ".safetensors":
        return files.read_tensors(path)
    if path.suffix not in _TORCH_SUFFIXES:
        known = ", ".join((".safetensors", *_TORCH_SUFFIXES))
        raise ValueError(message("path", f"end in one of {known}", path.name))
    return _state_of(_unpickle(path), path)


def _unpickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if re.search(r"GLOBAL [\w.]*\w\b(?!\.)", str(error)):
            remedy = (
                "Save a state dict instead: torch.save(model.state_dict(), file). "
                "Unpickling an object would run code from the file."
            )
            contract = "hold tensors only"
            got = f"pickled objects in {path}"
            raise ValueError(message("path", contract, got, remedy)) from None
        raise _broken(path, "not what torch.save writes") from None
    except Exception as error:
        first = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        raise _broken(path, first or type(error).__name__) from None


def _broken(path: Path, reason: str) -> ValueError:
    contract = "be a whole file of weights"
    got = f"{path}, which cannot be read ({reason})"
    remedy = "It may be truncated, damaged or of another kind."
    return ValueError(message("path", contract, got, remedy))


def _state_of(content: Any, path: Path) -> dict[str, Tensor]:
    """Find the state dict in a checkpoint."""
    if isinstance(content, Mapping):
        for wrapper in _WRAPPERS:
            if isinstance(content.get(wrapper), Mapping):
                content = content[wrapper]
                break
    tensors = isinstance(content, Mapping) and all(
        isinstance(key, str) and isinstance(value, Tensor)
        for key, value in content.items()
    )
    if not tensors or not content:
        got = type(content).__name__
        if isinstance(content, Mapping):
            keys = ", ".join(str(key) for key in list(content)[:6])
            got = f"a mapping with the keys {keys or '(none)'}"
        wrappers = ", ".join(_WRAPPERS)
        contract = f"hold a state dict, bare or under one of {wrappers} ({path})"
        raise ValueError(message("path", contract, got))
    return dict(content)


def _match_names(
    content: dict[str, Tensor], own: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Take prefixes off the keys, unless the model itself has them."""
    state = content
    while state and not set(state) & set(own):
        for prefix in _PREFIXES:
            if all(key.startswith(prefix) for key in state):
                state = {key[len(prefix) :]: value for key, value in state.items()}
                break
        else:
            break
    return state


def _check(state: dict[str, Tensor], own: Mapping[str, Any], path: Path) -> None:
    """Compare names, shapes and kinds before anything is written."""
    places = {_place(own[key]) for key in state if _is_tensor(own.get(key))}
    missing = [
        key
        for key, value in own.items()
        if key not in state
        and not key.endswith("num_batches_tracked")
        and not (_is_tensor(value) and value.numel() and _place(value) in places)
    ]
    unexpected = [key for key in state if key not in own]
    misshaped = [
        f"{key} {tuple(value.shape)} for {tuple(own[key].shape)}"
        for key, value in state.items()
        if _is_tensor(own.get(key)) and value.shape != own[key].shape
    ]
    mistyped = [
        f"{key} {value.dtype} for {own[key].dtype}"
        for key, value in state.items()
        if _is_tensor(own.get(key)) and _kind(value) != _kind(own[key])
    ]
    found = {
        "missing": missing,
        "unexpected": unexpected,
        "of another shape": misshaped,
        "of another kind": mistyped,
    }
    texts = [_some(label, keys) for label, keys in found.items() if keys]
    if texts:
        contract = f"hold weights of this model's architecture ({path})"
        got = f"keys {'; '.join(texts)}"
        raise ValueError(message("path", contract, got))


def _some(label: str, keys: list[str]) -> str:
    rest = len(keys) - _SHOWN
    more = f" and {rest} more" if rest > 0 else ""
    return f"{label}: {', '.join(keys[:_SHOWN])}{more}"


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _place(value: Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Tell tied tensors by where they lie."""
    return value.data_ptr(), tuple(value.shape), value.stride()


def _kind(value: Tensor) -> str:
    if value.is_complex():
        return "complex"
    return "real" if value.is_floating_point() else "integer"
