"""Stochastic Lanczos quadrature: all probes in lockstep, as one block per step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curvescope._core.checkpoint import Checkpoint
from curvescope._core.checks import positive_int
from curvescope._core.random import resolve_generator
from curvescope.linalg._basis import basis_folder
from curvescope.linalg._lockstep import Lockstep
from curvescope.linalg._session import Session, symmetric_operator
from curvescope.results import Result


@dataclass(frozen=True, kw_only=True)
class Quadrature(Result):
    """Nodes and weights of Gauss quadratures of the spectrum, one a probe.

    Attributes:
        nodes: Ritz values, ascending, shape ``(num_probes, num_steps)``, float64; NaN
            where a probe's Krylov space ended earlier.
        weights: Each row sums to 1; 0 in unused places.
        dimension: Number of eigenvalues.
        exact: Whether these are the eigenvalues themselves, each of weight ``1 / n``.
    """

    nodes: Tensor
    weights: Tensor
    dimension: int
    exact: bool = False

    def headline(self) -> str:
        """Return the result in one line."""
        probes, steps = self.nodes.shape
        return f"quadrature of the {self.of.matrix}: {probes} probes x {steps} steps"


def slq(
    A: Any,
    *,
    num_probes: int,
    num_steps: int,
    basis: str | Path = "device",
    checkpoint: Checkpoint | None = None,
    generator: torch.Generator | None = None,
) -> Quadrature:
    r"""Compute quadrature nodes and weights of the spectrum by Lanczos on probes.

    .. math:: \frac{1}{n} \operatorname{tr} f(A) \approx \frac{1}{p} \sum_{j=1}^{p}
        \sum_{i=1}^{s} w_{ji} f(\theta_{ji})

    Probes are uniform on the sphere, so that the variance of every such sum is known
    from the spectrum alone. Each probe is kept orthogonal to its own basis.

    Args:
        A: Symmetric operator, or anything `aslinearoperator` takes.
        num_probes: Probes; if at least ``n``, the matrix is diagonalised instead.
        num_steps: Lanczos steps of each; more than ``n`` are cut to ``n``.
        basis: Where the bases lie: ``"device"``; ``"bfloat16"``, half of float32's
            memory, with vectors orthogonal up to its rounding over ``sqrt(n)``; ``"cpu"``
            or ``"disk"``, or a folder for a file that is gone when the call ends.
        checkpoint: Where to save after block products, and to resume from.
        generator: Source of the probes; a fresh one with a fixed seed if ``None``.

    Returns:
        Nodes and weights.

    Raises:
        ValueError: If ``A`` is not symmetric, an argument is out of range, or not even
            one probe's basis fits into memory.

    Cost:
        ``num_probes * num_steps`` products in ``num_steps`` blocks; memory for as many
        vectors. Where that is too much, probes go in groups, which a note says.

    Example:
        >>> slq(torch.eye(50), num_probes=2, num_steps=3).weights.sum(dim=1)
        tensor([1., 1.], dtype=torch.float64)

    References:
        Ubaru, Chen and Saad (2017), doi:10.1137/16M1104974, algorithm 1.
    """
    operator = symmetric_operator(A)
    n = operator.shape[0]
    num_probes = positive_int("num_probes", num_probes)
    steps = min(positive_int("num_steps", num_steps), n)
    basis_folder(basis)
    generator = resolve_generator(generator)
    settings: dict[str, Any] = {
        "num_probes": num_probes,
        "num_steps": num_steps,
        "basis": "disk" if isinstance(basis, Path) else basis,
        "seed": generator.initial_seed(),
    }
    if operator.positive_semidefinite:
        settings["positive_semidefinite"] = True
    total = n if num_probes >= n else num_probes * steps
    with Session(operator, "quadrature", total=total) as session:
        if num_probes >= n:
            nodes, weights = dense_quadrature(session)
            notes = []
            settings = {"method": f"dense: all n = {n} columns"}
        else:
            run = Lockstep(session, steps, generator, checkpoint, basis=basis)
            nodes, weights = quadratures(*run.coefficients(num_probes))
            notes = run.notes + run.rounding_note()
        cost = session.cost()
        scale = session.scale or 1.0
    return Quadrature(
        of=operator.info,
        cost=cost,
        settings=settings,
        notes=tuple(notes),
        nodes=nodes * scale,
        weights=weights,
        dimension=n,
        exact=num_probes >= n,
    )


def dense_quadrature(session: Session) -> tuple[Tensor, Tensor]:
    """Return all eigenvalues as nodes, by products with the identity."""
    D = session.dense()
    values = torch.linalg.eigvalsh((D + D.T) / 2)
    shares = torch.full((1, session.n), 1.0 / session.n, dtype=torch.float64)
    return values[None], shares


def quadratures(diagonal: Tensor, off_diagonal: Tensor) -> tuple[Tensor, Tensor]:
    """Return nodes and weights; a row ends where its off-diagonal is first 0."""
    p, steps = diagonal.shape
    ended = (off_diagonal == 0.0)[:, : steps - 1].int().cumsum(dim=1)
    used = torch.cat([torch.ones(p, 1, dtype=torch.bool), ended == 0], dim=1)
    size = float(torch.where(used, diagonal.abs() + 2 * off_diagonal, 0.0).max()) or 1.0
    # Unused places get a decoupled value beyond the spectrum, to be cut off again.
    beyond = 10.0 * size * (1.0 + torch.arange(steps, dtype=torch.float64))
    T = torch.diag_embed(torch.where(used, diagonal, beyond))
    coupled = torch.where(used[:, 1:], off_diagonal[:, : steps - 1], 0.0)
    T = T + torch.diag_embed(coupled, 1) + torch.diag_embed(coupled, -1)
    nodes, vectors = torch.linalg.eigh(T)
    weights = vectors[:, 0].square()
    outside = nodes > 5.0 * size
    weights = torch.where(outside, 0.0, weights)
    weights = weights / weights.sum(dim=1, keepdim=True)
    return torch.where(outside, torch.nan, nodes), weights


def coarser(nodes: Tensor, weights: Tensor, num_steps: int) -> tuple[Tensor, Tensor]:
    """Return the quadratures that fewer steps would have given, without products."""
    return next(each_coarser(nodes, weights, [num_steps]))


def each_coarser(
    nodes: Tensor, weights: Tensor, counts: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the quadratures of several fewer steps: leading parts of one matrix."""
    diagonal, off_diagonal = _tridiagonals(nodes, weights, max(counts))
    for count in counts:
        yield quadratures(diagonal[:, :count], off_diagonal[:, :count])


