"""Certified eigenpairs of a symmetric operator that is near one whose pairs are known."""

import dataclasses
import warnings
from typing import Any

import torch
from torch import Tensor

from curvescope._core import memory
from curvescope._core.checks import describe, message, one_of, positive_int, real
from curvescope._core.errors import AccuracyWarning
from curvescope._core.random import gaussian, resolve_generator
from curvescope.linalg._products import float64_gram, row_products
from curvescope.linalg._session import Session, symmetric_operator
from curvescope.linalg._wanted import order
from curvescope.linalg.eigsh import eigsh, orthonormal_columns
from curvescope.linop.base import LinearOperator
from curvescope.results import Eigenpairs

_FLOOR_EPS = 32.0
_BREAKDOWN_EPS = 20.0
_MEMORY_SHARE = 0.6


def eigsh_from(
    A: Any,
    vectors: Tensor,
    *,
    k: int,
    which: str = "LM",
    tol: float | None = None,
    max_matvecs: int | None = None,
    basis_size: int | None = None,
    generator: torch.Generator | None = None,
) -> Eigenpairs:
    r"""Compute ``k`` eigenpairs from approximate eigenvectors, with true residuals.

    .. math:: \|A v_i - \lambda_i v_i\| \le \max(\mathrm{tol}\,|\lambda_i|,\,
        32\,\varepsilon\,\|A\|)

    One Lanczos chain with full reorthogonalisation, which begins with the sum of the
    given vectors and a random vector of the same length. The random half meets every
    eigenspace as the start of `eigsh` does, so that an eigenvalue that came up beside
    the given ones is found; the other half saves the steps that finding those would take.
    The products of all basis vectors are kept, so that a residual is
    :math:`\sum_j s_j A q_j - \theta v` from true products, and takes none of its own.

    For vectors from a matrix nearby, such as the Hessian some steps of training before,
    this takes less than half the products of `eigsh`. Like ``eigsh(...,
    check_multiplicity=False)`` it does not look for repeated eigenvalues.

    Args:
        A: Symmetric operator, or anything `aslinearoperator` takes.
        vectors: Approximate eigenvectors as columns, shape ``(n, b)``.
        k: Number of pairs, at most ``n``.
        which: As for `eigsh`.
        tol: As for `eigsh`.
        max_matvecs: Products to spend at most, by default ``max(2000, 100 k)``.
        basis_size: Vectors to collect before `eigsh` takes over from them, by default
            ``max(40, 3 k + 20)``, or fewer where the memory does not hold them.
        generator: Source of the random vectors; a fresh one with a fixed seed if
            ``None``.

    Returns:
        The pairs, descending, each with its true residual and a flag.

    Raises:
        ValueError: If ``A`` is not symmetric, has products that are not finite, or an
            argument is out of range.
        ChangedDuringComputationError: If the matrix changes meanwhile.

    Cost:
        About ``k + 8`` products where the wanted eigenvalues are isolated. Memory: two
        vectors a product.

    Example:
        >>> A = torch.diag(torch.linspace(0, 1, 100).square())
        >>> near = torch.eye(100)[:, -2:] + 0.01
        >>> pairs = eigsh_from(A, near, k=2)
        >>> [round(value, 3) for value in pairs.eigenvalues.tolist()]
        [1.0, 0.98]

    References:
        Parlett (1998), The Symmetric Eigenvalue Problem, chapters 11 and 13.
    """
    operator = symmetric_operator(A)
    n = operator.shape[0]
    k = positive_int("k", k)
    if k > n:
        contract = f"be at most {n}, the dimension"
        raise ValueError(message("k", contract, k))
    one_of("which", which, ("LM", "LA", "SA", "BE"))
    if vectors.ndim != 2 or vectors.shape[0] != n or vectors.shape[1] == 0:
        contract = f"have shape ({n}, b)"
        raise ValueError(message("vectors", contract, describe(vectors)))
    if not bool(torch.isfinite(vectors).all()):
        raise ValueError(message("vectors", "be finite", describe(vectors)))
    if tol is None:
        tol = 1e-8 if operator.dtype == torch.float64 else 1e-3
    tol = real("tol", tol, minimum=0.0)
    limit = max(2000, 100 * k) if max_matvecs is None else max_matvecs
    limit = positive_int("max_matvecs", limit)
    generator = resolve_generator(generator)
    size = _basis_size(operator, k, basis_size)
    arguments: dict[str, Any] = {"k": k, "which": which, "tol": tol}
    if size < min(k + 2, n):
        contract = f"be at least {min(k + 2, n)} for k={k}, and fit the memory"
        raise ValueError(message("basis_size", contract, size))
    if limit < min(k + 2, n):
        contract = f"be at least {min(k + 2, n)}"
        raise ValueError(message("max_matvecs", contract, limit))
    with Session(operator, f"{k} eigenpairs ({which})", total=None) as session:
        chain = _Chain(session, k, which, tol, size, generator)
        done = chain.run(vectors, limit)
        found = chain.pairs()
        cost, scale = session.cost(), session.scale or 1.0
    settings = {
        **arguments,
        "max_matvecs": limit,
        "basis_size": size,
        "method": "Lanczos from given vectors",
        "seed": generator.initial_seed(),
    }
    if not done and limit - cost.num_matvecs > 2 * k + 1:
        # More than the basis holds: restarts are the business of `eigsh`.
        start = found.vectors.sum(dim=1) + found.vectors[:, 0]
        rest = eigsh(
            operator,
            max_matvecs=limit - cost.num_matvecs,
            start=start.to(operator.dtype),
            generator=generator,
            **arguments,
        )
        return dataclasses.replace(
            rest, cost=cost + rest.cost, settings={**rest.settings, **settings}
        )
    return _result(operator, found, cost, settings, scale, certain=done)


