"""The step size that curvature allows along the gradient, and what it really gains."""

import math
import time
from typing import Any

import torch
from torch import Tensor

from curvescope._core.checks import describe, message, positive_int
from curvescope._core.memory import peak_memory
from curvescope._core.random import resolve_generator
from curvescope.analysis.displacement import Displacements
from curvescope.analysis.preconditioning import (
    PreconditionedOperator,
    StabilityLimit,
    barely_scaled,
    barely_scaled_note,
    optimiser_scale,
    stability_limit,
    unwrapped_optimiser,
)
from curvescope.curvature import Hessian
from curvescope.linalg import eigsh
from curvescope.linop.base import LinearOperator
from curvescope.problem import Problem
from curvescope.results import Cost, Eigenpairs, StepSize


def step_size(
    problem: Problem,
    *,
    preconditioner: Any = None,
    tol: float | None = None,
    num_points: int = 9,
    generator: torch.Generator | None = None,
) -> StepSize:
    r"""Return the best step along the gradient, its gain, and the largest stable one.

    .. math:: \gamma^* = \frac{g^\top p}{p^\top H p}, \quad
        \Delta = \frac{(g^\top p)^2}{2\,p^\top H p}, \quad
        \gamma_{\max} = \frac{2}{\lambda_{\max}(D^{-1/2} H D^{-1/2})}, \quad p = D^{-1} g

    without a preconditioner ``D = I``. The objective is then measured along the step, so
    that the gain at :math:`\gamma^*` stands beside the predicted one. Weights are read
    and never written.

    Args:
        problem: Model, loss and data.
        preconditioner: ``None``; a torch optimiser that trains the model, whose present
            scales are D (Adam: :math:`\sqrt{\hat v} + \epsilon`, as its last step
            divided by); or a positive vector, one entry a selected parameter.
        tol: Relative residual of the largest eigenvalue, as for `eigsh`.
        num_points: Points of the measured curve; an odd number has :math:`\gamma^*` among
            them, an even one gets one more.
        generator: Source of the start vectors; a fresh one with a fixed seed if ``None``.

    Returns:
        The numbers, and the objective at step sizes from 0 to :math:`2\gamma^*`.

    Raises:
        ValueError: If the preconditioner does not fit the problem, or is an adaptive
            optimiser that has not made a step.
        TypeError: If the preconditioner is of no known kind.
        ChangedDuringComputationError: If the weights change meanwhile.

    Cost:
        One gradient, one product, those of one `eigsh` with ``k=1``, and ``num_points``
        forward passes.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> data = (torch.tensor([[2.0]]), torch.tensor([[1.0]]))
        >>> found = step_size(Problem(model, "mse", data))  # L = (2 w - 1)^2
        >>> round(found.step_size, 6), round(found.stability_limit, 6)
        (0.125, 0.25)

    References:
        LeCun, Simard, Pearlmutter (1993) for :math:`2/\lambda_{\max}`; Cohen et al.
        (2021, 2022), arXiv:2103.00065 and 2207.14484, for the edge of stability.
    """
    if not isinstance(problem, Problem):
        remedy = "Make one: `cs.Problem(model, loss, data)`."
        raise TypeError(message("problem", "be a Problem", describe(problem), remedy))
    num_points = positive_int("num_points", num_points, minimum=3)
    num_points += 1 - num_points % 2
    generator = resolve_generator(generator)
    began = time.perf_counter()
    along = Displacements(problem)
    scale, words, limit = _preconditioner(problem, preconditioner)
    H = Hessian(problem)
    g = problem.gradient()
    p = g if scale is None else (g.double() / scale.double()).to(g.dtype)
    # A unit vector, so that gradients of any size keep their digits in the product.
    length = float(p.double().norm())
    curvature = 0.0
    if length > 0.0:
        unit = (p.double() / length).to(p.dtype)
        curvature = float(unit.double() @ (H @ unit).double()) * length**2
    slope = float(g.double() @ p.double())
    top = _sharpness(H, scale, tol, generator)
    sharpness = float(top.eigenvalues[0])
    stable = 2.0 / sharpness if sharpness > 0.0 else None
    best = _best(slope, curvature)
    grid = _grid(best, stable, slope, num_points)
    losses = along.evaluate(-p[:, None], grid[:, None]).losses
    loss = float(losses[0])
    middle = num_points // 2
    converged = bool(top.converged[0])
    return StepSize(
        of=problem.provenance("Hessian"),
        cost=Cost(
            num_matvecs=top.cost.num_matvecs + int(length > 0.0),
            num_data_passes=top.cost.num_data_passes + along.num_data_passes + 2,
            seconds=time.perf_counter() - began,
            peak_memory=peak_memory(problem.device),
        ),
        settings={
            "preconditioner": words,
            "tol": tol,
            "num_points": num_points,
            "seed": generator.initial_seed(),
        },
        notes=_notes(slope, curvature, sharpness, converged=converged)
        + _beyond(best, stable, loss - float(losses[middle]))
        + _barely(problem, preconditioner, top, limit),
        loss=loss,
        gradient_norm=float(g.double().norm()),
        slope=slope,
        curvature=curvature,
        step_size=best,
        predicted_gain=None if best is None else 0.5 * best * slope,
        actual_gain=None if best is None else loss - float(losses[middle]),
        sharpness=sharpness,
        sharpness_error=float(top.residual_norms[0]),
        sharpness_converged=converged,
        stability_limit=stable,
        preconditioner=words,
        learning_rate=None if limit is None else limit.learning_rate,
        critical_sharpness=None
        if limit is None or not math.isfinite(limit.value)
        else limit.value,
        critical_formula="" if limit is None else limit.formula,
        step_sizes=grid,
        losses=losses,
    )


