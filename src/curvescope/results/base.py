"""Frozen results: value, error, cost, unit, and what they are of.

A result knows how to print, save and load itself (JSON and safetensors, no pickle);
it never reaches back into a problem, and it computes no products with a matrix.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import Tensor

from curvescope._core import files
from curvescope._core.checks import message
from curvescope.results.text import format_table, html_table

_KINDS: dict[str, type] = {}


@dataclass(frozen=True, kw_only=True)
class ParamSlice:
    """One parameter's place in the flat vector: entries ``start`` to ``stop``."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]

    @property
    def num_params(self) -> int:
        """Number of entries."""
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a matrix is of, and in which unit its entries are.

    Attributes:
        matrix: The matrix's name in the glossary, such as ``"Hessian"``.
        description: One line for a reader: model, loss, data.
        reduction: ``"mean"`` or ``"sum"`` for a network, ``""`` for a plain matrix.
        unit: The unit of an eigenvalue in words.
        num_params: The dimension.
        num_samples: Data points; ``None`` for a plain matrix.
        denominator: What the summed loss was divided by; ``None`` likewise.
        slices: The named parameters, in the order of the flat vector.
        fingerprint: Hash of weights, buffers, data, loss and selection.
    """

    matrix: str = "matrix"
    description: str = "plain matrix"
    reduction: str = ""
    unit: str = "the matrix's own"
    num_params: int = 0
    num_samples: int | None = None
    denominator: float | None = None
    slices: tuple[ParamSlice, ...] = ()
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a result cost.

    Attributes:
        num_matvecs: Products with the operator over the whole data, one per column.
        num_data_passes: Passes over the data; a block of columns shares one.
        seconds: Wall time.
        peak_memory: Peak bytes of the process (CPU) or the allocator (GPU) at the end.
    """

    num_matvecs: int = 0
    num_data_passes: int = 0
    seconds: float = 0.0
    peak_memory: int | None = None

    def __add__(self, other: Self) -> Self:
        peaks = [p for p in (self.peak_memory, other.peak_memory) if p is not None]
        return type(self)(
            num_matvecs=self.num_matvecs + other.num_matvecs,
            num_data_passes=self.num_data_passes + other.num_data_passes,
            seconds=self.seconds + other.seconds,
            peak_memory=max(peaks) if peaks else None,
        )

    def __str__(self) -> str:
        passes = f" in {self.num_data_passes} passes over the data"
        peak = (
            "" if not self.peak_memory else f", peak {self.peak_memory / 2**30:.2g} GiB"
        )
        work = f"{self.num_matvecs} matrix products{passes if self.num_data_passes else ''}"
        if self.num_data_passes and not self.num_matvecs:  # such as a training
            work = f"{self.num_data_passes} passes over the data"
        return f"{work}, {self.seconds:.3g} s{peak}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What every result carries.

    Attributes:
        of: What the result is of, and its unit.
        cost: What it cost.
        settings: The arguments that it was computed with, the seed among them.
        notes: Remarks a reader of the number must see, such as "not converged".
    """

    of: Provenance = field(default_factory=Provenance)
    cost: Cost = field(default_factory=Cost)
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _KINDS[cls.__name__] = cls

    def rows(self) -> list[dict[str, Any]]:
        """Return the table: one dictionary a row, in the words of the glossary."""
        return []

    def headline(self) -> str:
        """Return the result in one line."""
        return type(self).__name__

    def save(self, folder: str | Path, name: str) -> Path:
        """Save into ``folder`` as ``name.json`` and ``name.safetensors``.

        Returns:
            The path of the JSON file.
        """
        folder = Path(folder)
        tensors: dict[str, Tensor] = {}
        content = {"kind": type(self).__name__, "fields": _pack(self, tensors)}
        if tensors:
            files.write_tensors(folder / f"{name}.safetensors", tensors)
        return files.write_json(folder / f"{name}.json", content)

    def __str__(self) -> str:
        return format_table(self.headline(), self.rows(), self.notes, str(self.cost))

    def _repr_html_(self) -> str:
        return html_table(self.headline(), self.rows())


def load(folder: str | Path, name: str) -> Result:
    """Load the result that was saved as ``name`` in ``folder``; runs no code.

    Raises:
        FileNotFoundError: If there is no such result.
        ValueError: If the file is of an unknown kind.
    """
    path = Path(folder) / f"{name}.json"
    if not path.exists():
        text = message("name", "be a saved result", str(path), "There is no such file.")
        raise FileNotFoundError(text)
    content = files.read_json(path)
    kind = _KINDS.get(content.get("kind"))
    if kind is None:
        text = message("name", f"be one of {sorted(_KINDS)}", content.get("kind"))
        raise ValueError(text)
    tensor_path = path.with_suffix(".safetensors")
    tensors = files.read_tensors(tensor_path) if tensor_path.exists() else {}
    result: Result = _unpack_result(kind, content["fields"], tensors)
    return result


def _pack(value: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """Turn a field into JSON; tensors go into ``tensors`` under their path."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, Result) and path:
        inner = _pack_fields(value, tensors, path)
        return {"result": type(value).__name__, "fields": inner}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _pack_fields(value, tensors, path)
    if isinstance(value, Mapping):
        return {str(k): _pack(v, tensors, f"{path}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_pack(v, tensors, f"{path}.{i}") for i, v in enumerate(value)]
    if isinstance(value, np.generic):
        # An integer of NumPy's is none of Python's, and would become text.
        return _pack(value.item(), tensors, path)
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return str(value)


def _pack_fields(value: Any, tensors: dict[str, Tensor], path: str) -> dict[str, Any]:
    prefix = f"{path}." if path else ""
    return {
        f.name: _pack(getattr(value, f.name), tensors, prefix + f.name)
        for f in dataclasses.fields(value)
    }


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        # A mapping may have these words as its own keys: its values are no text then.
        if set(value) == {"tensor"} and isinstance(value["tensor"], str):
            return tensors[value["tensor"]]
        if set(value) == {"result", "fields"} and isinstance(value["result"], str):
            return _unpack_result(_KINDS[value["result"]], value["fields"], tensors)
        return {k: _unpack(v, tensors) for k, v in value.items()}
    if isinstance(value, list):
        return tuple(_unpack(v, tensors) for v in value)
    return value


def _unpack_result(
    kind: type, fields: dict[str, Any], tensors: Mapping[str, Tensor]
) -> Any:
    values = {name: _unpack(value, tensors) for name, value in fields.items()}
    known = {f.name for f in dataclasses.fields(kind)}
    values = {name: value for name, value in values.items() if name in known}
    if isinstance(values.get("of"), dict):
        of = dict(values["of"])
        of["slices"] = tuple(ParamSlice(**s) for s in of.get("slices", ()))
        values["of"] = Provenance(**of)
    if isinstance(values.get("cost"), dict):
        values["cost"] = Cost(**values["cost"])
    for name, row_type in getattr(kind, "NESTED", {}).items():
        # Results saved before a field was added lack it.
        values[name] = tuple(row_type(**row) for row in values.get(name, ()))
    return kind(**values)