@dataclasses.dataclass(frozen=True)
class _Found:
    """Pairs in the scaled matrix, descending, with true residuals."""

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    norm: float
    floor: float


def _result(
    operator: LinearOperator,
    found: _Found,
    cost: Any,
    settings: dict[str, Any],
    scale: float,
    *,
    certain: bool,
) -> Eigenpairs:
    tol = settings["tol"]
    converged = found.residuals <= (tol * found.values.abs()).clamp_min(found.floor)
    notes: tuple[str, ...] = ()
    if not certain:
        text = (
            f"{int((~converged).sum())} of {len(converged)} eigenpairs of the "
            f"{operator.info.matrix} did not reach the relative residual {tol:g} in "
            f"{cost.num_matvecs} products. Raise `max_matvecs` or `tol`."
        )
        warnings.warn(text, AccuracyWarning, stacklevel=3)
        notes = (text,)
    return Eigenpairs(
        of=operator.info,
        cost=cost,
        settings=settings,
        notes=notes,
        eigenvalues=found.values * scale,
        eigenvectors=found.vectors,
        residual_norms=found.residuals * scale,
        converged=converged,
        which=settings["which"],
        tolerance=tol,
        norm=found.norm * scale,
    )


def _basis_size(A: LinearOperator, k: int, asked: int | None) -> int:
    n = A.shape[0]
    if asked is not None:
        return min(positive_int("basis_size", asked), n)
    itemsize = max(4, A.dtype.itemsize)
    room = _MEMORY_SHARE * memory.available_memory(A.device)
    # Basis and products, and the result with its residuals.
    return min(n, max(40, 3 * k + 20), int(room // (2 * n * itemsize)) - 2 * k)


class _Chain:
    """A basis ``Q`` that a chain grows, and its products ``W = A Q``; rows are vectors.

    ``T = Q W'`` and ``G = W W'`` are float64 on the CPU.
    """

    def __init__(
        self,
        session: Session,
        k: int,
        which: str,
        tol: float,
        size: int,
        generator: torch.Generator,
    ) -> None:
        self.session, self.generator = session, generator
        self.k, self.which, self.tol, self.size = k, which, tol, size
        shape = (size, session.n)
        self.Q = torch.empty(shape, dtype=session.dtype, device=session.device)
        self.W = torch.empty_like(self.Q)
        self.T = torch.zeros(size, size, dtype=torch.float64)
        self.G = torch.zeros(size, size, dtype=torch.float64)
        self.m = 0
        self.norm = 0.0

    @property
    def _eps(self) -> float:
        return torch.finfo(self.session.dtype).eps

    @property
    def floor(self) -> float:
        """The residual that rounding alone explains."""
        return _FLOOR_EPS * self._eps * self.norm

    def run(self, vectors: Tensor, limit: int) -> bool:
        """Grow until all wanted pairs are converged; ``False`` if something ran out."""
        direction = self._start(vectors)
        while self.m < self.size and self.session.num_matvecs < limit:
            self._extend(direction)
            if self._converged():
                return True
            direction = self.W[self.m - 1]
        return self.m >= self.session.n

    def _start(self, vectors: Tensor) -> Tensor:
        """Return the sum of the vectors, with as much of a random one."""
        total = vectors.detach().to(self.Q).sum(dim=1)
        noise = self._random()
        size = torch.linalg.vector_norm(total)
        unit = noise / torch.linalg.vector_norm(noise)
        return unit if float(size) == 0.0 else unit + total / size

    def _random(self) -> Tensor:
        return gaussian(
            (self.session.n,),
            self.generator,
            dtype=self.session.dtype,
            device=self.session.device,
        )

    def _without_basis(self, row: Tensor) -> tuple[Tensor, float]:
        """Return the unit vector of what lies outside of the basis, and its length."""
        Q = self.Q[: self.m]
        length = 1.0
        row = row[None]
        # Once for the direction; once more for the rounding that cancellation made large.
        for _ in range(2):
            for _ in range(2):
                row = row - row_products(row, Q).to(row.dtype) @ Q
            size = float(torch.linalg.vector_norm(row, dtype=torch.float64))
            length *= size
            row = row / max(size, torch.finfo(row.dtype).tiny)
        return row[0], length

    def _extend(self, direction: Tensor) -> None:
        """Multiply a direction's part outside of the basis, or where it has none, another."""
        unit, length = self._without_basis(direction)
        if length <= _BREAKDOWN_EPS * self._eps * max(self.norm, 1e-30):
            # The chain met all that its start holds.
            unit, _ = self._without_basis(self._random())
        m = self.m
        self.Q[m] = unit
        self.W[m] = self.session.product(unit[:, None])[:, 0]
        self.T[: m + 1, m] = float64_gram(self.Q[: m + 1], self.W[m : m + 1])[:, 0]
        self.T[m, :m] = self.T[:m, m]
        self.G[: m + 1, m] = float64_gram(self.W[: m + 1], self.W[m : m + 1])[:, 0]
        self.G[m, :m] = self.G[:m, m]
        self.m = m + 1
        self.norm = max(self.norm, float(self.G[m, m]) ** 0.5)

    def _ritz(self) -> tuple[Tensor, Tensor]:
        """Return the wanted Ritz values, descending, and their coefficients."""
        values, S = torch.linalg.eigh(self.T[: self.m, : self.m])
        chosen = order(values, self.which)[: self.k].sort(descending=True).values
        return values[chosen], S[:, chosen]

    def _allowed(self, values: Tensor) -> Tensor:
        return (self.tol * values.abs()).clamp_min(self.floor)

    def _converged(self) -> bool:
        if self.m < self.k:
            return False
        values, S = self._ritz()
        # ||W's - t Q's||^2 = s'Gs - t^2 is cheap, and good to half of the digits.
        squares = ((self.G[: self.m, : self.m] @ S) * S).sum(dim=0) - values.square()
        rough = squares.clamp_min(0.0).sqrt() - 1e-7 * self.norm
        if bool((rough > self._allowed(values)).any()):
            return False
        found = self.pairs()
        return bool((found.residuals <= self._allowed(found.values)).all())

    def pairs(self) -> _Found:
        """Return the wanted pairs with explicit residuals, descending."""
        values, S = self._ritz()
        weights = S.T.to(self.Q)
        vectors = (weights @ self.Q[: self.m]).T.contiguous()
        products = (weights @ self.W[: self.m]).T
        quotients, residuals = [], []
        for i in range(len(values)):
            v, w = vectors[:, i].double(), products[:, i].double()
            square = float(v @ v)
            quotient = float(v @ w) / square
            gap = torch.linalg.vector_norm(w - quotient * v)
            quotients.append(quotient)
            residuals.append(float(gap) / square**0.5)
        return _Found(
            values=torch.tensor(quotients, dtype=torch.float64),
            vectors=orthonormal_columns(vectors),
            residuals=torch.tensor(residuals, dtype=torch.float64),
            norm=self.norm,
            floor=self.floor,
        )
