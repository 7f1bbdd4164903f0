"""Certified eigenpairs of a symmetric operator. It sees products and nothing else."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curvescope._core import memory
from curvescope._core.checkpoint import Checkpoint
from curvescope._core.checks import (
    describe,
    instance,
    message,
    one_of,
    positive_int,
    real,
)
from curvescope._core.errors import AccuracyWarning, ConvergenceError
from curvescope._core.random import gaussian, rademacher, resolve_generator
from curvescope.linalg._basis import basis_folder, room_for_rows
from curvescope.linalg._krylov import KrylovSpace, exact_rows
from curvescope.linalg._session import Session, symmetric_operator
from curvescope.linalg._thick_restart import Plan, ThickRestart
from curvescope.linalg._wanted import order
from curvescope.linop.base import LinearOperator
from curvescope.results import Eigenpairs

_DENSE_BELOW = 64
_LAST_RESORT_BELOW = 2048
_ASYMMETRY = 0.05
# What rounding to bfloat16 leaves in a residual, relative to the largest eigenvalues.
_LEAST_COARSE = 1e-4
# Length of the random part of a start beside the given one, see `mixed_start`.
_NOISE = 0.3


def eigsh(
    A: Any,
    *,
    k: int,
    which: str = "LM",
    tol: float | None = None,
    max_matvecs: int | None = None,
    block_size: int = 1,
    basis_size: int | None = None,
    basis: str | Path = "device",
    start: Eigenpairs | Tensor | None = None,
    residuals: str = "checked",
    check_multiplicity: bool = True,
    eigenvectors: bool = True,
    checkpoint: Checkpoint | None = None,
    strict: bool = False,
    generator: torch.Generator | None = None,
) -> Eigenpairs:
    r"""Compute ``k`` eigenpairs at the end(s) of the spectrum, with true residuals.

    .. math:: \|A v_i - \lambda_i v_i\| \le \max(\mathrm{tol}\,|\lambda_i|,\,
        32\,\varepsilon\,\|A\|)

    Thick-restart (block) Lanczos with full two-pass reorthogonalisation. A single
    start meets each eigenspace in one direction only; after convergence a random
    vector orthogonal to all that was found starts another chain, which ends when an
    eigenvalue above the last wanted one would have shown itself with a probability
    of 95 % at least.

    The products of the basis vectors give the residual of every pair for nothing, up to
    rounding. By default one more product, with a random mixture of all pairs, shows
    whether that is so; where it is not, as for an operator with noise, every pair gets a
    product of its own.

    Small matrices are diagonalised densely, and so are those of dimension
    up to 2048 where Lanczos took more than ``n`` products.

    Args:
        A: Symmetric operator, or anything `aslinearoperator` takes.
        k: Number of pairs, at most ``n``.
        which: ``"LM"`` largest magnitude, ``"LA"`` largest, ``"SA"`` smallest,
            ``"BE"`` half from each end (one more from the high end if ``k`` is odd).
        tol: Relative residual; by default 1e-8 in float64, and 1e-3 below it or with a
            basis in bfloat16, which does not reach less than 1e-4.
        max_matvecs: Products to spend at most, by default ``max(2000, 100 k)``.
        block_size: Columns of one block step; more than 1 pays where a block costs
            little more than a column, and where eigenvalues repeat.
        basis_size: Vectors to keep before a restart, by default ``max(60, 2 k + 40)``,
            or fewer where the memory does not hold them.
        basis: Where the basis lies: ``"device"``; ``"bfloat16"`` for half of float32's
            memory; ``"cpu"`` or ``"disk"`` for what a GPU, or the memory, does not hold;
            or a folder for a file, which is gone when the call ends, however it ends.
        start: Pairs of a matrix nearby, or vectors ``(n,)`` or ``(n, b)`` whose span is
            near what is wanted, such as `start_vectors`. Good ones save products; a
            random vector is mixed in, so that bad ones hide nothing and cost little.
        residuals: ``"checked"`` by one product for all pairs; ``"products"``, one a
            pair; or ``"estimated"`` from the recurrence alone, without any.
        check_multiplicity: Whether to look for repeated and missed eigenvalues, for
            about as many products as the first phase at most.
        eigenvectors: Whether the result keeps them.
        checkpoint: Where to save the state after block products, and to resume from.
            It is left in place: clear it when the result is saved.
        strict: Raise, instead of warning, if a pair is not converged.
        generator: Source of the start vectors; a fresh one with a fixed seed if
            ``None``.

    Returns:
        The pairs, descending, each with its true residual and a flag; the cost counts
        every product, those of the residuals included.

    Raises:
        ValueError: If ``A`` is not symmetric, has products that are not finite, or an
            argument is out of range.
        ChangedDuringComputationError: If the matrix changes meanwhile.
        ConvergenceError: If ``strict`` and a pair is not converged.

    Cost:
        About 2 to 4 ``k`` products where the wanted eigenvalues are isolated, plus one
        for the residuals, plus the check. Memory: ``basis_size + 6`` vectors, plus
        ``2 k`` at the end, plus the products' own.

    Example:
        >>> eigsh(torch.diag(torch.tensor([3.0, -5.0, 1.0])), k=2).eigenvalues
        tensor([ 3., -5.], dtype=torch.float64)

    References:
        Wu and Simon (2000), doi:10.1137/S0895479898334605 (thick restart);
        Kuczynski and Wozniakowski (1992), doi:10.1137/0613066 (random starts).
    """
    operator = symmetric_operator(A)
    n = operator.shape[0]
    remedy = f"The matrix has {n} eigenvalues; use `k={n}` for all of them."
    k = positive_int("k", k)
    if k > n:
        raise ValueError(message("k", f"be at most {n}, the dimension", k, remedy))
    one_of("which", which, ("LM", "LA", "SA", "BE"))
    block_size = positive_int("block_size", block_size)
    one_of("residuals", residuals, ("checked", "products", "estimated"))
    vectors = _check_start(start, operator)
    basis_folder(basis)
    tol = _check_tolerance(tol, operator, basis)
    limit = max(2000, 100 * k) if max_matvecs is None else max_matvecs
    limit = positive_int("max_matvecs", limit)
    plan = Plan(k, which, tol, block_size, limit, check_multiplicity, residuals)
    generator = resolve_generator(generator)
    settings = {
        "k": k,
        "which": which,
        "tol": tol,
        "max_matvecs": limit,
        "block_size": block_size,
        "check_multiplicity": check_multiplicity,
        "basis": "disk" if isinstance(basis, Path) else basis,
        "start": "random" if vectors is None else f"{vectors.shape[0]} given vectors",
        "seed": generator.initial_seed(),
    }
    if basis_size is not None:
        settings["basis_size"] = positive_int("basis_size", basis_size)
    with Session(operator, f"{k} eigenpairs ({which})", total=None) as session:
        found: _Found | None = None
        settings["method"] = "thick-restart Lanczos"
        if n > max(_DENSE_BELOW, 2 * k) or n > limit:
            found = _iterate(
                session, plan, basis, vectors, checkpoint, generator, settings
            )
        if found is None:
            settings["method"] = "dense"
            found = _dense(session, plan)
        cost = session.cost()
        scale = session.scale or 1.0
    values, norms = found.values, found.residuals
    descending = torch.argsort(values, descending=True, stable=True)
    floor = 32.0 * torch.finfo(session.dtype).eps * found.norm
    converged = norms <= (tol * values.abs()).clamp_min(floor)
    result = Eigenpairs(
        of=operator.info,
        cost=cost,
        settings=settings,
        notes=tuple(found.notes),
        eigenvalues=values[descending] * scale,
        eigenvectors=found.vectors[:, descending.to(found.vectors.device)]
        if eigenvectors
        else None,
        residual_norms=norms[descending] * scale,
        residuals_from=found.residuals_from,
        converged=converged[descending],
        which=which,
        tolerance=tol,
        norm=found.norm * scale,
    )
    return _judged(result, strict=strict)


@dataclasses.dataclass(frozen=True)
class _Found:
    """Pairs of the scaled matrix, in any order."""

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    residuals_from: str
    norm: float
    notes: list[str]


def _check_tolerance(tol: float | None, A: LinearOperator, basis: str | Path) -> float:
    """Return the tolerance, if a basis of so few digits can reach it."""
    coarse = basis == "bfloat16"
    if tol is None:
        return 1e-8 if A.dtype == torch.float64 and not coarse else 1e-3
    tol = real("tol", tol, minimum=0.0)
    if coarse and tol < _LEAST_COARSE:
        contract = f'be at least {_LEAST_COARSE:g} with `basis="bfloat16"`'
        remedy = 'Use `basis="cpu"` or `"disk"`, which lose no digits.'
        raise ValueError(message("tol", contract, tol, remedy))
    return tol


def _check_start(start: Eigenpairs | Tensor | None, A: LinearOperator) -> Tensor | None:
    """Return the start as rows."""
    if start is None:
        return None
    n = A.shape[0]
    if isinstance(start, Eigenpairs):
        if start.eigenvectors is None:
            remedy = "Compute them with `eigsh(..., eigenvectors=True)`."
            text = message("start", "have eigenvectors", "eigenvalues alone", remedy)
            raise ValueError(text)
        start = start.eigenvectors
    instance("start", start, Tensor, "Pass vectors as columns, or an `eigsh` result.")
    if start.ndim not in (1, 2) or start.shape[0] != n or start.numel() == 0:
        contract = f"have shape ({n},) or ({n}, b)"
        raise ValueError(message("start", contract, describe(start)))
    if not bool(torch.isfinite(start).all()) or not bool((start != 0).any()):
        raise ValueError(message("start", "be finite and not zero", describe(start)))
    return start.detach().reshape(n, -1).T


def _dense(session: Session, plan: Plan) -> _Found:
    """Diagonalise the whole matrix in float64."""
    D = session.dense()
    size = float(D.abs().max())
    asymmetry = float((D - D.T).abs().max())
    _refuse_asymmetry(asymmetry, size)
    values, vectors = torch.linalg.eigh((D + D.T) / 2)
    norm = float(values.abs().max())
    chosen = order(values, plan.which)[: plan.k]
    rounded = vectors[:, chosen].to(session.dtype)
    Y = rounded.double()
    squares = Y.square().sum(dim=0)
    product = D @ Y
    quotients = (Y * product).sum(dim=0) / squares
    residuals = torch.linalg.vector_norm(product - quotients * Y, dim=0)
    notes = [f"the whole matrix was diagonalised: n = {session.n} is small"]
    rounded = rounded.to(session.device)
    return _Found(quotients, rounded, residuals / squares.sqrt(), "dense", norm, notes)


def _refuse_asymmetry(asymmetry: float, norm: float) -> None:
    if asymmetry > _ASYMMETRY * norm:
        got = f"x'Ay and y'Ax that differ by {asymmetry / norm:.2g} of its norm"
        remedy = (
            "Check that `A` is symmetric and that the same vector gives the same "
            "product every time (dropout?)."
        )
        raise ValueError(message("A", "be symmetric and deterministic", got, remedy))


def _iterate(
    session: Session,
    plan: Plan,
    basis: str | Path,
    vectors: Tensor | None,
    checkpoint: Checkpoint | None,
    generator: torch.Generator,
    settings: dict[str, Any],
) -> _Found | None:
    """Run thick-restart Lanczos; ``None`` where the dense route is cheaper after all."""
    least = 2 * plan.k + plan.block_size
    if plan.max_matvecs < least:
        contract = f"be at least 2 k + block_size = {least}"
        remedy = "The residuals alone take k products."
        text = message("max_matvecs", contract, plan.max_matvecs, remedy)
        raise ValueError(text)
    last_resort = session.n <= _LAST_RESORT_BELOW
    if last_resort and plan.max_matvecs >= 2 * session.n + least:
        plan = dataclasses.replace(plan, max_matvecs=session.n + least)
    else:
        last_resort = False
    spare = max(plan.block_size, plan.k if basis == "bfloat16" else min(plan.k, 4))
    size, notes = _choose_basis_size(
        session, plan, basis, settings.get("basis_size"), spare
    )
    settings["basis_size"] = size
    head = plan.k if basis == "bfloat16" else 0
    space = KrylovSpace(session, size, spare, generator, basis=basis, head=head)
    machine = ThickRestart(session, space, plan, checkpoint)
    machine.run(
        None if vectors is None else mixed_start(vectors, plan.block_size, generator)
    )
    norm = max(space.norm, float(machine.values.abs().max()))
    _refuse_asymmetry(space.asymmetry, norm)
    missed = bool((machine.residuals > machine.allowed(machine.values)).any())
    if last_resort and (missed or machine.progress.check_cut_short):
        return None
    if machine.progress.check_cut_short:
        notes.append(
            "the check for repeated or missed eigenvalues ran out of its products "
            "before it could exclude them near the last wanted value"
        )
    vectors, turn = orthonormal_columns(machine.vectors())
    # Turned vectors mix the pairs: by as much as they lacked of being orthonormal.
    mixed = torch.linalg.vector_norm(
        machine.values[:, None] * turn - turn * machine.values, dim=0
    )
    if basis == "bfloat16":
        off = float((turn - torch.eye(plan.k, dtype=turn.dtype)).abs().max())
        notes.append(
            f"the basis was kept in bfloat16: vectors were orthogonal up to {2 * off:.1e}; "
            "what rounding left is in the residuals"
        )
    return _Found(
        machine.values,
        vectors,
        machine.residuals + mixed,
        machine.progress.residuals_from,
        norm,
        notes,
    )


def mixed_start(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return rows that hold all of the span of the rows ``vectors``, and some of the rest.

    A Krylov space does not need each of them: it separates what one vector mixes, with as
    many products as multiplying each would take. The signs are random, since given
    vectors may add up to zero, as class means around their mean do.
    """
    if vectors.dtype.itemsize < 4:
        vectors = vectors.float()
    rows = _unit_rows(vectors)
    shape = (count, rows.shape[0])
    dtype, device = rows.dtype, rows.device
    signs = rademacher(shape, generator, dtype=dtype, device=device)
    # Unequal, so that a vector and its opposite do not cancel.
    weights = 0.5 + torch.rand(shape, generator=generator, device=generator.device)
    shape = (count, rows.shape[1])
    noise = gaussian(shape, generator, dtype=dtype, device=device)
    mixtures = (signs * weights.to(rows)) @ rows
    return _unit_rows(mixtures) + _NOISE * _unit_rows(noise)