def _preconditioner(
    problem: Problem, given: Any
) -> tuple[Tensor | None, str, StabilityLimit | None]:
    """Return D, its words, and the optimiser's own limit where it is one."""
    if given is None:
        return None, "none", None
    if isinstance(given, Tensor):
        if tuple(given.shape) != (problem.num_params,):
            contract = f"have shape ({problem.num_params},), one entry a parameter"
            raise ValueError(message("preconditioner", contract, describe(given)))
        if not bool((torch.isfinite(given) & (given > 0)).all()):
            contract = "be finite and above 0 in every entry"
            raise ValueError(message("preconditioner", contract, describe(given)))
        scale = given.detach().to(dtype=torch.float64, device=problem.device)
        return scale, "a given diagonal", None
    if isinstance(given, (int, float, str)):
        contract = "be None, a positive vector or a torch.optim.Optimizer"
        raise TypeError(message("preconditioner", contract, describe(given)))
    inner = unwrapped_optimiser(given)
    scale = optimiser_scale(inner, problem)
    return scale, f"scaled as {type(inner).__name__} does", stability_limit(inner)


def _sharpness(
    H: Hessian,
    scale: Tensor | None,
    tol: float | None,
    generator: torch.Generator,
) -> Eigenpairs:
    operator: LinearOperator = H if scale is None else PreconditionedOperator(H, scale)
    return eigsh(
        operator,
        k=1,
        which="LA",
        tol=tol,
        check_multiplicity=False,
        generator=generator,
    )


def _barely(
    problem: Problem, optimizer: Any, top: Eigenpairs, limit: StabilityLimit | None
) -> tuple[str, ...]:
    """Say so where the sharpness is that of parameters without a scale of their own."""
    if limit is None or top.eigenvectors is None:
        return ()
    found = barely_scaled(optimizer, problem, top.eigenvectors[:, 0])
    return () if found is None else (barely_scaled_note(found, problem.num_params),)


def _best(slope: float, curvature: float) -> float | None:
    if slope <= 0.0 or curvature <= 0.0:
        return None
    best = slope / curvature
    return best if math.isfinite(best) else None


def _grid(
    best: float | None, stable: float | None, slope: float, num_points: int
) -> Tensor:
    """Return step sizes from 0 on: twice the best, else the largest stable one."""
    end = 0.0
    if slope > 0.0:
        end = 2.0 * best if best is not None else (stable or 1.0)
    return torch.linspace(0.0, end, num_points, dtype=torch.float64)


def _notes(
    slope: float, curvature: float, sharpness: float, *, converged: bool
) -> tuple[str, ...]:
    notes = []
    if slope <= 0.0:
        notes.append("the gradient is zero: there is no step along it")
    elif curvature <= 0.0:
        notes.append(
            "the curvature along the gradient is not positive: the quadratic model falls "
            "without end, and has no best step"
        )
    if sharpness <= 0.0:
        notes.append("no curvature is positive: 2 / sharpness bounds no step")
    if not converged:
        notes.append("the largest eigenvalue is not converged: see its residual")
    return tuple(notes)


def _beyond(best: float | None, stable: float | None, gain: float) -> tuple[str, ...]:
    """Say so where the best step of the model is none to repeat, or none at all."""
    notes = []
    if best is not None and stable is not None and best > stable:
        notes.append(
            "the best step lies beyond 2 / sharpness, since the gradient avoids the "
            "sharpest directions: it may pay once, repeated steps of its size diverge"
        )
    if best is not None and gain < 0.0:
        notes.append(
            "the loss rises at the best step of the quadratic model, which does not "
            "reach that far"
        )
    return tuple(notes)
