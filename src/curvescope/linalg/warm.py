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
from curvescope.linalg._wanted import edge, ends, enough, order
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
    r"""Compute ``k`` eigenpairs from approximate eigenvectors, as sure as `eigsh` does.

    Rayleigh-Ritz on the given vectors and one Lanczos chain in their complement, which
    begins with their residuals and a random vector. The chain mends the given vectors,
    and at once excludes larger eigenvalues that they miss, repeated ones among them, with
    the probability of `eigsh`. Then residuals of pairs that are not converged are added.
    The products of all basis vectors are kept, so that a residual is
    :math:`\sum_j s_j A q_j - \theta v` from true products, and takes none of its own.

    For vectors from a matrix nearby, such as the Hessian some steps of training before,
    this takes about half the products of `eigsh`. For any others it finds the same pairs,
    and may take more.

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
        ``b`` products in one block, and about 10 to 20. Memory: twice as many vectors.

    Example:
        >>> A = torch.diag(torch.linspace(0, 1, 100).square())
        >>> near = torch.eye(100)[:, -2:] + 0.01
        >>> pairs = eigsh_from(A, near, k=2)
        >>> [round(value, 3) for value in pairs.eigenvalues.tolist()]
        [1.0, 0.98]

    References:
        Parlett (1998), The Symmetric Eigenvalue Problem, chapter 11 (Rayleigh-Ritz);
        Davidson (1975), doi:10.1016/0021-9991(75)90065-0 (residuals as directions).
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
    size = _basis_size(operator, k, vectors.shape[1], basis_size)
    arguments: dict[str, Any] = {"k": k, "which": which, "tol": tol}
    if size <= vectors.shape[1] + 1 or limit <= vectors.shape[1] + 1:
        return eigsh(operator, max_matvecs=limit, generator=generator, **arguments)
    with Session(operator, f"{k} eigenpairs ({which})", total=None) as session:
        space = _Space(session, k, which, tol, size, generator)
        done = space.run(vectors, limit)
        found = space.pairs()
        cost, scale = session.cost(), session.scale or 1.0
    settings = {
        **arguments,
        "max_matvecs": limit,
        "basis_size": size,
        "method": "Rayleigh-Ritz from given vectors",
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
            f"{operator.info.matrix} did not reach the relative residual {tol:g}, or the "
            f"search for missed ones did not end, in {cost.num_matvecs} products. Raise "
            "`max_matvecs` or `tol`."
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


def _basis_size(A: LinearOperator, k: int, given: int, asked: int | None) -> int:
    n = A.shape[0]
    if asked is not None:
        return min(positive_int("basis_size", asked), n)
    wanted = min(n, max(40, 3 * k + 20, given + 20))
    itemsize = max(4, A.dtype.itemsize)
    room = _MEMORY_SHARE * memory.available_memory(A.device)
    # Basis and products, and the result with its residuals.
    return min(wanted, int(room // (2 * n * itemsize)) - 2 * k)


class _Space:
    """A basis ``Q``, its products ``W = A Q``, and the chain that looks for what is missed.

    Rows are vectors. ``T = Q W'`` and ``G = W W'`` are float64 on the CPU.
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
        self.first = 0  # the row at which the chain begins
        self.beta = 0.0  # what the chain's next vector couples by
        self.norm = 0.0

    @property
    def _eps(self) -> float:
        return torch.finfo(self.session.dtype).eps

    @property
    def floor(self) -> float:
        """The residual that rounding alone explains."""
        return _FLOOR_EPS * self._eps * self.norm

    def run(self, vectors: Tensor, limit: int) -> bool:
        """Search until all is proven; ``False`` if room or products ran out before."""
        self._add(self._orthonormal(vectors.detach().T))
        session = self.session

        def room() -> bool:
            return self.m < min(self.size, session.n) and session.num_matvecs < limit

        while True:
            before = self._edges()
            if not self._chain(room):
                return self.m >= session.n
            if not self._brought_more(before):
                break
        while not self._all_converged():
            direction = self._worst_residual()
            if not room() or not self._extend(direction):
                return self.m >= session.n
        return True

    def _orthonormal(self, rows: Tensor) -> Tensor:
        rows = rows[: self.size - 1].to(self.Q)
        sizes = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        rows = rows / sizes.clamp_min(torch.finfo(rows.dtype).tiny)
        kept = [rows[:0]]
        for row in rows:
            new = self._without(row[None], torch.cat(kept))
            # Columns that depend on earlier ones bring nothing.
            if float(torch.linalg.vector_norm(new)) > 1e3 * self._eps:
                kept.append(new / torch.linalg.vector_norm(new))
        return torch.cat(kept)

    @staticmethod
    def _without(rows: Tensor, Q: Tensor) -> Tensor:
        for _ in range(2):
            rows = rows - row_products(rows, Q).to(rows.dtype) @ Q
        return rows

    def _add(self, rows: Tensor) -> None:
        """Multiply orthonormal rows, and take them into basis and projected matrices."""
        a, b = self.m, self.m + len(rows)
        self.Q[a:b] = rows
        self.W[a:b] = self.session.product(rows.T).T
        cross = float64_gram(self.Q[:b], self.W[a:b])
        self.T[:b, a:b] = cross
        self.T[a:b, :b] = cross.T
        corner = cross[a:b]
        self.T[a:b, a:b] = (corner + corner.T) / 2
        gram = float64_gram(self.W[:b], self.W[a:b])
        self.G[:b, a:b] = gram
        self.G[a:b, :b] = gram.T
        self.m = b
        self.norm = max(self.norm, float(self.G.diagonal()[a:b].max()) ** 0.5)

    def _ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the wanted Ritz values, their coefficients, and their residuals."""
        m = self.m
        values, S = torch.linalg.eigh(self.T[:m, :m])
        chosen = order(values, self.which)[: self.k]
        values, S = values[chosen], S[:, chosen]
        # ||W's - t Q's||^2 = s'Gs - t^2; explicit residuals decide in the end.
        squares = ((self.G[:m, :m] @ S) * S).sum(dim=0) - values.square()
        return values, S, squares.clamp_min(0.0).sqrt()

    def _allowed(self, values: Tensor) -> Tensor:
        return (self.tol * values.abs()).clamp_min(self.floor)

    def _all_converged(self) -> bool:
        values, _, residuals = self._ritz()
        if len(values) < self.k:
            return False
        if bool((residuals > self._allowed(values)).any()):
            return False
        found = self.pairs()
        return bool((found.residuals <= self._allowed(found.values)).all())

    def _worst_residual(self) -> Tensor:
        values, S, residuals = self._ritz()
        if len(values) < self.k:
            return self._random()
        worst = int((residuals / self._allowed(values)).argmax())
        return self._residual(values[worst], S[:, worst])

    def _residual(self, value: Tensor, s: Tensor) -> Tensor:
        weights = s.to(self.Q)
        product = weights @ self.W[: self.m]
        return product - float(value) * (weights @ self.Q[: self.m])

    def _random(self) -> Tensor:
        return gaussian(
            (self.session.n,),
            self.generator,
            dtype=self.session.dtype,
            device=self.session.device,
        )

    def _extend(self, direction: Tensor) -> bool:
        """Multiply a direction's part outside of the basis; ``False`` if it has none."""
        size = float(torch.linalg.vector_norm(direction))
        new = self._without(direction[None] / (size or 1.0), self.Q[: self.m])
        length = float(torch.linalg.vector_norm(new))
        if length <= 1e3 * self._eps:
            return False
        # The second pass is for the rounding that the division made large.
        new = self._without(new / length, self.Q[: self.m])
        self._add(new / torch.linalg.vector_norm(new))
        return True

    def _edges(self) -> list[float]:
        """Return the last wanted key of each end, -inf where there are too few values."""
        values, _, _ = self._ritz()
        if len(values) < self.k:
            return [-float("inf") for _ in ends(self.which, self.k)]
        return [edge(e, values) for e in ends(self.which, self.k)]

    def _chain_start(self) -> Tensor:
        """Return the residuals of the wanted pairs, and as much of a random vector."""
        values, S, residuals = self._ritz()
        noise = self._without(self._random()[None], self.Q[: self.m])[0]
        noise = noise / torch.linalg.vector_norm(noise)
        total = torch.zeros_like(noise)
        for i in range(len(values)):
            if residuals[i] > self._allowed(values)[i]:
                total += self._residual(values[i], S[:, i])
        size = torch.linalg.vector_norm(total)
        return noise if float(size) == 0.0 else noise + total / size

    def _chain(self, room: Any) -> bool:
        """Grow a chain until nothing larger can hide; ``False`` if there was no room."""
        self.first = self.m
        direction = self._chain_start()
        while True:
            if not room():
                return False
            if not self._extend(direction):
                return True  # the complement is exhausted
            direction = self._without(self.W[self.m - 1][None], self.Q[: self.m])[0]
            self.beta = float(torch.linalg.vector_norm(direction))
            if self.beta <= _BREAKDOWN_EPS * self._eps * self.norm:
                return True
            if self._is_clean():
                return True

    def _is_clean(self) -> bool:
        """Tell whether nothing larger than the last wanted value hides."""
        wanted, _, _ = self._ritz()
        if len(wanted) < self.k:
            return False
        piece = slice(self.first, self.m)
        values, S = torch.linalg.eigh(self.T[piece, piece])
        residuals = self.beta * S[-1].abs()
        steps = self.m - self.first
        for e in ends(self.which, self.k):
            limit = edge(e, wanted)
            slack = self.tol * abs(limit) + self.floor
            keys = e.key(values)
            lowest = int(keys.argmin())
            bottom = float(keys[lowest] - residuals[lowest])
            for i in torch.argsort(keys, descending=True).tolist():
                key, residual = float(keys[i]), float(residuals[i])
                if residual <= slack:
                    if key <= limit + slack:
                        break
                    continue
                top = key + residual
                if e.kind == "magnitude":
                    bottom = -top
                if enough(steps, top, bottom, limit, self.session.n):
                    break
                return False
        return True

    def _brought_more(self, before: list[float]) -> bool:
        """Tell whether the chain itself has a value above what was wanted before it."""
        piece = slice(self.first, self.m)
        values = torch.linalg.eigvalsh(self.T[piece, piece])
        if not len(values):
            return False
        after = self._edges()
        for e, old, new in zip(ends(self.which, self.k), before, after, strict=True):
            slack = self.tol * abs(new) + self.floor
            if float(e.key(values).max()) > max(old, new) + slack:
                return True
        return False

    def pairs(self) -> _Found:
        """Return the wanted pairs with explicit residuals, descending."""
        m = self.m
        values, S, _ = self._ritz()
        down = torch.argsort(values, descending=True, stable=True)
        S = S[:, down]
        weights = S.T.to(self.Q)
        vectors = orthonormal_columns((weights @ self.Q[:m]).T.contiguous())
        products = weights @ self.W[:m]
        quotients, residuals = [], []
        for v, w in zip(vectors.T, products, strict=True):
            v64, w64 = v.double(), w.double()
            square = float(v64 @ v64)
            quotient = float(v64 @ w64) / square
            gap = torch.linalg.vector_norm(w64 - quotient * v64)
            quotients.append(quotient)
            residuals.append(float(gap) / square**0.5)
        return _Found(
            values=torch.tensor(quotients, dtype=torch.float64),
            vectors=vectors,
            residuals=torch.tensor(residuals, dtype=torch.float64),
            norm=self.norm,
            floor=self.floor,
        )
