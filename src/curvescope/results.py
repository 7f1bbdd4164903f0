"""Frozen results: value, error, cost, unit, and what they are of.

A result knows how to print, save and load itself (JSON and safetensors, no pickle);
it never reaches back into a problem, and it computes no products with a matrix.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from curvescope._core import files
from curvescope._core.checks import message

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
        return (
            f"{self.num_matvecs} matrix products in {self.num_data_passes} passes "
            f"over the data, {self.seconds:.3g} s"
        )


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
    return _unpack_result(kind, content["fields"], tensors)


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
        if set(value) == {"tensor"}:
            return tensors[value["tensor"]]
        if set(value) == {"result", "fields"}:
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
    row_type = getattr(kind, "ROW", None)
    if row_type is not None:
        values["layers"] = tuple(row_type(**row) for row in values["layers"])
    return kind(**values)


def format_number(value: Any) -> str:
    """Write one table cell."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def format_table(
    headline: str, rows: list[dict[str, Any]], notes: tuple[str, ...], cost: str
) -> str:
    """Lay out a result for a terminal."""
    lines = [headline]
    if rows:
        columns = list(rows[0])
        cells = [[format_number(row[c]) for c in columns] for row in rows]
        widths = [
            max(map(len, (c, *col)))
            for c, col in zip(columns, zip(*cells), strict=True)
        ]
        lines.append(
            "  ".join(c.rjust(w) for c, w in zip(columns, widths, strict=True))
        )
        lines += [
            "  ".join(c.rjust(w) for c, w in zip(r, widths, strict=True)) for r in cells
        ]
    lines += [f"note: {note}" for note in notes]
    lines.append(f"cost: {cost}")
    return "\n".join(lines)


def html_table(headline: str, rows: list[dict[str, Any]]) -> str:
    """Lay out a result for a notebook."""

    def escape(text: object) -> str:
        return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    parts = [f"<p>{escape(headline)}</p>"]
    if rows:
        head = "".join(f"<th>{escape(c)}</th>" for c in rows[0])
        body = "".join(
            "<tr>"
            + "".join(f"<td>{escape(format_number(v))}</td>" for v in row.values())
            + "</tr>"
            for row in rows
        )
        parts.append(
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )
    return "".join(parts)


