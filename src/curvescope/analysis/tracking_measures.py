"""One measurement of a tracking: every number with its error, every part with its cost.

A measurement builds the Hessian's graphs once, and all parts multiply by them. What
the next one starts from, the eigenvectors, is kept in a `Memory`.
"""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from curvescope._core.errors import AccuracyWarning
from curvescope.analysis.preconditioning import (
    PreconditionedOperator,
    barely_scaled,
    optimiser_scale,
    stability_limit,
)
from curvescope.analysis.tracking_layers import layer_norms
from curvescope.curvature import Hessian
from curvescope.linalg import effective_dimension, eigsh, eigsh_from, trace
from curvescope.linop.base import LinearOperator, SymmetricOperator
from curvescope.problem import Problem
from curvescope.results import Eigenpairs

MEASURES = (
    "loss",
    "gradient",
    "eigenvalues",
    "alignment",
    "preconditioned",
    "trace",
    "effective_dimension",
    "layers",
)
DENSE_BELOW = 64

Row = dict[str, Any]


@final
@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every measurement is made with."""

    measures: tuple[str, ...]
    layers_left_out: tuple[str, ...]
    k: int
    which: str
    tol: float
    max_matvecs: int
    num_probes: int
    num_steps: int
    z: tuple[float, ...]
    warm_start: bool
    check_every: int
    seed: int

    def generator(self) -> torch.Generator:
        """Return a fresh stream: every measurement has the same probes.

        The difference between two moments then has less noise than each of them.
        """
        return torch.Generator().manual_seed(self.seed)


@dataclass
class Memory:
    """What a measurement leaves for the next one.

    Attributes:
        vectors: The eigenvectors of each matrix.
        since_check: Measurements since repeated eigenvalues were looked for.
    """

    vectors: dict[str, Tensor] = field(default_factory=dict)
    since_check: dict[str, int] = field(default_factory=dict)


@dataclass
class Work:
    """Counts a measurement's work, part by part."""

    per_product: float = 2.0
    parts: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(
        self, part: str, *, num_matvecs: int = 0, gradients: float, seconds: float
    ) -> None:
        """Add to what a part has taken."""
        spent = self.parts.setdefault(
            part, {"num_matvecs": 0, "gradients": 0.0, "seconds": 0.0}
        )
        spent["num_matvecs"] += num_matvecs
        spent["gradients"] += gradients
        spent["seconds"] += seconds

    def timed(self, part: str, call: Callable[[], Any]) -> Any:
        """Run an algorithm, and add the cost that its result states."""
        began = time.perf_counter()
        result = call()
        products = result.cost.num_matvecs
        self.add(
            part,
            num_matvecs=products,
            gradients=self.per_product * products,
            seconds=time.perf_counter() - began,
        )
        return result


@final
class Deflated(SymmetricOperator):
    """``(I - V V') A (I - V V')`` with orthonormal columns V: the rest of a trace."""

    def __init__(self, A: LinearOperator, V: Tensor) -> None:
        super().__init__(
            A.shape,
            dtype=A.dtype,
            device=A.device,
            symmetric=True,
            info=A.info,
            passes_per_product=A.passes_per_product,
            block_size=A.block_size,
        )
        self.A, self.V = A, V

    def _without(self, X: Tensor) -> Tensor:
        return X - self.V @ (self.V.T @ X)

    def _matmat(self, X: Tensor) -> Tensor:
        return self._without(self.A._matmat(self._without(X)))

    def refresh(self) -> str:
        """Refresh the operand."""
        return self.A.refresh()


