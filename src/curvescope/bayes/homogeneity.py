r"""Function-space homogeneity: directions in which the data's predictions cannot change.

For outputs linear in the parameters, :math:`f = \Phi\theta`, and a loss convex in them,
:math:`H = \Phi^\top D \Phi + \delta I` has its smallest eigenvalue :math:`\delta` on the
null space of :math:`\Phi`, where predictions stay at ANY step (linear and GLM theorem).
A network has this to first order only: :math:`\|f(\theta + \varepsilon v) - f(\theta)\| =
O(\varepsilon^2)` for v in the null space of its Jacobian.
"""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from curvescope._core.checks import instance, message, positive_int, real
from curvescope._core.random import gaussian, resolve_generator
from curvescope.curvature import Hessian, Jacobian
from curvescope.problem import Problem
from curvescope.results import Cost, FunctionSpaceHomogeneity, HomogeneityStep

RELATIVE_STEPS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
_MOST_SIDE = 4000
_GAP = 1e3
Verdict = Literal["linear theorem", "GLM theorem", "first order only", "none"]


def check_function_space_homogeneity(
    problem: Problem,
    *,
    steps: Sequence[float] | None = None,
    num_directions: int = 4,
    generator: torch.Generator | None = None,
) -> FunctionSpaceHomogeneity:
    r"""Measure whether the theorem of function-space homogeneity holds for a model.

    Predictions on the data are compared before and after steps along random directions of
    the Jacobian's null space, and along random directions of the same length. The loss's
    output Hessians are formed, and the true Hessian is multiplied with the null directions.

    Args:
        problem: Model, loss and data; computed in float64.
        steps: Lengths, ascending; by default 1e-4 to 10 times the parameters' norm.
        num_directions: Directions of each kind; the largest change counts.
        generator: Source of the directions; a fresh one with a fixed seed if ``None``.

    Returns:
        A verdict, and all that was measured for it.

    Raises:
        ValueError: If an argument is out of range, or the Jacobian is too large to
            decompose.

    Cost:
        The Jacobian over the data and its SVD; a forward pass a step and direction.

    Example:
        >>> data = (torch.eye(3, 5), torch.tensor([0, 1, 0]))
        >>> problem = Problem(torch.nn.Linear(5, 2, bias=False), "cross_entropy", data)
        >>> found = check_function_space_homogeneity(problem)
        >>> found.verdict, found.null_dimension
        ('GLM theorem', 4)

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, section 5 and appendix.
    """
    began = time.perf_counter()
    remedy = "Make one: `cs.Problem(model, loss, data)`."
    instance("problem", problem, Problem, remedy)
    number = positive_int("num_directions", num_directions)
    generator = resolve_generator(generator)
    original, problem = problem, _plain(problem.promoted())
    J = _jacobian(problem)
    _, s, V = torch.linalg.svd(J, full_matrices=False)
    eps = torch.finfo(torch.float64).eps
    largest = float(s[0])
    rank = int((s > max(J.shape) * eps * largest).sum())
    theta_norm = float(torch.linalg.vector_norm(problem.parameter_vector()))
    lengths = _check_steps(steps, theta_norm or 1.0)
    shape = (problem.num_params, number)
    G = gaussian(shape, generator, dtype=torch.float64, device=torch.device("cpu"))
    random = G / torch.linalg.vector_norm(G, dim=0)
    rows = V[:rank]
    for _ in range(2):
        G = G - rows.T @ (rows @ G)
    has_null = rank < problem.num_params
    null = (
        G / torch.linalg.vector_norm(G, dim=0)
        if has_null
        else torch.zeros(shape).double()
    )
    # What rounding alone moves an output by: of its own size, and of the step's.
    tolerance = 64.0 * eps * math.sqrt(problem.num_params + J.shape[0])
    probe = _Probe(problem, J, largest, tolerance)
    changes = [probe.at(length, null, random) for length in lengths]
    low, high, moved = _output_curvature(problem, float(lengths[-1]) * random[:, 0])
    residual = math.nan
    if has_null and high > 0.0 and largest > 0.0:
        product = Hessian(problem) @ null.to(problem.device)
        scale = problem.scale * high * largest**2
        residual = float(torch.linalg.vector_norm(product, dim=0).max()) / scale
    linear = all(c.unmoved and c.explained for c in changes)
    notes = _notes(s, rank, lowest=low, highest=high, linear=linear)
    return FunctionSpaceHomogeneity(
        of=original.provenance("function-space homogeneity"),
        cost=Cost(
            num_matvecs=number,
            num_data_passes=len(lengths) * 2 * number + 4,
            seconds=time.perf_counter() - began,
        ),
        settings={"num_directions": number, "seed": generator.initial_seed()},
        notes=notes,
        verdict=_verdict(
            has_null=has_null,
            linear=linear,
            convex=low >= -tolerance * high,
            moved=moved,
        ),
        rank=rank,
        num_params=problem.num_params,
        num_outputs=J.shape[0],
        steps=tuple(change.step for change in changes),
        null_order=_order([(c.step.step, c.null, c.floor) for c in changes]),
        random_order=_order([(c.step.step, c.random, c.floor) for c in changes]),
        hessian_residual=residual,
        output_curvature=(low, high),
        tolerance=tolerance,
    )