@dataclass(frozen=True, kw_only=True)
class Eigenpairs(Result):
    """Certified eigenpairs, eigenvalues descending.

    Attributes:
        eigenvalues: Shape ``(k,)``, float64, algebraic, descending.
        eigenvectors: Shape ``(n, k)``, orthonormal columns; ``None`` if not kept.
        residual_norms: ``||A v - lambda v||`` with a product made for it, float64.
        converged: Which pairs reached the tolerance, shape ``(k,)``, bool.
        which: Which end was asked: LM, LA, SA, BE as SciPy means them.
        tolerance: Relative residual that was asked.
        norm: The estimate of ``||A||_2`` that the floor of the tolerance used.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor | None = None
    residual_norms: Tensor
    converged: Tensor
    which: str
    tolerance: float
    norm: float

    @property
    def relative_residuals(self) -> Tensor:
        """``||A v - lambda v|| / |lambda|``; for lambda = 0 relative to ``norm``."""
        scale = self.eigenvalues.abs()
        safe = torch.where(scale > 0, scale, torch.full_like(scale, self.norm or 1.0))
        return self.residual_norms / safe

    def headline(self) -> str:
        """Return the result in one line."""
        done = int(self.converged.sum())
        return (
            f"{len(self.eigenvalues)} eigenpairs ({self.which}) of the {self.of.matrix}: "
            f"{done} converged to a relative residual of {self.tolerance:g}"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row an eigenvalue."""
        values = (self.eigenvalues, self.relative_residuals, self.converged)
        return [
            {
                "eigenvalue": float(v),
                "relative_residual": float(r),
                "converged": bool(c),
            }
            for v, r, c in zip(*values, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class Estimate(Result):
    """One number with its standard error; 0 where the value is exact.

    Attributes:
        quantity: What it is, such as ``"trace"``.
        value: The number.
        standard_error: Of the value, from the probes.
        degrees_of_freedom: Of the standard error; sets the interval's quantile.
        method: How it was computed.
        samples: One number a probe, where the estimate is their mean.
        bias_bound: A bound or estimate of the deterministic error (quadrature).
    """

    quantity: str
    value: float
    standard_error: float
    degrees_of_freedom: float = math.inf
    method: str = ""
    samples: Tensor | None = None
    bias_bound: float = 0.0

    def interval(self, *, level: float = 0.95) -> tuple[float, float]:
        """Return the central confidence interval, by Student's t.

        Example:
            >>> Estimate(quantity="trace", value=1.0, standard_error=0.0).interval()
            (1.0, 1.0)
        """
        if self.standard_error == 0.0:
            return (self.value - self.bias_bound, self.value + self.bias_bound)
        half = student_t_quantile(0.5 + level / 2, self.degrees_of_freedom)
        half = half * self.standard_error + self.bias_bound
        return (self.value - half, self.value + half)

    def headline(self) -> str:
        """Return the result in one line."""
        return (
            f"{self.quantity} of the {self.of.matrix}: {self.value:.6g} "
            f"+- {self.standard_error:.2g} ({self.method})"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row."""
        low, high = self.interval()
        return [
            {
                "quantity": self.quantity,
                "value": self.value,
                "standard_error": self.standard_error,
                "low_95": low,
                "high_95": high,
                "method": self.method,
            }
        ]


@dataclass(frozen=True, kw_only=True)
class VectorEstimate(Result):
    """A vector of numbers with their standard errors, such as a diagonal."""

    quantity: str
    values: Tensor
    standard_errors: Tensor
    method: str = ""

    def headline(self) -> str:
        """Return the result in one line."""
        total = len(self.values)
        return (
            f"{self.quantity} of the {self.of.matrix}: {total} entries ({self.method})"
        )


@dataclass(frozen=True, kw_only=True)
class SpectralDensity(Result):
    """Spectral density by stochastic Lanczos quadrature, smoothed by Gaussians.

    Attributes:
        nodes: Ritz values, one row a probe, shape ``(num_probes, num_steps)``;
            unused places hold NaN with weight 0.
        weights: Quadrature weights, each row sums to 1.
        grid: Where the density is given, ascending.
        density: Mean over probes at ``grid``; integrates to 1 over the axis.
        standard_error: Of the density at each grid point, from the probes.
        axis: ``"linear"`` or ``"signed-log"``: the coordinate in which the kernel has
            constant width, ``asinh(lambda / linear_threshold)`` for the latter.
        linear_threshold: Where a signed-log axis turns linear.
        width: The kernel's standard deviation, in the axis' coordinate.
        dimension: Number of eigenvalues, which turns the density into a count.
        quadrature_error: Estimate of the error left by too few steps, as the largest
            change of the smoothed density between the last steps.
    """

    nodes: Tensor
    weights: Tensor
    grid: Tensor
    density: Tensor
    standard_error: Tensor
    axis: str
    linear_threshold: float
    width: float
    dimension: int
    quadrature_error: float

    def band(self, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Return the pointwise confidence band, cut off below at 0."""
        degrees = self.nodes.shape[0] - 1
        half = student_t_quantile(0.5 + level / 2, degrees) * self.standard_error
        return (self.density - half).clamp_min(0.0), self.density + half

    def headline(self) -> str:
        """Return the result in one line."""
        probes, steps = self.nodes.shape
        return (
            f"spectral density of the {self.of.matrix}: {probes} probes x {steps} steps, "
            f"{self.axis} axis, kernel width {self.width:.3g}"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a grid point."""
        low, high = self.band()
        values = (self.grid, self.density, self.standard_error, low, high)
        names = ("eigenvalue", "density", "standard_error", "low_95", "high_95")
        return [
            dict(zip(names, map(float, row), strict=True))
            for row in zip(*values, strict=True)
        ]

    def __str__(self) -> str:
        return format_table(self.headline(), [], self.notes, str(self.cost))


@dataclass(frozen=True, kw_only=True)
class EffectiveDimension(Result):
    """``N_eff(z) = sum_i lambda_i / (lambda_i + z)``, as a curve over ``z``.

    Attributes:
        z: Where the curve is given, ascending, in the unit of an eigenvalue.
        values: The effective dimension at each ``z``.
        standard_errors: Of the values; 0 where exact.
        degrees_of_freedom: Of the standard errors.
        method: ``"exact"``, ``"factors"``, ``"slq"`` or ``"lower_bound"``.
        negative: What was done to negative eigenvalues: ``"clip"``, ``"abs"``, ``"keep"``.
        negative_mass: Sum of the absolute values of the negative eigenvalues.
        negative_count: Number of negative eigenvalues (an estimate for SLQ).
        dimension: Number of eigenvalues.
    """

    z: Tensor
    values: Tensor
    standard_errors: Tensor
    degrees_of_freedom: float = math.inf
    method: str
    negative: str
    negative_mass: float
    negative_count: float
    dimension: int

    @property
    def value(self) -> float:
        """The value, where the curve has one point only."""
        return self._only(self.values)

    @property
    def standard_error(self) -> float:
        """The standard error, where the curve has one point only."""
        return self._only(self.standard_errors)

    def _only(self, values: Tensor) -> float:
        if values.numel() != 1:
            text = message(
                "z", "be one number", f"{values.numel()} of them", "Use `values`."
            )
            raise ValueError(text)
        return float(values.reshape(()))

    def band(self, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Return the pointwise confidence band."""
        half = student_t_quantile(0.5 + level / 2, self.degrees_of_freedom)
        half_width = half * self.standard_errors
        return (self.values - half_width).clamp_min(0.0), self.values + half_width

    def headline(self) -> str:
        """Return the result in one line."""
        return (
            f"effective dimension of the {self.of.matrix} ({self.method}, negative "
            f"eigenvalues: {self.negative}; their sum -{self.negative_mass:.3g})"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a value of ``z``."""
        low, high = self.band()
        names = ("z", "effective_dimension", "standard_error", "low_95", "high_95")
        columns = (self.z, self.values, self.standard_errors, low, high)
        return [
            dict(zip(names, map(float, row), strict=True))
            for row in zip(*columns, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class RankEstimate(Result):
    """A numerical rank and the gap that it was read from.

    Attributes:
        rank: Number of singular values above ``tolerance``.
        gap: Ratio of the last singular value kept to the first one dropped.
        tolerance: Absolute threshold.
        certain: Whether the gap is wide and no value lies near the threshold.
        singular_values: All of them, descending.
    """

    rank: int
    gap: float
    tolerance: float
    certain: bool
    singular_values: Tensor

    def headline(self) -> str:
        """Return the result in one line."""
        sure = "certain" if self.certain else "undetermined"
        return f"rank {self.rank} ({sure}, gap {self.gap:.3g})"


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """Curvature of one layer's own diagonal block; norms are Frobenius norms.

    The ``_error`` fields are standard errors, 0 where the value is exact;
    ``top_eigenvalue`` is the one of largest magnitude, its error the true residual.
    """

    name: str
    num_params: int
    frobenius_norm: float
    linearisation_norm: float
    curvature_norm: float
    trace: float
    top_eigenvalue: float
    frobenius_norm_error: float = 0.0
    linearisation_norm_error: float = 0.0
    curvature_norm_error: float = 0.0
    trace_error: float = 0.0
    top_eigenvalue_error: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LayerTable(Result):
    """One row a layer (a module's own parameters)."""

    ROW: ClassVar[type] = LayerRow
    layers: tuple[LayerRow, ...]
    method: str

    def headline(self) -> str:
        """Return the result in one line."""
        return f"curvature of {len(self.layers)} layers' own blocks ({self.method})"

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a layer."""
        return [dataclasses.asdict(row) for row in self.layers]


def student_t_quantile(probability: float, degrees: float) -> float:
    """Return the quantile of Student's t, by bisection on the incomplete beta.

    Uses the Cornish-Fisher-free exact route: the distribution function is integrated
    by Simpson's rule on a fixed fine grid, which is right to about 1e-8.

    Example:
        >>> round(student_t_quantile(0.975, 10), 4)
        2.2281
    """
    if math.isinf(degrees) or degrees > 1e6:
        return math.sqrt(2.0) * float(
            torch.erfinv(torch.tensor(2 * probability - 1.0, dtype=torch.float64))
        )
    # t = sqrt(nu) tan(x) turns the density into C cos(x)^(nu - 1) on (-pi/2, pi/2).
    x = torch.linspace(0.0, math.pi / 2, 20001, dtype=torch.float64)
    density = torch.cos(x).clamp_min(0.0) ** (degrees - 1)
    mass = torch.cumulative_trapezoid(density, x)
    target = (2 * probability - 1.0) * float(mass[-1])
    index = int(torch.searchsorted(mass, target))
    below = float(mass[index - 1]) if index else 0.0
    fraction = (target - below) / (float(mass[index]) - below)
    angle = float(x[index]) + fraction * float(x[index + 1] - x[index])
    return math.sqrt(degrees) * math.tan(angle)