def _unit_rows(rows: Tensor) -> Tensor:
    sizes = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(sizes > 0.0, sizes, torch.ones_like(sizes))


def _choose_basis_size(
    session: Session,
    plan: Plan,
    basis: str | Path,
    basis_size: int | None,
    spare: int,
) -> tuple[int, list[str]]:
    """Return how many vectors to keep before a restart, and what to say about it."""
    n, k = session.n, plan.k
    least = min(n, k + 2 * max(spare, 2))
    # The residuals of all pairs at once, or the result, come on top of the basis.
    others = 2 * k + spare + 4 * plan.block_size
    if basis == "bfloat16":
        others += k + exact_rows(spare)
    fits, room = room_for_rows(
        basis, n, dtype=session.dtype, device=session.device, others=others
    )
    if basis_size is not None:
        chosen = basis_size
        if chosen < least:
            contract = f"be at least {least} for k={k}, block_size={plan.block_size}"
            raise ValueError(message("basis_size", contract, chosen))
        return min(chosen, n), []
    chosen = default_basis_size(n, k, block_size=plan.block_size)
    if fits >= chosen:
        return chosen, []
    there = memory.format_bytes(room)
    if fits < least:
        needed = memory.format_bytes((least + others) * n * session.dtype.itemsize)
        remedy = (
            f"The basis needs {needed}, and {there} can be taken. Use a smaller k, or "
            'another `basis`: "bfloat16", "cpu" or "disk".'
        )
        text = message("k", "leave room for the basis in memory", k, remedy)
        raise ValueError(text)
    on_disk = basis == "disk" or isinstance(basis, Path)
    what = "of the disk" if on_disk else "of memory"
    note = (
        f"the basis holds {fits} vectors instead of {chosen}, since {there} {what} "
        "can be taken"
    )
    return fits, [note]