def _plain(problem: Problem) -> Problem:
    """Return the problem without weight decay: its identity moves every eigenvalue."""
    other = copy.copy(problem)
    other.weight_decay = 0.0
    return other


def _jacobian(problem: Problem) -> Tensor:
    J = Jacobian(problem)
    if min(J.shape) > _MOST_SIDE:
        contract = f"have at most {_MOST_SIDE} outputs or parameters over its data"
        got = f"{J.shape[0]} outputs, {J.shape[1]} parameters"
        remedy = "Use fewer samples, or select parameters."
        raise ValueError(message("problem", contract, got, remedy))
    if J.shape[0] <= J.shape[1]:
        unit = torch.eye(J.shape[0], dtype=torch.float64, device=J.device)
        return J.adjoint_product(unit).T.cpu().contiguous()
    return J.to_dense().cpu()


def _check_steps(steps: Sequence[float] | None, size: float) -> list[float]:
    if steps is None:
        return [step * size for step in RELATIVE_STEPS]
    lengths = [real("steps", step, minimum=0.0, strict=True) for step in steps]
    if len(lengths) < 2 or sorted(set(lengths)) != lengths:
        contract = "be two lengths or more, ascending"
        raise ValueError(message("steps", contract, lengths))
    return lengths


@final
@dataclass(frozen=True)
class _Change:
    """What a step length did; absolute norms, and what of them is rounding."""

    step: HomogeneityStep
    null: float
    random: float
    floor: float
    unmoved: bool
    explained: bool


@final
class _Probe:
    """Outputs over the data at moved parameters; the model itself is not touched."""

    def __init__(
        self, problem: Problem, J: Tensor, largest: float, tolerance: float
    ) -> None:
        self.problem, self.J, self.largest = problem, J, largest
        self.tolerance = tolerance
        zero = torch.zeros(problem.num_params, dtype=torch.float64)
        self.outputs = moved_outputs(problem, zero)
        self.size = float(torch.linalg.vector_norm(self.outputs))

    def at(self, length: float, null: Tensor, random: Tensor) -> _Change:
        nulls, randoms, rests = [0.0], [0.0], [0.0]
        for v, w in zip(null.T, random.T, strict=True):
            nulls.append(self._norm(self._change(length * v)))
            change = self._change(length * w)
            randoms.append(self._norm(change))
            rests.append(self._norm(change - self.J @ (length * w)))
        floor = self.tolerance * (self.size + self.largest * length)
        unit = self.size or 1.0
        step = HomogeneityStep(
            step=length,
            null_change=max(nulls) / unit,
            random_change=max(randoms) / unit,
            nonlinearity=max(rests) / max(randoms) if max(randoms) > 0.0 else 0.0,
        )
        return _Change(
            step,
            max(nulls),
            max(randoms),
            floor,
            unmoved=max(nulls) <= floor,
            explained=max(rests) <= floor,
        )

    def _change(self, step: Tensor) -> Tensor:
        return moved_outputs(self.problem, step) - self.outputs

    @staticmethod
    def _norm(vector: Tensor) -> float:
        return float(torch.linalg.vector_norm(vector))