def from_below(nodes: Tensor, weights: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Return the Gauss-Radau quadratures with one node at ``floor``, without products.

    Where the spectrum lies above ``floor``, functions whose derivatives alternate in
    sign, such as ``x / (x + z)``, are bracketed: Gauss gives too much, Gauss-Radau too
    little. Rows whose Krylov space ended are exact, and stay.

    References:
        Golub and Meurant (2010), Matrices, Moments and Quadrature, sections 6.2 and 6.4.
    """
    steps = nodes.shape[1]
    diagonal, off_diagonal = _tridiagonals(nodes, weights, steps)
    size = nodes.nan_to_num(0.0).abs().amax(dim=1).clamp_min(1e-300)
    # A pivot of zero is a node at the floor already; the next one then stays finite.
    least = torch.finfo(torch.float64).eps * size
    used = off_diagonal[:, : steps - 1] > 0.0
    last = used.long().cumprod(dim=1).sum(dim=1)
    pivot = torch.ones_like(size)
    for j in range(steps):
        before = (
            off_diagonal[:, j - 1].square() / pivot if j else torch.zeros_like(size)
        )
        # Capped, the lowest node comes to lie a rounding below the floor.
        moved = torch.minimum(floor + before, 1e3 * size)
        moved = torch.where(last == j, moved, diagonal[:, j])
        pivot = (diagonal[:, j] - floor - before).clamp_min(least)
        diagonal[:, j] = moved
    found, shares = quadratures(diagonal, off_diagonal)
    ended = torch.isnan(nodes).any(dim=1, keepdim=True)
    return torch.where(ended, nodes, found), torch.where(ended, weights, shares)


def _tridiagonals(
    nodes: Tensor, weights: Tensor, num_steps: int
) -> tuple[Tensor, Tensor]:
    """Return the tridiagonal matrices that Gauss quadratures are of, cut to fewer steps.

    Nodes and weights determine them: Lanczos on ``diag(nodes)`` from ``sqrt(weights)``
    gives them back.
    """
    p = nodes.shape[0]
    # Lighter nodes than this change no digit, but make slow denormal numbers.
    used = weights > 1e-40
    weights = torch.where(used, weights, 0.0)
    X = torch.where(used, nodes, 0.0)
    steps = min(num_steps, nodes.shape[1])
    Q = torch.zeros(p, steps, nodes.shape[1], dtype=torch.float64)
    Q[:, 0] = weights.sqrt()
    diagonal = torch.zeros(p, steps, dtype=torch.float64)
    off_diagonal = torch.zeros(p, steps, dtype=torch.float64)
    size = X.abs().amax(dim=1).clamp_min(1e-300)
    for j in range(steps):
        W = X * Q[:, j]
        diagonal[:, j] = (W * Q[:, j]).sum(dim=1)
        for _ in range(2):
            C = torch.bmm(Q[:, : j + 1], W[:, :, None])
            W = W - torch.bmm(C.mT, Q[:, : j + 1])[:, 0]
        beta = torch.linalg.vector_norm(W, dim=1)
        beta = torch.where(beta > 1e-12 * size, beta, 0.0)
        off_diagonal[:, j] = beta
        if j + 1 < steps:
            Q[:, j + 1] = torch.where(beta > 0.0, 1.0 / beta, 0.0)[:, None] * W
    return diagonal, off_diagonal


@dataclass(frozen=True)
class SphereMean:
    """``tr f(A)`` from probes on the sphere, with the error that theory gives.

    For ``v`` uniform on the sphere, ``Var v'Bv = 2 (mean(b^2) - mean(b)^2) / (n + 2)``
    over the eigenvalues ``b`` of ``B``: both means come from the same quadrature, by
    all probes together, which makes the error far less noisy than the spread of a few
    probes and keeps its intervals honest where one outlier dominates.

    Attributes:
        trace: The sum over all eigenvalues, one a column of the values.
        standard_error: Likewise.
        samples: One row a probe.
    """

    trace: Tensor
    standard_error: Tensor
    samples: Tensor


def sphere_mean(values: Tensor, weights: Tensor, n: int, *, exact: bool) -> SphereMean:
    """Sum ``values`` of a function at the nodes, shape ``(p, s)`` or ``(p, s, g)``."""
    if values.ndim == 2:
        values = values[:, :, None]
    w = weights[:, :, None]
    values = torch.where(w > 0.0, values, 0.0)
    samples = (w * values).sum(dim=1)
    first = samples.mean(dim=0)
    second = (w * values.square()).sum(dim=1).mean(dim=0)
    p = weights.shape[0]
    variance = (second - first.square()).clamp_min(0.0) * 2.0 / (n + 2.0) / p
    error = torch.zeros_like(first) if exact else n * variance.sqrt()
    return SphereMean(n * first, error, n * samples)


def sphere_degrees(num_probes: int) -> float:
    """Return the degrees of freedom of `SphereMean` errors.

    Calibrated: a single outlier (a chi-square of one degree per probe) covers 90 to
    94 % and a bulk 95 to 99 % from 2 probes on.
    """
    return 2.0 * num_probes


def node_spacing(u: Tensor, weights: Tensor, share: float) -> float:
    """Return the gap between neighbouring nodes that ``share`` of the mass stays below.

    A gap weighs what the lighter of its two nodes does, so that outliers, and a spike
    of equal eigenvalues, count little. Probes whose Krylov space ended early have
    exact nodes, whose gaps say nothing about resolution.
    """
    gaps, shares = [], []
    for row, mass in zip(u, weights, strict=True):
        used = mass > 0.0
        if not bool(used.all()) or len(row) < 3:
            continue
        values, order = row.sort()
        gaps.append(values.diff())
        shares.append(torch.minimum(mass[order][1:], mass[order][:-1]))
    if not gaps:
        return 0.0
    gap, mass = torch.cat(gaps), torch.cat(shares)
    ranked = gap.argsort()
    total = mass[ranked].cumsum(0)
    place = int(torch.searchsorted(total, share * total[-1]).clamp_max(len(gap) - 1))
    return float(gap[ranked[place]])
