"""Does the loss, do the predictions stay the same? Steps along kinds of directions."""

import dataclasses
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from curvescope._core.checks import (
    describe,
    message,
    one_of,
    positive_int,
    real_tensor,
    unique,
    writable_folder,
)
from curvescope._core.fingerprints import checksum, combine
from curvescope._core.memory import peak_memory
from curvescope._core.random import gaussian, resolve_generator
from curvescope.analysis.directions import (
    SPECTRAL,
    by_magnitude,
    check_bottom,
    check_eigenpairs,
    eigenbasis,
    is_whole,
    pairs_checksum,
    projected_off,
    subspace,
)
from curvescope.analysis.displacement import Displacements, evaluate_rows
from curvescope.analysis.landscape import inner, objective_here, remarks
from curvescope.curvature import Hessian
from curvescope.problem import Problem
from curvescope.results import Cost, Eigenpairs, Homogeneity

KINDS = ("top", "bottom", "complement", "random")
_STEPS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def homogeneity(
    problem: Problem,
    *,
    num_top: int = 3,
    num_bottom: int | None = None,
    step_lengths: Sequence[float] | Tensor = _STEPS,
    num_draws: int = 5,
    directions: Sequence[str] | None = None,
    test: Problem | None = None,
    num_pairs: int = 20,
    eigenpairs: Eigenpairs | None = None,
    folder: str | Path | None = None,
    generator: torch.Generator | None = None,
) -> Homogeneity:
    r"""Measure loss and label agreement along top, flat and random directions.

    .. math:: L(\theta + s\,v), \quad
        \frac{1}{N} \#\{n : \hat y_n(\theta + s\,v) = \hat y_n(\theta)\}

    with :math:`v` uniform on the unit sphere of a subspace: the span of the top
    eigenvectors by magnitude, of the bottom ones, the complement of the top ones, and,
    as the control, the whole space. In the flat subspace of an overparameterised net the
    function hardly changes, far beyond steps that destroy it in the top one.

    Args:
        problem: Model, loss and data. The model is never written into.
        num_top: Dimension of the top subspace.
        num_bottom: Dimension of the bottom subspace; half of all by default. Needs all
            eigenvectors, which are computed for small nets.
        step_lengths: Steps in parameter norm, above 0.
        num_draws: Random directions of each kind.
        directions: Any of ``"top"``, ``"bottom"``, ``"complement"``, ``"random"``; by
            default top, bottom (where all eigenvectors are there; else the complement of
            all that are) and random.
        test: The same model on other data, evaluated too.
        num_pairs: Eigenpairs to compute where the net is too large for all.
        eigenpairs: Of this problem, to compute none.
        folder: Where finished draws are saved, so that the same call goes on after a
            kill; it is left in place.
        generator: Source of the randomness; a fresh one with a fixed seed if ``None``.

    Returns:
        Every draw's losses, accuracies and label agreements, exact, and its curvature.

    Raises:
        ValueError: If an argument is out of range, or ``test`` is of another model.
        ChangedDuringComputationError: If the weights change meanwhile.

    Cost:
        ``kinds * num_draws * (num_steps + 1)`` forward passes over all data, and one
        product a draw; the eigenpairs' cost. Memory: the eigenvectors.

    Example:
        >>> model = torch.nn.Linear(3, 2)  # 4 of 8 directions change no prediction
        >>> data = (torch.eye(3)[:1], torch.tensor([0]))
        >>> found = homogeneity(Problem(model, "cross_entropy", data), num_bottom=4)
        >>> bool((found.agreements["bottom"] == 1).all())
        True

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, section 5 and appendix.
    """
    num_draws = positive_int("num_draws", num_draws)
    steps = _checked_steps(step_lengths)
    num_pairs = positive_int("num_pairs", num_pairs)
    num_top = positive_int("num_top", num_top)
    _check_problems(problem, test)
    generator = resolve_generator(generator)
    began = time.perf_counter()
    sheets = [Displacements(problem, compare=True)]
    if test is not None:
        sheets.append(Displacements(test, compare=True))
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    key = combine("homogeneity", [sheet.fingerprint for sheet in sheets], seed)
    cost = Cost()
    kinds = _checked_kinds(directions)
    if eigenpairs is not None:
        check_eigenpairs(problem, eigenpairs)
    check_bottom(problem, eigenpairs, kinds or ())
    if folder is not None:
        folder = writable_folder("folder", folder)
    # Those that are given decide the directions; others follow from all the rest.
    given = pairs_checksum(eigenpairs)
    if eigenpairs is None and (kinds is None or set(kinds) & set(SPECTRAL)):
        store = inner(folder, "eigenpairs", combine(key, num_pairs))
        eigenpairs = eigenbasis(
            problem, max(num_pairs, num_top), checkpoint=store, generator=generator
        )
        cost = eigenpairs.cost
        given = f"the {max(num_pairs, num_top)} largest"
    spaces = _spaces(problem, eigenpairs, kinds, num_top, num_bottom)
    draws = _Draws(problem, spaces, num_draws, seed)
    values = evaluate_rows(
        sheets,
        lambda place: (draws.vector(place), steps[:, None]),
        shape=(len(spaces) * num_draws, len(steps)),
        description="homogeneity",
        checkpoint=inner(
            folder, "rows", combine(key, checksum([steps]), draws.key(), given)
        ),
    )
    curvatures = draws.curvatures()
    for sheet in sheets:
        sheet.check()
    count = len(spaces) * num_draws
    passes = sum(sheet.num_data_passes for sheet in sheets)
    here = problem.evaluate()
    return Homogeneity(
        of=problem.provenance("loss"),
        cost=dataclasses.replace(
            cost + Cost(num_matvecs=count, num_data_passes=passes + len(spaces)),
            seconds=time.perf_counter() - began,
            peak_memory=peak_memory(problem.device),
        ),
        settings={
            "num_draws": num_draws,
            "num_eigenpairs": 0 if eigenpairs is None else len(eigenpairs.eigenvalues),
            "seed": generator.initial_seed(),
        },
        notes=(*_notes(eigenpairs, spaces), *remarks(values[:, 0])),
        step_lengths=steps,
        num_vectors={space.kind: space.dimension for space in spaces},
        **_by_kind(values, spaces, num_draws),
        curvatures=dict(zip(draws.kinds, curvatures.split(num_draws), strict=True)),
        loss=objective_here(problem),
        accuracy=here.accuracy,
        test_loss=None if test is None else objective_here(test),
        test_accuracy=None if test is None else test.evaluate().accuracy,
        parameter_norm=float(problem.parameter_vector().double().norm()),
        num_forward_passes=len(sheets) * count * (len(steps) + 1),
    )


