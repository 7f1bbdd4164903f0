"""What a tracking leaves behind: curvature along a training, and what it cost."""

from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from curvescope.results.base import Result
from curvescope.results.text import format_table, thinned


def _no_steps() -> Tensor:
    return torch.zeros(0, dtype=torch.int64)


def _empty() -> Tensor:
    return torch.zeros(0, dtype=torch.float64)


@final
@dataclass(frozen=True, kw_only=True)
class PlannedPart:
    """What one part of a measurement takes.

    Attributes:
        name: Of the measure.
        num_matvecs: Products, about.
        most: Products, at most; the same where their number is fixed.
        gradients: The products' and passes' work, in gradients of the probe set.
    """

    name: str
    num_matvecs: int
    most: int
    gradients: float


@final
@dataclass(frozen=True, kw_only=True)
class TrackingPlan:
    """What measurements will cost, in gradients of their own probe set.

    A gradient is one pass forward and one backward over all probe samples; a product
    with the Hessian is the work of two.

    Attributes:
        first: The parts of the first measurement, which starts from nothing.
        later: Those of a later one, which starts from the one before.
        most: Gradients of any one measurement, at most.
        num_samples: Of the probe set.
        basis: What the numbers of products rest on.
        notes: What will be left out, and why.
    """

    first: tuple[PlannedPart, ...]
    later: tuple[PlannedPart, ...]
    most: float
    num_samples: int
    basis: str
    notes: tuple[str, ...] = ()

    @property
    def first_gradients(self) -> float:
        """Gradients of the first measurement, about."""
        return sum(part.gradients for part in self.first)

    @property
    def gradients(self) -> float:
        """Gradients of a later measurement, about."""
        return sum(part.gradients for part in self.later)

    def share(self, *, every: float, batch_size: float) -> float:
        """Return the work of tracking, relative to that of the training itself.

        Args:
            every: Steps from one measurement to the next.
            batch_size: Samples of one step.

        Returns:
            The ratio, for a gradient that costs the same a sample everywhere.
        """
        return self.gradients * self.num_samples / (every * batch_size)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a part."""
        first = {part.name: part for part in self.first}
        return [
            {
                "measure": part.name,
                "products": part.num_matvecs,
                "gradients": part.gradients,
                "first_products": first[part.name].num_matvecs,
                "first_gradients": first[part.name].gradients,
                "at_most_products": max(part.most, first[part.name].most),
            }
            for part in self.later
        ]

    def __str__(self) -> str:
        headline = (
            f"one measurement costs about {self.gradients:.3g} gradients of its "
            f"{self.num_samples} probe samples, the first about "
            f"{self.first_gradients:.3g}, none more than {self.most:.3g}"
        )
        lines = format_table(
            headline, self.rows(), (self.basis, *self.notes), ""
        ).splitlines()
        return "\n".join(lines[:-1])


@final
@dataclass(frozen=True, kw_only=True)
class TrackingCurve(Result):
    r"""Curvature along a training, measured on one fixed probe set.

    Curves have shape ``(T,)`` or ``(T, m)``; what was not asked for is ``None``, what
    could not be measured at a moment is NaN there.

    Attributes:
        at: The steps that were measured, ascending.
        loss: The objective on the probe set.
        accuracy: ``None`` where the loss is no classifier's.
        gradient_norm: Of the objective's gradient on the probe set.
        eigenvalues: The wanted ones, descending, shape ``(T, k)``.
        residual_norms: Their true residuals.
        converged: Which reached the tolerance.
        which: Which end they are from, as for `eigsh`.
        alignment: :math:`\|V^\top g\|^2 / \|g\|^2` with the k eigenvectors V.
        trace: Of the Hessian.
        trace_error: Its standard error.
        z: Where the effective dimension was asked for.
        effective_dimension: Shape ``(T, len(z))``.
        effective_dimension_band: Low and high end of its band, shape ``(T, len(z), 2)``.
        layers: Their names; the notes say which are left out.
        layer_norms: Frobenius norms of each layer's own block, of its linearisation
            part and of its curvature part, shape ``(T, L, 3)``.
        layer_norm_errors: Their standard errors, 0 where exact.
        preconditioned_sharpness: Largest eigenvalue of the Hessian in the optimiser's
            metric.
        preconditioned_residual: Its true residual.
        learning_rate: The largest of the optimiser's groups.
        limit: What the sharpness in the optimiser's metric must stay below for its steps
            not to grow; `formula` says how it follows from the learning rate.
        formula: For example ``2 / eta``.
        adaptive: Whether the optimiser has a metric of its own.
        num_matvecs: Products of each measurement.
        gradients: The work of each, in gradients of the probe set.
        seconds: The time of each.
        gradient_seconds: The time of one gradient of the probe set, at each.
    """

    at: Tensor = field(default_factory=_no_steps)
    loss: Tensor = field(default_factory=_empty)
    accuracy: Tensor | None = None
    gradient_norm: Tensor | None = None
    eigenvalues: Tensor | None = None
    residual_norms: Tensor | None = None
    converged: Tensor | None = None
    which: str = "LA"
    alignment: Tensor | None = None
    trace: Tensor | None = None
    trace_error: Tensor | None = None
    z: tuple[float, ...] = ()
    effective_dimension: Tensor | None = None
    effective_dimension_band: Tensor | None = None
    layers: tuple[str, ...] = ()
    layer_norms: Tensor | None = None
    layer_norm_errors: Tensor | None = None
    preconditioned_sharpness: Tensor | None = None
    preconditioned_residual: Tensor | None = None
    learning_rate: Tensor | None = None
    limit: Tensor | None = None
    formula: str = ""
    adaptive: bool = False
    num_matvecs: Tensor = field(default_factory=_no_steps)
    gradients: Tensor = field(default_factory=_empty)
    seconds: Tensor = field(default_factory=_empty)
    gradient_seconds: Tensor = field(default_factory=_empty)

    @property
    def sharpness(self) -> Tensor | None:
        """The curvature to hold against the limit: in the optimiser's metric."""
        if self.adaptive:
            return self.preconditioned_sharpness
        if self.eigenvalues is None or self.which == "SA":
            return None
        return self.eigenvalues[:, 0]

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a measurement."""
        return [self._row(index) for index in range(len(self.at))]

    def _row(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = {
            "step": int(self.at[index]),
            "loss": self._at("loss", index),
        }
        for name in ("accuracy", "gradient_norm"):
            self._put(row, name, name, index)
        if self.eigenvalues is not None:
            for i, value in enumerate(self.eigenvalues[index].tolist(), 1):
                row[f"eigenvalue_{i}"] = value
            assert self.converged is not None
            row["converged"] = bool(self.converged[index].all())
        for name in (
            "preconditioned_sharpness",
            "limit",
            "learning_rate",
            "alignment",
            "trace",
            "trace_error",
        ):
            self._put(row, name, name, index)
        if self.effective_dimension is not None:
            for i, z in enumerate(self.z):
                value = self.effective_dimension[index, i]
                row[f"effective_dimension_at_{z:g}"] = float(value)
        if self.layer_norms is not None:
            for i, name in enumerate(self.layers):
                row[f"frobenius_norm_of_{name}"] = float(self.layer_norms[index, i, 0])
        row["num_matvecs"] = int(self.num_matvecs[index])
        row["gradients"] = float(self.gradients[index])
        return row

    def _at(self, name: str, index: int) -> float:
        return float(getattr(self, name)[index])

    def _put(self, row: dict[str, Any], key: str, name: str, index: int) -> None:
        if getattr(self, name) is not None:
            row[key] = self._at(name, index)

    def headline(self) -> str:
        """Return the last measurement in one line."""
        if not len(self.at):
            return "Nothing measured yet"
        parts = [f"loss {self._at('loss', -1):.4g}"]
        if self.eigenvalues is not None:
            parts.append(f"top eigenvalue {float(self.eigenvalues[-1, 0]):.4g}")
        if self.adaptive and self.preconditioned_sharpness is not None:
            sharpness = self._at("preconditioned_sharpness", -1)
            parts.append(f"in the optimiser's metric {sharpness:.4g}")
        if self.limit is not None:
            parts.append(f"limit {self._at('limit', -1):.4g}")
        if self.trace is not None:
            parts.append(f"trace {self._at('trace', -1):.4g}")
        moments = f"{len(self.at)} measurements of the {self.of.matrix}"
        return f"{moments}; at step {int(self.at[-1])}: {', '.join(parts)}"

    def __str__(self) -> str:
        rows, notes = thinned(self.rows())
        return format_table(
            self.headline(), rows, (*self.notes, *notes), str(self.cost)
        )
