"""The kinds of results: eigenpairs, estimates, densities, curves."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from curvescope._core.checks import message
from curvescope.results.base import Result
from curvescope.results.dimension_bounds import DimensionBounds
from curvescope.results.quantiles import student_t_quantile
from curvescope.results.text import format_table

# A band whose half width exceeds this part of the value tells hardly its size.
_VAGUE = 0.25


@dataclass(frozen=True, kw_only=True)
class Eigenpairs(Result):
    """Certified eigenpairs, eigenvalues descending.

    Attributes:
        eigenvalues: Shape ``(k,)``, float64, algebraic, descending.
        eigenvectors: Shape ``(n, k)``, orthonormal columns; ``None`` if not kept.
        residual_norms: ``||A v - lambda v||``, float64.
        residuals_from: Where they are from: ``"products"``, one a pair; ``"checked"``, the
            recurrence, confirmed by one product with a mixture of all pairs, whose
            deviation is added to each; ``"estimated"``, the recurrence alone; ``"dense"``,
            the whole matrix.
        converged: Which pairs reached the tolerance, shape ``(k,)``, bool.
        which: Which end was asked: LM, LA, SA, BE as SciPy means them.
        tolerance: Relative residual that was asked.
        norm: The estimate of ``||A||_2`` that the floor of the tolerance used.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor | None = None
    residual_norms: Tensor
    residuals_from: str = "products"
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
            f"{done} converged (relative residual {self.tolerance:g}, or rounding)"
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
        degrees_of_freedom: Of the standard errors; ``inf`` where the eigenvalues are
            exact, ``None`` for one less than the number of probes.
        probe_distance: What the probes leave of the area between the CDF of the nodes and
            that of the spectrum, over the range, with a probability of 95 %.
        step_distance: What too few steps leave of it, estimated.
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
    degrees_of_freedom: float | None = None
    probe_distance: float = math.nan
    step_distance: float = math.nan

    @property
    def distance(self) -> float:
        """Wasserstein-1 distance of the nodes to the spectrum, over its range, at 95 %."""
        return math.hypot(self.probe_distance, self.step_distance)

    def band(self, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Return the pointwise confidence band, cut off below at 0."""
        degrees = self.degrees_of_freedom
        if degrees is None:
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
        quadrature_errors: What too few Lanczos steps may have left; part of the band.
        bracketed: Whether they are certain, by Gauss and Gauss-Radau quadrature, and not
            estimated from the change over the last steps.
        method: ``"exact"``, ``"factors"``, ``"slq"`` or ``"lower_bound"``.
        negative: What was done to negative eigenvalues: ``"clip"``, ``"abs"``, ``"keep"``.
        negative_mass: Sum of the absolute values of the negative eigenvalues.
        negative_count: Number of negative eigenvalues (an estimate for SLQ).
        dimension: Number of eigenvalues.
        upper_bounds: For a lower bound: what the eigenvalues that are not known can lift
            it to at most; infinite where their number is not known either.
        bounds: What certified eigenpairs say about the same number, if they were asked.
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
    quadrature_errors: Tensor | None = None
    upper_bounds: Tensor | None = None
    bracketed: bool = False
    bounds: DimensionBounds | None = None

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
        """Return the pointwise band: confidence interval and quadrature error.

        For a lower bound it holds for certain, from the value to the upper bound.
        """
        if self.upper_bounds is not None:
            return self.values, self.upper_bounds
        half = student_t_quantile(0.5 + level / 2, self.degrees_of_freedom)
        half_width = half * self.standard_errors
        if self.quadrature_errors is not None and self.bracketed:
            # The truth may lie at either end of the bracket.
            half_width = half_width + self.quadrature_errors
        elif self.quadrature_errors is not None:
            # Independent of each other: one is of the probes, one of the steps.
            half_width = torch.hypot(half_width, self.quadrature_errors)
        return (self.values - half_width).clamp_min(0.0), self.values + half_width

    def says_little(self) -> str:
        """Say in words where too few steps leave a wide band; ``""`` where nowhere.

        There neither the value, the middle of the band, nor the standard error of the
        probes tells much.
        """
        if self.quadrature_errors is None:
            return ""
        low, high = self.band()
        wide = self.quadrature_errors > _VAGUE * self.values.abs()
        wide &= self.quadrature_errors > (high - low) / 4.0
        if not bool(wide.any()):
            return ""
        worst = int(torch.where(wide, high - low, -1.0).argmax())
        steps = self.settings.get("num_steps")
        return (
            f"the interval says little: at z = {float(self.z[worst]):.3g} it goes from "
            f"{float(low[worst]):.4g} to {float(high[worst]):.4g}, for want of steps"
            f"{f' ({steps} were made)' if steps else ''} and not of probes; more steps"
        )

    def headline(self) -> str:
        """Return the result in one line."""
        return (
            f"effective dimension of the {self.of.matrix} ({self.method}, negative "
            f"eigenvalues: {self.negative}; their sum {0.0 - self.negative_mass:.3g})"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a value of ``z``; ``standard_error`` is of the probes alone."""
        low, high = self.band()
        # The band stands beside the value: the probes' error alone may be its least part.
        names = ["z", "effective_dimension", "low_95", "high_95", "standard_error"]
        columns = [self.z, self.values, low, high, self.standard_errors]
        if self.quadrature_errors is not None and bool(self.quadrature_errors.any()):
            names.append("step_error")
            columns.append(self.quadrature_errors)
        if self.bounds is not None:
            names += ["lower_bound", "upper_bound"]
            columns += [self.bounds.lower, self.bounds.upper]
        return [
            dict(zip(names, map(float, row), strict=True))
            for row in zip(*columns, strict=True)
        ]

    def __str__(self) -> str:
        asked = self.settings.get("z", ())
        rows = [
            row
            for row in self.rows()
            if any(math.isclose(row["z"], z, rel_tol=1e-9) for z in asked)
        ]
        # Without places that were asked for, the whole curve is the answer.
        table = rows or self.rows()
        verdict = (self.says_little() if self.bounds is None else self.bounds.verdict,)
        notes = tuple(dict.fromkeys((*self.notes, *filter(None, verdict))))
        return format_table(self.headline(), table, notes, str(self.cost))
