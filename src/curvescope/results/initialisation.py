"""Before training: the step size that curvature allows, and how layers begin."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from curvescope.results.base import Result
from curvescope.results.text import format_table


@dataclass(frozen=True, kw_only=True)
class StepSize(Result):
    r"""Which step along the (preconditioned) gradient is safe, and what it gains.

    .. math:: L(\theta - \gamma p) \approx L - \gamma\, g^\top p +
        \tfrac12 \gamma^2\, p^\top H p, \quad p = D^{-1} g

    Attributes:
        loss: The objective at the present weights, weight decay included.
        gradient_norm: :math:`\|g\|`.
        slope: :math:`g^\top p`: what a small step gains per unit of the step size.
        curvature: :math:`p^\top H p`.
        step_size: :math:`\gamma^* = g^\top p / p^\top H p`; ``None`` where the gradient
            is zero or the curvature is not positive: see the notes.
        predicted_gain: :math:`(g^\top p)^2 / 2 p^\top H p`, by the quadratic model.
        actual_gain: How much the objective really falls at ``step_size``.
        sharpness: :math:`\lambda_{\max}(D^{-1/2} H D^{-1/2})`, algebraically largest.
        sharpness_error: Its true residual.
        sharpness_converged: Whether the residual reached the tolerance.
        stability_limit: 2 / sharpness: gradient descent with a larger step size
            diverges on the quadratic model; ``None`` where no curvature is positive.
        preconditioner: What D is, in words.
        learning_rate: The optimiser's present one (the largest of its groups).
        critical_sharpness: The sharpness at which the optimiser would be at the edge of
            stability with that learning rate and its momentum.
        critical_formula: How that follows.
        step_sizes: Where the objective was measured along the step, ascending.
        losses: The objective there.
    """

    loss: float
    gradient_norm: float
    slope: float
    curvature: float
    step_size: float | None = None
    predicted_gain: float | None = None
    actual_gain: float | None = None
    sharpness: float
    sharpness_error: float
    sharpness_converged: bool = True
    stability_limit: float | None = None
    preconditioner: str = "none"
    learning_rate: float | None = None
    critical_sharpness: float | None = None
    critical_formula: str = ""
    step_sizes: Tensor
    losses: Tensor

    @property
    def curvature_along_gradient(self) -> float:
        r"""The Rayleigh quotient :math:`p^\top H p / p^\top D p`; 0 without a gradient.

        It lies between the smallest eigenvalue of the (preconditioned) Hessian and the
        sharpness; the step size is its inverse.
        """
        return self.curvature / self.slope if self.slope > 0 else 0.0

    def quadratic_losses(self, step_sizes: Tensor | None = None) -> Tensor:
        """Return the quadratic model along the step, at the measured step sizes or others."""
        s = (self.step_sizes if step_sizes is None else step_sizes).double()
        return self.loss - s * self.slope + 0.5 * s * s * self.curvature

    def headline(self) -> str:
        """Return the result in one line."""
        metric = "" if self.preconditioner == "none" else f", {self.preconditioner}"
        if self.step_size is None:
            why = (
                "zero gradient" if self.slope == 0 else "no positive curvature along it"
            )
            return f"no finite best step along the gradient ({why}{metric})"
        return (
            f"best step along the gradient {self.step_size:.6g}, predicted gain "
            f"{self.predicted_gain:.4g}, real gain {self.actual_gain:.4g}{metric}"
        )

    def facts(self) -> dict[str, float | None]:
        """Return the numbers by name."""
        names = (
            "loss",
            "gradient_norm",
            "slope",
            "curvature",
            "curvature_along_gradient",
            "step_size",
            "predicted_gain",
            "actual_gain",
            "sharpness",
            "sharpness_error",
            "stability_limit",
            "learning_rate",
            "critical_sharpness",
        )
        return {name: getattr(self, name) for name in names}

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a measured step size."""
        columns = (self.step_sizes, self.losses, self.quadratic_losses())
        names = ("step_size", "loss", "quadratic_loss")
        return [
            dict(zip(names, map(float, row), strict=True))
            for row in zip(*columns, strict=True)
        ]

    def __str__(self) -> str:
        rows = [
            {"quantity": name.replace("_", " "), "value": value}
            for name, value in self.facts().items()
            if value is not None
        ]
        return format_table(self.headline(), rows, self.notes, str(self.cost))


