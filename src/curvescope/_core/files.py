"""Atomic files: a reader sees the old content or the new, never a part."""

import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes


def write_bytes(path: Path, content: bytes) -> Path:
    """Write ``content`` to ``path`` by a rename, so that a kill leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def write_text(path: Path, content: str) -> Path:
    """Write ``content`` as UTF-8, atomically."""
    return write_bytes(path, content.encode("utf-8"))


def _encode(value: Any) -> Any:
    """Make ``value`` strict JSON: infinities and NaN become tagged strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if isinstance(value, Mapping):
        return {str(key): _encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"float"} and isinstance(value["float"], str):
            return float(value["float"])
        return {key: _decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return value


def write_json(path: Path, content: Any) -> Path:
    """Write ``content`` as strict JSON, atomically."""
    text = json.dumps(_encode(content), indent=2, allow_nan=False, sort_keys=False)
    return write_text(path, text + "\n")


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote."""
    return _decode(json.loads(path.read_text(encoding="utf-8")))


def json_line(content: Any) -> str:
    """Return ``content`` as strict JSON on one line, for files that grow by lines."""
    return json.dumps(_encode(content), allow_nan=False)


def read_json_line(line: str) -> Any:
    """Read what `json_line` wrote."""
    return _decode(json.loads(line))


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    """Write named tensors as safetensors, atomically."""
    ready = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    return write_bytes(path, safetensors_bytes(ready))


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read named tensors; the format holds no code.

    Raises:
        ValueError: If the file is not whole.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        text = f"`{path}` must be a whole safetensors file; got {error}."
        raise ValueError(text) from None