def default_basis_size(n: int, k: int, *, block_size: int = 1) -> int:
    """Return how many vectors `eigsh` keeps before a restart, memory permitting."""
    return min(n, max(60, 2 * k + 40, k + 8 * block_size))


def working_vectors(n: int, k: int) -> int:
    """Return how many vectors a run of `eigsh` holds at its peak: basis and result."""
    return default_basis_size(n, k) + min(k, 4) + 2 * k + 4


def orthonormal_columns(V: Tensor) -> tuple[Tensor, Tensor]:
    """Remove the rounding of a long run from columns that are nearly orthonormal.

    Returns:
        The columns, changed in place, and by what they were multiplied.
    """
    gram = torch.zeros(V.shape[1], V.shape[1], dtype=torch.float64, device=V.device)
    for rows in V.split(1 << 15):
        gram += rows.double().T @ rows.double()
    # The symmetric inverse square root moves the columns least.
    values, vectors = torch.linalg.eigh(gram.cpu())
    inverse = (vectors / values.sqrt()) @ vectors.T
    for rows in V.split(1 << 15):
        rows.copy_((rows.double() @ inverse.to(V.device)).to(V.dtype))
    return V, inverse


def _judged(result: Eigenpairs, *, strict: bool) -> Eigenpairs:
    missing = int((~result.converged).sum())
    if not missing:
        return result
    worst = float(result.relative_residuals[~result.converged].max())
    text = (
        f"{missing} of {len(result.converged)} eigenpairs of the {result.of.matrix} did "
        f"not reach the relative residual {result.tolerance:g} (worst: {worst:.2g}) in "
        f"{result.cost.num_matvecs} products. Raise `max_matvecs`, `basis_size` or `tol`."
    )
    if strict:
        raise ConvergenceError(text)
    warnings.warn(text, AccuracyWarning, stacklevel=3)
    return dataclasses.replace(result, notes=(*result.notes, text))