def measure(
    problem: Problem, settings: Settings, memory: Memory, optimizer: Any
) -> tuple[Row, dict[str, dict[str, float]]]:
    """Measure at the present weights.

    Returns:
        The numbers, and what each part took.

    Raises:
        ValueError: If loss or products are not finite.
    """
    work, row = Work(), _first_order(problem, settings)
    gradient = row.pop("gradient", None)
    work.add("loss", gradients=1.0 / 3.0, seconds=row.pop("loss_seconds"))
    if gradient is not None:
        work.add("gradient", gradients=1.0, seconds=row["gradient_seconds"])
    if optimizer is not None:
        limit = stability_limit(optimizer)
        row["learning_rate"], row["limit"] = limit.learning_rate, limit.value
        row["formula"] = limit.formula
    if {"eigenvalues", "preconditioned", "trace", "effective_dimension"} & set(
        settings.measures
    ):
        with warnings.catch_warnings():
            # A pair that did not converge is marked in the row, at every step.
            warnings.simplefilter("ignore", AccuracyWarning)
            _second_order(problem, settings, memory, optimizer, gradient, row, work)
    if "layers" in settings.measures:
        began = time.perf_counter()
        row["layers"], cost = layer_norms(
            problem,
            num_probes=settings.num_probes,
            generator=settings.generator(),
            without=settings.layers_left_out,
        )
        seconds = time.perf_counter() - began
        work.add("layers", seconds=seconds, **cost)
    return row, work.parts


def _first_order(problem: Problem, settings: Settings) -> Row:
    began = time.perf_counter()
    evaluation = problem.evaluate()
    row: Row = {"loss": evaluation.loss, "accuracy": evaluation.accuracy}
    row["loss_seconds"] = time.perf_counter() - began
    if {"gradient", "alignment"} & set(settings.measures):
        began = time.perf_counter()
        row["gradient"] = problem.gradient()
        row["gradient_norm"] = float(row["gradient"].double().norm())
        row["gradient_seconds"] = time.perf_counter() - began
    return row


def _second_order(
    problem: Problem,
    settings: Settings,
    memory: Memory,
    optimizer: Any,
    gradient: Tensor | None,
    row: Row,
    work: Work,
) -> None:
    began = time.perf_counter()
    H = Hessian(problem)
    try:
        plan = H.memory_plan()
        # A batch whose graph is not kept builds it again, a gradient's work each time.
        work.per_product = 3.0 - plan.num_kept / plan.num_batches
        row["per_product"] = work.per_product
        work.add("graphs", gradients=1.0, seconds=time.perf_counter() - began)
        pairs: Eigenpairs | None = None
        if "eigenvalues" in settings.measures:
            pairs = top_pairs(H, settings, memory, work, part="eigenvalues")
            row["eigenvalues"] = pairs.eigenvalues.tolist()
            row["residual_norms"] = pairs.residual_norms.tolist()
            row["converged"] = pairs.converged.tolist()
            if "alignment" in settings.measures and gradient is not None:
                row["alignment"] = _alignment(pairs, gradient)
        if "preconditioned" in settings.measures:
            _preconditioned(problem, H, settings, memory, optimizer, row, work)
        if "trace" in settings.measures:
            value, error = _trace(H, pairs, settings, work)
            row["trace"], row["trace_error"] = value, error
        if "effective_dimension" in settings.measures:
            curve = work.timed(
                "effective_dimension",
                lambda: effective_dimension(
                    H,
                    z=list(settings.z),
                    num_probes=settings.num_probes,
                    num_steps=settings.num_steps,
                    generator=settings.generator(),
                ),
            )
            row["effective_dimension"] = curve.values.tolist()
            row["effective_dimension_band"] = torch.stack(curve.band(), dim=1).tolist()
    finally:
        H.release()