def moved_outputs(problem: Problem, step: Tensor) -> Tensor:
    """Return all outputs over the data at ``theta + step``, as one vector on the CPU."""
    parameters = _moved(problem, step)
    with problem.network.running(), torch.no_grad():
        parts = [
            problem.outputs(batch, parameters).flatten().cpu()
            for batch in problem.batches()
        ]
    return torch.cat(parts)


def _moved(problem: Problem, step: Tensor) -> dict[str, Tensor]:
    _, parameters = problem.leaves()
    row = step.to(device=problem.device, dtype=problem.dtype)[None]
    pieces = problem.layout.split(row)
    for name, piece in zip(problem.layout.names, pieces, strict=True):
        parameters[name] = parameters[name].detach() + piece[0]
    return parameters


def _output_curvature(problem: Problem, step: Tensor) -> tuple[float, float, bool]:
    """Return the extreme eigenvalues of the output Hessians, and whether they move."""
    low, high, moved = math.inf, -math.inf, False
    here, there = problem.leaves()[1], _moved(problem, step)
    with problem.network.running(), torch.no_grad():
        for batch in problem.batches():
            pair = []
            for parameters in (here, there):
                outputs = problem.outputs(batch, parameters)
                n = batch.num_samples if len(outputs) == batch.num_samples else 1
                width = outputs.numel() // n
                unit = torch.eye(width).to(outputs)[:, None, :].expand(width, n, width)
                product = problem.loss.output_hessian(outputs, batch.targets)
                D = product(unit.reshape(width, *outputs.shape)).reshape(
                    width, n, width
                )
                pair.append(D.transpose(0, 1))
            values = torch.linalg.eigvalsh((pair[0] + pair[0].mT) / 2.0)
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            size = float(pair[0].abs().max())
            moved |= float((pair[0] - pair[1]).abs().max()) > 1e-12 * size
    return low, high, moved


def _verdict(*, has_null: bool, linear: bool, convex: bool, moved: bool) -> Verdict:
    if not has_null:
        return "none"
    if not linear:
        return "first order only"
    # Curvature that depends on the outputs, or is indefinite, is no squared error's.
    if convex and not moved:
        return "linear theorem"
    return "GLM theorem" if convex else "first order only"


def _order(points: list[tuple[float, float, float]]) -> float:
    """Return the exponent of a change, at the smallest steps where it is no rounding."""
    usable = [(step, change) for step, change, floor in points if change > 30.0 * floor]
    if len(usable) < 2:
        return math.nan
    (a, u), (b, v) = usable[:2]
    return math.log(v / u) / math.log(b / a)


def _notes(
    s: Tensor, rank: int, *, lowest: float, highest: float, linear: bool
) -> tuple[str, ...]:
    notes = []
    if 0 < rank < len(s) and float(s[rank - 1]) < _GAP * float(s[rank]):
        notes.append(
            f"the Jacobian's rank is not clear: singular value {rank} is only "
            f"{float(s[rank - 1] / s[rank]):.3g} times the next"
        )
    if lowest <= 1e-12 * highest:
        notes.append(
            "the loss's output Hessians are singular: the Hessian's null space is larger "
            "than the Jacobian's"
        )
    if linear and lowest < -1e-12 * highest:
        notes.append("the loss is not convex in the outputs: theorems do not apply")
    return tuple(notes)