@dataclass(frozen=True, kw_only=True)
class InitialisationRow:
    """One layer under one initialisation; means over seeds, with their spread.

    A spread is the standard deviation over seeds, 0 for one draw. Norms are Frobenius
    norms of the layer's own block of the Hessian and of its two parts.

    Attributes:
        candidate: The initialisation.
        layer: The layer.
        num_params: Parameters of the block.
        std: Root mean square of the layer's weights.
        frobenius_norm: Of the block.
        linearisation_norm: Of its linearisation part.
        curvature_norm: Of its curvature part.
        trace: Of the block.
        linearisation_trace: Of its linearisation part, which is what theory predicts.
        frobenius_norm_spread: Over seeds; so the others.
        linearisation_norm_spread: Over seeds.
        curvature_norm_spread: Over seeds.
        trace_spread: Over seeds.
        linearisation_trace_spread: Over seeds.
        trace_error: Standard error of the mean trace from probes; 0 where it is exact.
        predicted_trace: Mean-field theory's, of the linearisation part; ``None`` where
            there is none.
    """

    candidate: str
    layer: str
    num_params: int
    std: float
    frobenius_norm: float
    linearisation_norm: float
    curvature_norm: float
    trace: float
    linearisation_trace: float
    frobenius_norm_spread: float = 0.0
    linearisation_norm_spread: float = 0.0
    curvature_norm_spread: float = 0.0
    trace_spread: float = 0.0
    linearisation_trace_spread: float = 0.0
    trace_error: float = 0.0
    predicted_trace: float | None = None


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The standard deviation that theory recommends for one layer, and why.

    Attributes:
        layer: The layer.
        fan_in: Inputs of one unit.
        fan_out: Units that one input reaches.
        constant: ``c`` of what stands in front of the layer.
        present_std: Root mean square of the present weights.
        std: Recommended: the root of ``2 / (c (fan_in + fan_out))``.
        forward_std: By the forward law.
        backward_std: By the backward law.
        reason: In words.
        balanced_std: What the weights have after `balance_`, which makes the blocks
            equal on these very data; ``None`` where that was no candidate.
    """

    layer: str
    fan_in: int
    fan_out: int
    constant: float
    present_std: float
    std: float
    forward_std: float
    backward_std: float
    reason: str
    balanced_std: float | None = None

    def __str__(self) -> str:
        balanced = (
            "" if self.balanced_std is None else f", {self.balanced_std:.4g} balances"
        )
        return (
            f"{self.layer}: recommended std {self.std:.4g} (now {self.present_std:.4g}"
            f"{balanced}): {self.reason}"
        )


@dataclass(frozen=True, kw_only=True)
class InitialisationReport(Result):
    """Layers' own blocks at the given weights and under other initialisations.

    Attributes:
        layers: One row a candidate and layer; the candidate ``"given"`` first.
        recommendations: One a linear or convolutional layer.
        losses: The objective under each candidate, mean over seeds.
        seeds: Of the draws; ``"given"`` and ``"balanced"`` have none.
        method: How the blocks were measured.
        prediction: Where the predicted traces come from, or why there are none.
        laws: The laws that the recommendations rest on, with their status.
    """

    NESTED: ClassVar[Mapping[str, type]] = {
        "layers": InitialisationRow,
        "recommendations": Recommendation,
    }
    layers: tuple[InitialisationRow, ...]
    recommendations: tuple[Recommendation, ...]
    losses: Mapping[str, float]
    seeds: tuple[int, ...]
    method: str
    prediction: str
    laws: tuple[str, ...] = ()

    @property
    def candidates(self) -> tuple[str, ...]:
        """The initialisations, in the order of the rows."""
        return tuple(dict.fromkeys(row.candidate for row in self.layers))

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The layers, in the order of the rows."""
        return tuple(dict.fromkeys(row.layer for row in self.layers))

    def of_candidate(self, candidate: str) -> tuple[InitialisationRow, ...]:
        """Return the rows of one initialisation."""
        return tuple(row for row in self.layers if row.candidate == candidate)

    def balance(self, candidate: str) -> float:
        """Return the largest layer's block norm over the smallest one; 1 is balanced.

        Example:
            >>> report.balance("he")  # doctest: +SKIP
            1.9
        """
        return ratio([row.frobenius_norm for row in self.of_candidate(candidate)])

    def headline(self) -> str:
        """Return the result in one line."""
        parts = [f"{name} {self.balance(name):.3g}" for name in self.candidates]
        num = len(self.layer_names)
        return f"largest over smallest block norm of {num} layers: {', '.join(parts)}"

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a candidate and layer."""
        return [dataclasses.asdict(row) for row in self.layers]

    def __str__(self) -> str:
        shown = (
            "candidate",
            "layer",
            "std",
            "frobenius_norm",
            "linearisation_norm",
            "curvature_norm",
            "linearisation_trace",
            "predicted_trace",
        )
        rows = [{name: row[name] for name in shown} for row in self.rows()]
        words = map(str, self.recommendations)
        notes = (*self.notes, f"predicted trace: {self.prediction}", *words)
        return format_table(self.headline(), rows, notes, str(self.cost))


@dataclass(frozen=True, kw_only=True)
class BalanceRow:
    """What was done to one layer.

    Attributes:
        layer: The layer.
        treatment: ``"drawn anew"``, ``"scaled"``, or why it was left as it was.
        std_before: Root mean square of the weights before.
        std_after: And after.
        norm_before: Frobenius norm of the weights' block before; ``None`` if it was not
            measured.
        norm_after: And after.
    """

    layer: str
    treatment: str
    std_before: float
    std_after: float
    norm_before: float | None = None
    norm_after: float | None = None

    @property
    def scale(self) -> float:
        """``std_after / std_before``."""
        return self.std_after / self.std_before if self.std_before else math.nan


@dataclass(frozen=True, kw_only=True)
class Balance(Result):
    """What `balance_` did to a model.

    Attributes:
        layers: One row a linear or convolutional layer.
        method: ``"measured"`` or ``"formula"``.
        rounds: Rounds of measuring and scaling.
        converged: Whether the treated layers' blocks are equal within ``tolerance``; for
            the formula, which equalises nothing by itself, whether they happen to be.
        tolerance: Of the largest over the smallest norm, less 1.
        loss_before: The objective before.
        loss_after: And after.
        function_kept: Whether the outputs on the first batch are the same up to
            rounding, as they are for positively homogeneous networks.
    """

    NESTED: ClassVar[Mapping[str, type]] = {"layers": BalanceRow}
    layers: tuple[BalanceRow, ...]
    method: str
    rounds: int
    converged: bool
    tolerance: float
    loss_before: float
    loss_after: float
    function_kept: bool

    @property
    def ratio_before(self) -> float:
        """Largest over smallest norm of the layers that were treated, before."""
        return ratio(
            [r.norm_before for r in self._treated if r.norm_before is not None]
        )

    @property
    def ratio_after(self) -> float:
        """Largest over smallest norm of the layers that were treated, after."""
        return ratio([r.norm_after for r in self._treated if r.norm_after is not None])

    @property
    def _treated(self) -> tuple[BalanceRow, ...]:
        return tuple(r for r in self.layers if r.treatment in ("scaled", "drawn anew"))

    def headline(self) -> str:
        """Return the result in one line."""
        kept = "the same function" if self.function_kept else "another function"
        if not self._treated:
            return f"weights not changed ({self.method}): all layers were left"
        changed = any(row.std_after != row.std_before for row in self.layers)
        num, left = len(self._treated), len(self.layers) - len(self._treated)
        others = f", {left} left as they were" if left else ""
        return (
            f"weights {'' if changed else 'not '}changed ({self.method}): largest over "
            f"smallest block norm of {num} layers {self.ratio_before:.4g} -> "
            f"{self.ratio_after:.4g}{others}, {kept}"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a layer."""
        return [{**dataclasses.asdict(row), "scale": row.scale} for row in self.layers]


def ratio(norms: list[float]) -> float:
    """Return largest over smallest; infinite where one is zero, NaN for nothing.

    Example:
        >>> ratio([2.0, 8.0])
        4.0
    """
    if not norms or not all(map(math.isfinite, norms)):
        return math.nan
    return max(norms) / min(norms) if min(norms) > 0 else math.inf


def spread(values: list[float]) -> float:
    """Return the standard deviation over draws; 0 for one.

    Example:
        >>> spread([1.0])
        0.0
    """
    return float(torch.tensor(values, dtype=torch.float64).std()) if values[1:] else 0.0
