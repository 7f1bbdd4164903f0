"""The loss on a line or plane through the present weights."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from curvescope._core.checkpoint import Checkpoint
from curvescope._core.checks import (
    describe,
    message,
    positive_int,
    real,
    writable_folder,
)
from curvescope._core.fingerprints import checksum, combine
from curvescope._core.memory import peak_memory
from curvescope._core.random import resolve_generator
from curvescope.analysis.directions import (
    Directions,
    Finder,
    check_bottom,
    check_eigenpairs,
    find_directions,
    pairs_checksum,
)
from curvescope.analysis.displacement import Displacements, evaluate_rows
from curvescope.curvature import Hessian
from curvescope.problem import Problem
from curvescope.results import Cost, Eigenpairs, LossSurface

_POINTS = {1: 41, 2: 25}


def loss_surface(
    problem: Problem,
    *,
    directions: str | Tensor | Sequence[str | Tensor] = "top",
    num_dims: int | None = None,
    extent: float | Sequence[float] | None = None,
    num_points: int | Sequence[int] | None = None,
    num_top: int = 20,
    eigenpairs: Eigenpairs | None = None,
    keep_directions: bool = False,
    folder: str | Path | None = None,
    generator: torch.Generator | None = None,
) -> LossSurface:
    r"""Evaluate the objective on a line or plane through the present weights.

    .. math:: L(\theta + a\,u + b\,v), \quad \|u\| = \|v\| = 1,\ u \perp v

    Every point is the objective over ALL data, with exact denominators, in the
    problem's mode. The model's parameters are read and never written: after the call,
    and after any interruption of it, they are the same bits.

    Args:
        problem: Model, loss and data.
        directions: ``"top"`` or ``"bottom"`` eigenvectors by magnitude, ``"complement"``
            (random, orthogonal to the top ones), ``"random"``, ``"gradient"`` (in a
            plane: and the Hessian times it), ``"filter"`` (filter-normalised random), a
            tensor ``(P,)`` or ``(P, 2)``, or two of all these in a sequence.
        num_dims: 1 for a line, 2 for a plane; 2 for a name by default.
        extent: Largest step to either side, as a length in parameter space, for all or
            for each axis. 1 by default; for ``"filter"`` the direction's own length.
        num_points: Points of each axis; 41 on a line and 25 x 25 on a plane by default.
            An odd number has the present weights in the middle.
        num_top: Eigenpairs to compute where the net is too large for all of them.
        eigenpairs: Of this problem, to compute none.
        keep_directions: Whether the result keeps the directions.
        folder: Where finished rows are saved, so that the same call goes on after a
            kill; it is left in place.
        generator: Source of the randomness; a fresh one with a fixed seed if ``None``.

    Returns:
        Losses and accuracies, exact; slope and curvature along the directions, whose
        quadratic model stands beside them.

    Raises:
        ValueError: If an argument is out of range, or directions do not fit.
        ChangedDuringComputationError: If the weights change meanwhile.

    Cost:
        One forward pass over all data a point, one reading of the data a row of points;
        a gradient and a product a direction; for eigenvectors those of the eigensolver.
        Memory: the directions, and one more copy of the parameters.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> data = (torch.tensor([[1.0]]), model.weight.detach().clone())
        >>> problem = Problem(model, "half_squared_error", data)
        >>> surface = loss_surface(problem, directions=torch.ones(1), num_points=3)
        >>> surface.coordinates[0].tolist(), [round(x, 4) for x in surface.losses.tolist()]
        ([-1.0, 0.0, 1.0], [0.5, 0.0, 0.5])

    References:
        Li, Xu, Taylor, Studer, Goldstein (2018), arXiv:1712.09913; Maddox, Benton,
        Wilson (2020), arXiv:2003.02139, section 5.
    """
    if not isinstance(problem, Problem):
        remedy = "Make one: `cs.Problem(model, loss, data)`."
        raise TypeError(message("problem", "be a Problem", describe(problem), remedy))
    dims = _num_dims(directions, num_dims)
    num_top = positive_int("num_top", num_top, minimum=2)
    counts, wanted = _counts(num_points, dims), _extents(extent, dims)
    generator = resolve_generator(generator)
    began = time.perf_counter()
    if eigenpairs is not None:
        check_eigenpairs(problem, eigenpairs)
    check_bottom(problem, eigenpairs, _each(directions))
    if folder is not None:
        folder = writable_folder("folder", folder)
    sheet = Displacements(problem)
    key = combine(
        "loss surface",
        sheet.fingerprint,
        _spelled(directions),
        num_top,
        checksum([generator.get_state()]),
        pairs_checksum(eigenpairs),
    )
    finder = Finder(
        problem, num_top, generator, eigenpairs, inner(folder, "eigenpairs", key)
    )
    store = inner(folder, "directions", key)
    found = kept_directions(
        store, problem, lambda: find_directions(finder, directions, dims)
    )
    axes = _axes(found, counts, wanted, filtered=directions == "filter")
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    rows = grid[None] if dims == 1 else grid
    values = evaluate_rows(
        (sheet,),
        lambda place: (found.vectors, rows[place]),
        shape=(rows.shape[0], rows.shape[1]),
        description="loss surface",
        checkpoint=inner(folder, "rows", combine(key, checksum([found.vectors, grid]))),
    )[0].reshape(3, *counts)
    slope, bend = second_order(problem, found.vectors)
    sheet.check()
    here, theta = problem.evaluate(), problem.parameter_vector().double()
    spent = Cost(num_matvecs=dims, num_data_passes=sheet.num_data_passes + 2)
    return LossSurface(
        of=problem.provenance("loss"),
        cost=dataclasses.replace(
            found.cost + spent,
            seconds=time.perf_counter() - began,
            peak_memory=peak_memory(problem.device),
        ),
        settings={
            "directions": _spelled(directions),
            "num_top": num_top,
            "seed": generator.initial_seed(),
        },
        notes=(*found.notes, *remarks(values[0])),
        names=found.names,
        coordinates=axes,
        losses=values[0],
        accuracies=None if here.accuracy is None else values[1],
        loss=objective_here(problem),
        accuracy=here.accuracy,
        gradient=slope,
        curvature=bend,
        direction_norms=found.lengths,
        parameter_norm=float(theta.norm()),
        num_forward_passes=grid[..., 0].numel(),
        directions=found.vectors if keep_directions else None,
    )


def inner(folder: str | Path | None, name: str, key: str) -> Checkpoint | None:
    """Return the checkpoint of one part of a computation."""
    return None if folder is None else Checkpoint(Path(folder) / name, key)


def objective_here(problem: Problem) -> float:
    """Return the objective at the present weights, weight decay included."""
    theta = problem.parameter_vector().double()
    decay = 0.5 * problem.weight_decay * float(theta.square().sum())
    return problem.evaluate().loss + decay


def second_order(problem: Problem, V: Tensor) -> tuple[Tensor, Tensor]:
    """Return slopes ``V'g`` and curvatures ``V'HV``, float64 on the CPU."""
    slope = V.double().T @ problem.gradient().double()
    operator = Hessian(problem)
    bend = V.double().T @ (operator @ V).double()
    operator.release()
    return slope.cpu(), ((bend + bend.T) / 2).cpu()


def remarks(losses: Tensor) -> tuple[str, ...]:
    """Return a note where losses are not finite."""
    count = int((~torch.isfinite(losses)).sum())
    if count == 0:
        return ()
    return (f"the loss is not finite at {count} of {losses.numel()} points",)


def kept_directions(
    store: Checkpoint | None, problem: Problem, find: Callable[[], Directions]
) -> Directions:
    """Return the directions that were saved, or find and save them."""
    state = None if store is None else store.load()
    if state is not None:
        fields, tensors = state
        return Directions(
            tensors["vectors"].to(problem.device),
            tuple(fields["names"]),
            tuple(fields["lengths"]),
            Cost(**fields["cost"]),
            tuple(fields["notes"]),
        )
    found = find()
    if store is not None:
        fields = {
            "names": found.names,
            "lengths": found.lengths,
            "cost": dataclasses.asdict(found.cost),
            "notes": found.notes,
        }
        store.save(fields, {"vectors": found.vectors})
    return found


def _num_dims(
    directions: str | Tensor | Sequence[str | Tensor], num_dims: int | None
) -> int:
    """Return 1 or 2: as asked, or as many as the directions are."""
    if isinstance(directions, str):
        own = 2 if num_dims is None else num_dims
    elif isinstance(directions, Tensor):
        own = 1 if directions.ndim == 1 else directions.shape[-1]
    elif isinstance(directions, Sequence) and all(
        isinstance(d, (str, Tensor)) for d in directions
    ):
        own = len(directions)
    else:
        contract = "be a name, a tensor or a sequence of these"
        raise TypeError(message("directions", contract, describe(directions)))
    if own not in (1, 2) or num_dims not in (None, own):
        got = f"{own} direction(s), num_dims={num_dims}"
        raise ValueError(message("num_dims", "be 1 or 2, as many as directions", got))
    return own


def _counts(num_points: int | Sequence[int] | None, dims: int) -> tuple[int, ...]:
    values = _POINTS[dims] if num_points is None else num_points
    each = tuple(values) if isinstance(values, Sequence) else (values,) * dims
    if len(each) != dims:
        contract = f"be one number, or one for each of {dims} axes"
        raise ValueError(message("num_points", contract, each))
    return tuple(positive_int("num_points", value, minimum=2) for value in each)


def _extents(
    extent: float | Sequence[float] | None, dims: int
) -> tuple[float, ...] | None:
    if extent is None:
        return None
    each = tuple(extent) if isinstance(extent, Sequence) else (extent,) * dims
    if len(each) != dims:
        contract = f"be one length, or one for each of {dims} axes"
        raise ValueError(message("extent", contract, each))
    return tuple(real("extent", value, minimum=0.0, strict=True) for value in each)


def _axes(
    found: Directions,
    counts: tuple[int, ...],
    wanted: tuple[float, ...] | None,
    *,
    filtered: bool,
) -> tuple[Tensor, ...]:
    if wanted is None:
        wanted = found.lengths if filtered else (1.0,) * len(counts)
    return tuple(
        torch.linspace(-far, far, count, dtype=torch.float64)
        for far, count in zip(wanted, counts, strict=True)
    )


def _each(
    directions: str | Tensor | Sequence[str | Tensor],
) -> Sequence[str | Tensor]:
    return [directions] if isinstance(directions, (str, Tensor)) else directions


def _spelled(directions: str | Tensor | Sequence[str | Tensor]) -> list[str]:
    """Name the directions; tensors by their hash."""
    return [
        d if isinstance(d, str) else f"tensor {checksum([d])}"
        for d in _each(directions)
    ]