def _preconditioned(
    problem: Problem,
    H: Hessian,
    settings: Settings,
    memory: Memory,
    optimizer: Any,
    row: Row,
    work: Work,
) -> None:
    try:
        scale = optimiser_scale(optimizer, problem)
    except ValueError:
        # Before its first step an adaptive optimiser has no scale yet.
        if not any(optimizer.state.values()):
            return
        raise
    P = PreconditionedOperator(H, scale)
    pairs = top_pairs(P, settings, memory, work, part="preconditioned", k=1)
    row["preconditioned_sharpness"] = float(pairs.eigenvalues[0])
    row["preconditioned_residual"] = float(pairs.residual_norms[0])
    row["preconditioned_converged"] = bool(pairs.converged[0])
    if pairs.eigenvectors is not None:
        found = barely_scaled(optimizer, problem, pairs.eigenvectors[:, 0])
        if found is not None:
            row["barely_scaled"] = found


def top_pairs(
    A: LinearOperator,
    settings: Settings,
    memory: Memory,
    work: Work,
    *,
    part: str,
    k: int | None = None,
) -> Eigenpairs:
    """Compute eigenpairs, starting from those of the measurement before.

    The first ones, and every ``check_every``-th, are those of `eigsh`, which also looks
    for repeated eigenvalues. Convergence is judged by true residuals in any case.
    """
    k = settings.k if k is None else k
    which = settings.which if part == "eigenvalues" else "LA"
    arguments: dict[str, Any] = {
        "k": k,
        "which": which,
        "tol": settings.tol,
        "max_matvecs": settings.max_matvecs,
        "generator": settings.generator(),
    }
    earlier = memory.vectors.get(part)
    dense = A.shape[0] <= max(DENSE_BELOW, 2 * k)
    since = memory.since_check.get(part, 0) + 1
    if not settings.warm_start or dense:
        earlier = None
    if earlier is None or since >= settings.check_every:
        start = None if earlier is None else earlier.sum(dim=1)
        call = partial(eigsh, A, start=start, **arguments)
        since = 0
    else:
        call = partial(eigsh_from, A, earlier, **arguments)
    pairs: Eigenpairs = work.timed(part, call)
    memory.since_check[part] = since
    if pairs.eigenvectors is not None:
        memory.vectors[part] = pairs.eigenvectors.to(A.dtype)
    return pairs


def _alignment(pairs: Eigenpairs, gradient: Tensor) -> float:
    assert pairs.eigenvectors is not None
    total = float(gradient.double().square().sum())
    inside = pairs.eigenvectors.T.double() @ gradient.double()
    return float(inside.square().sum()) / total if total > 0.0 else math.nan


def _trace(
    H: Hessian, pairs: Eigenpairs | None, settings: Settings, work: Work
) -> tuple[float, float]:
    """Return the trace and its standard error: top eigenvalues, and probes for the rest.

    The large eigenvalues, which make the probes' noise, are known from their vectors.
    """
    known, A = 0.0, H
    operator: LinearOperator = A
    if pairs is not None and pairs.eigenvectors is not None:
        operator = Deflated(H, pairs.eigenvectors.to(H.dtype))
        known = float(pairs.eigenvalues.sum())
    estimate = work.timed(
        "trace",
        lambda: trace(
            operator,
            method="hutchinson",
            num_matvecs=max(4, settings.num_probes),
            generator=settings.generator(),
        ),
    )
    return known + estimate.value, estimate.standard_error


def scalars(row: Row) -> dict[str, float]:
    """Flatten a measurement into named numbers, for a logger."""
    flat: dict[str, float] = {}
    for name in (
        "loss",
        "accuracy",
        "gradient_norm",
        "alignment",
        "trace",
        "preconditioned_sharpness",
        "learning_rate",
        "limit",
    ):
        value = row.get(name)
        if value is not None and math.isfinite(value):
            flat[name] = float(value)
    for i, value in enumerate(row.get("eigenvalues", ()), 1):
        flat[f"eigenvalue_{i}"] = value
    for z, value in zip(
        row.get("z", ()), row.get("effective_dimension", ()), strict=True
    ):
        flat[f"effective_dimension_at_{z:g}"] = value
    for name, norms in row.get("layers", {}).items():
        flat[f"frobenius_norm/{name}"] = norms["norms"][0]
    return flat