@final
@dataclass(frozen=True)
class _Space:
    """A subspace: the span of ``basis``, or where ``inverted`` all that is orthogonal."""

    kind: str
    dimension: int
    basis: Tensor | None
    inverted: bool = False

    def unit_vector(self, problem: Problem, generator: torch.Generator) -> Tensor:
        """Draw uniformly on the subspace's unit sphere, shape ``(P, 1)``."""
        kind, place = problem.dtype, problem.device
        inside = self.basis is not None and not self.inverted
        size = self.dimension if inside else problem.num_params
        z = gaussian((size, 1), generator, dtype=kind, device=place)
        if self.basis is not None:
            z = projected_off(self.basis, z) if self.inverted else self.basis @ z
        return z / z.norm()


@final
@dataclass(frozen=True)
class _Draws:
    """Random directions, each from a seed of its own: any can be drawn again."""

    problem: Problem
    spaces: list[_Space]
    num_draws: int
    seed: int

    @property
    def kinds(self) -> list[str]:
        return [space.kind for space in self.spaces]

    def key(self) -> str:
        """Return a hash of what the draws depend on besides problem and seed."""
        return combine(self.num_draws, [(s.kind, s.dimension) for s in self.spaces])

    def vector(self, place: int) -> Tensor:
        """Return the direction of one row, shape ``(P, 1)``."""
        generator = torch.Generator().manual_seed(self.seed + place)
        space = self.spaces[place // self.num_draws]
        return space.unit_vector(self.problem, generator)

    def curvatures(self) -> Tensor:
        """Return ``v' H v`` of every direction, float64, with a block of products a kind."""
        operator = Hessian(self.problem)
        found = []
        for first in range(0, len(self.spaces) * self.num_draws, self.num_draws):
            rows = range(first, first + self.num_draws)
            V = torch.cat([self.vector(place) for place in rows], dim=1)
            found.append((V.double() * (operator @ V).double()).sum(0).cpu())
        operator.release()
        return torch.cat(found)


def _checked_steps(step_lengths: Sequence[float] | Tensor) -> Tensor:
    steps = real_tensor("step_lengths", step_lengths).reshape(-1)
    good = len(steps) > 0 and bool((torch.isfinite(steps) & (steps > 0)).all())
    if not good:
        got = describe(step_lengths)
        raise ValueError(message("step_lengths", "be finite and above 0", got))
    return steps.unique(sorted=True)


def _checked_kinds(directions: Sequence[str] | None) -> tuple[str, ...] | None:
    if directions is None:
        return None
    names = (directions,) if isinstance(directions, str) else directions
    contract = f"name one or more of {', '.join(KINDS)}"
    if not isinstance(names, Iterable):
        raise TypeError(message("directions", contract, describe(directions)))
    names = tuple(names)
    if not names:
        remedy = "Leave it out for the default."
        raise ValueError(message("directions", contract, "none", remedy))
    for name in unique("directions", names):
        one_of("directions", name, KINDS)
    return names


def _check_problems(problem: Problem, test: Problem | None) -> None:
    for name, value in (("problem", problem), ("test", test)):
        if not isinstance(value, Problem) and (name, value) != ("test", None):
            remedy = "Make one: `cs.Problem(model, loss, data)`."
            raise TypeError(message(name, "be a Problem", describe(value), remedy))
    if test is None:
        return
    same = test.model is problem.model and test.layout.names == problem.layout.names
    if not same or test.dtype != problem.dtype or test.device != problem.device:
        contract = "be the same model, parameters, dtype and device on other data"
        raise ValueError(message("test", contract, repr(test)))


def _spaces(
    problem: Problem,
    pairs: Eigenpairs | None,
    directions: Sequence[str] | None,
    num_top: int,
    num_bottom: int | None,
) -> list[_Space]:
    whole = pairs is not None and is_whole(problem, pairs)
    if directions is None:
        directions = ("top", "bottom" if whole else "complement", "random")
    size = problem.num_params
    if num_bottom is None:
        num_bottom = max(1, size // 2)
    num_bottom = positive_int("num_bottom", num_bottom)
    spaces = []
    for kind in directions:
        if kind == "random":
            spaces.append(_Space(kind, size, None))
            continue
        assert pairs is not None
        if kind == "complement":
            # Of all pairs no complement is left: then of the top ones asked for.
            _, Q = by_magnitude(problem, pairs)
            Q = Q[:, :num_top] if whole else Q
            if Q.shape[1] == size:
                contract = "leave directions outside the top ones"
                raise ValueError(message("num_top", contract, num_top))
            spaces.append(_Space(kind, size - Q.shape[1], Q, inverted=True))
        else:
            num = num_top if kind == "top" else num_bottom
            _, Q = subspace(problem, pairs, kind, num)
            spaces.append(_Space(kind, num, Q))
    return spaces


def _by_kind(
    values: Tensor, spaces: list[_Space], num_draws: int
) -> dict[str, dict[str, Tensor]]:
    """Name the numbers ``(sheets, 3, rows, points)``; those that are not there are not."""
    found: dict[str, dict[str, Tensor]] = {}
    for prefix, sheet in zip(("", "test_"), values, strict=False):
        for name, rows in zip(
            ("losses", "accuracies", "agreements"), sheet, strict=True
        ):
            if name != "losses" and bool(rows.isnan().all()):
                continue
            parts = rows.split(num_draws)
            found[prefix + name] = {
                space.kind: part.clone()
                for space, part in zip(spaces, parts, strict=True)
            }
    return found


def _notes(pairs: Eigenpairs | None, spaces: list[_Space]) -> tuple[str, ...]:
    if pairs is None:
        return ()
    largest = float(pairs.residual_norms.max())
    notes = []
    if any(space.inverted for space in spaces):
        notes.append(
            "the complement is orthogonal to the computed eigenvectors to rounding, and to "
            f"the true ones to their residuals, at most {largest:.2g}"
        )
    if not bool(pairs.converged.all()):
        missed = int((~pairs.converged).sum())
        notes.append(f"{missed} of {len(pairs.converged)} eigenpairs are not converged")
    return tuple(notes)
