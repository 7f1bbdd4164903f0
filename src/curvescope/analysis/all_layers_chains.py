"""Krylov chains of many matrices that advance together: one product a round for all.

A chain says what it wants multiplied and gets the product; it sees neither the network
nor the other chains.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from curvescope._core.progress import Task
from curvescope._core.random import gaussian
from curvescope.linalg._krylov import KrylovSpace
from curvescope.linalg._products import float64_gram
from curvescope.linalg._session import Session
from curvescope.linalg._thick_restart import rayleigh
from curvescope.linalg._wanted import order
from curvescope.linalg.eigsh import default_basis_size
from curvescope.linop.base import SymmetricOperator
from curvescope.results import Provenance

_FLOOR_EPS = 32.0


@dataclass(frozen=True)
class Space:
    """Where a chain lives: the matrix' dimension, dtype, device and name."""

    n: int
    dtype: torch.dtype
    device: torch.device
    info: Provenance


@final
class _Answered(SymmetricOperator):
    """A matrix whose next product was computed already."""

    def __init__(self, space: Space) -> None:
        super().__init__(
            (space.n, space.n),
            dtype=space.dtype,
            device=space.device,
            symmetric=True,
            info=space.info,
            block_size=space.n + 1,
        )
        self.answer: Tensor | None = None

    def _matmat(self, V: Tensor) -> Tensor:
        assert self.answer is not None
        assert self.answer.shape == V.shape
        answer, self.answer = self.answer, None
        return answer

    def refresh(self) -> str:
        """Return a constant: who multiplies watches for changes."""
        return ""


@final
class _FedSession(Session):
    """The dealings with such a matrix; its progress is shown by whoever feeds it."""

    def __init__(self, space: Space) -> None:
        self.source = _Answered(space)
        super().__init__(self.source, "blocks", total=None)
        self._task = Task(None, None)


class Chain(ABC):
    """One of the computations that advance together.

    Attributes:
        num_matvecs: Columns multiplied so far.
        done: Whether it wants nothing more.
    """

    def __init__(self) -> None:
        self.num_matvecs = 0
        self.done = False

    @abstractmethod
    def wanted(self) -> Tensor:
        """Return the columns ``(n, k)`` to be multiplied next."""

    @abstractmethod
    def _take(self, product: Tensor) -> None:
        """Go on with their product."""

    @final
    def give(self, product: Tensor) -> None:
        """Go on with the product of what was wanted."""
        self.num_matvecs += product.shape[1]
        self._take(product)


@final
class TopChain(Chain):
    """The ``k`` eigenpairs of largest magnitude, by thick-restart block Lanczos.

    Args:
        space: Of the matrix.
        k: Pairs; also the block's width, so that equal eigenvalues are all met.
        tol: Relative residual.
        basis_size: Vectors to keep before a restart.
        max_matvecs: Columns to multiply at most.
        generator: Source of the start.

    Attributes:
        values, residuals: Of the pairs, the largest magnitude first; the residuals are
            true ones, from a product with each vector.
        converged: Whether each is within the tolerance.
    """

    def __init__(
        self,
        space: Space,
        *,
        k: int,
        tol: float,
        basis_size: int,
        max_matvecs: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.k, self.tol = min(k, space.n), tol
        self.limit = max_matvecs
        self._session = _FedSession(space)
        self._krylov = KrylovSpace(self._session, basis_size, self.k, generator)
        self._verifying = False
        self._worst = math.inf
        self.values = self.residuals = torch.zeros(0, dtype=torch.float64)
        self.converged = torch.zeros(0, dtype=torch.bool)

    @property
    def vectors(self) -> Tensor:
        """Return those of the pairs, as rows."""
        return self._krylov.Q[: self.k]

    def wanted(self) -> Tensor:
        """Return the pending rows, or the wanted vectors to be verified."""
        krylov = self._krylov
        if self._verifying:
            return krylov.Q[: self.k].T
        krylov.flush()
        if krylov.w == 0:
            krylov.start_chain(self.k)
        if krylov.m + krylov.w > krylov.size:
            self._restart()
        return krylov.Q[krylov.m : krylov.m + krylov.w].T

    def _take(self, product: Tensor) -> None:
        self._session.source.answer = product
        if self._verifying:
            self._judge()
            return
        krylov = self._krylov
        krylov.step()
        krylov.flush()
        spent = self.num_matvecs + krylov.w + self.k > self.limit
        if krylov.m >= self._session.n or spent or self._estimated():
            self._begin_verifying()

    def _allowed(self, values: Tensor) -> Tensor:
        floor = _FLOOR_EPS * self._krylov.eps * self._krylov.norm
        return (self.tol * values.abs()).clamp_min(floor)

    def _estimated(self) -> bool:
        """Tell whether the wanted pairs are converged by their estimates."""
        ritz = self._krylov.ritz()
        if len(ritz.values) < self.k:
            return False
        chosen = order(ritz.values, "LM")[: self.k]
        # A little less than allowed: the true residual has rounding on top.
        allowed = 0.9 * self._allowed(ritz.values[chosen])
        return bool((ritz.residuals[chosen] <= allowed).all())

    def _compress(self, count: int, *, first: bool) -> None:
        """Keep the most wanted Ritz vectors, ``k`` of them in front if asked."""
        ritz = self._krylov.ritz()
        chosen = order(ritz.values, "LM")[:count]
        if not first:
            chosen = chosen.sort().values
        self._krylov.compress(ritz.vectors[:, chosen])

    def _restart(self) -> None:
        krylov = self._krylov
        keep = self.k + (krylov.m - self.k) // 2
        self._compress(min(keep, krylov.size - krylov.w - 1), first=False)

    def _begin_verifying(self) -> None:
        krylov = self._krylov
        keep = min(krylov.m, self.k + (krylov.size - self.k) // 2)
        self._compress(keep, first=True)
        self._verifying = True

    def _judge(self) -> None:
        """Compute true residuals; go on from those that fail, if that may help."""
        krylov, k = self._krylov, self.k
        krylov.give_up_pending()
        Y = krylov.Q[:k]
        W = self._session.product(Y.T).T.contiguous()
        values, residuals = rayleigh(Y, W)
        allowed = self._allowed(values)
        bad = residuals > allowed
        scale = self._session.scale or 1.0
        self.values, self.residuals = values * scale, residuals * scale
        self.converged = ~bad
        worst = float((residuals / allowed.clamp_min(1e-300)).max())
        better, self._worst = worst <= self._worst / 2, worst
        failing = [int(i) for i in bad.nonzero()]
        room = self.num_matvecs + len(failing) + k <= self.limit
        if not failing or not better or not room or krylov.m >= self._session.n:
            self.done = True
            return
        for i in failing:
            krylov.park(W[i] - float(values[i]) * Y[i])
        krylov.continue_from_parked(failing)
        self._verifying = False


@final
class DenseChain(Chain):
    """The whole matrix, by products with the identity; for small ones.

    Attributes:
        matrix: In float64 on the CPU.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        self._space = space
        self.matrix = torch.zeros(0, 0, dtype=torch.float64)

    def wanted(self) -> Tensor:
        """Return the identity."""
        return torch.eye(self._space.n, dtype=self._space.dtype).to(self._space.device)

    def _take(self, product: Tensor) -> None:
        D = product.double().cpu()
        self.matrix = (D + D.T) / 2
        self.done = True


@final
class ProbeChain(Chain):
    r"""Trace and Frobenius norm: of the top pairs exactly, of the rest by random vectors.

    .. math:: \operatorname{tr} A = \sum_{i \le k} \lambda_i + \mathbb E\, z^\top B z,
        \qquad \|A\|_F^2 = \sum_{i \le k} \lambda_i^2 + \mathbb E\, \|B z\|^2, \qquad
        B = A - \sum_{i \le k} \lambda_i v_i v_i^\top

    with z on the sphere of radius sqrt(n). Products with B need none but those with A:
    ``z' B z = z' A z - sum_i lambda_i (v_i' z)^2``, and likewise their norms. The variances,

    .. math:: \operatorname{Var} z^\top B z = \frac{2 n}{n + 2}
            \Big(\operatorname{tr} B^2 - \frac{(\operatorname{tr} B)^2}{n}\Big),

    come from the same products: that of the trace from the norm, that of the squared norm
    from pairs of probes, ``tr B^4 = E (z_a' B^2 z_b)^2``; or from the probes' spread where
    that is larger.
    """

    def __init__(
        self, space: Space, *, num_probes: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        Z = gaussian(
            (space.n, num_probes), generator, dtype=space.dtype, device=space.device
        )
        self._n = space.n
        self._Z = Z * (math.sqrt(space.n) / torch.linalg.vector_norm(Z, dim=0))
        self._scale = 0.0
        self._forms = self._gram = torch.zeros(0, dtype=torch.float64)

    def wanted(self) -> Tensor:
        """Return the probes."""
        return self._Z

    def _take(self, product: Tensor) -> None:
        size = float(product.abs().max())
        if not math.isfinite(size):
            text = "a block's product is not finite: look for NaN in weights and data"
            raise ValueError(text)
        self.done = True
        if size == 0.0:
            return
        # Squares of tiny entries vanish in float32: a power of two changes no digit.
        self._scale = math.ldexp(1.0, math.frexp(size)[1])
        W = (product / self._scale).T.contiguous()
        self._gram = float64_gram(W, W)
        self._forms = float64_gram(self._Z.T.contiguous(), W).diagonal()

    def moments(
        self, values: Tensor, vectors: Tensor
    ) -> tuple[float, float, float, float]:
        """Return the trace and the norm, each followed by its standard error.

        Args:
            values: The top eigenvalues, shape ``(k,)``.
            vectors: Their vectors as rows ``(k, n)``.
        """
        if self._scale == 0.0:
            return 0.0, 0.0, 0.0, 0.0
        values = values / self._scale
        shares = float64_gram(vectors.contiguous(), self._Z.T.contiguous())
        weighted = values[:, None] * shares
        forms = self._forms - (weighted * shares).sum(dim=0)
        gram = self._gram - weighted.T @ weighted
        squares = gram.diagonal()
        p, n = len(gram), self._n
        first, second = float(forms.mean()), max(float(squares.mean()), 0.0)
        mixed = float(gram.square().sum() - squares.square().sum()) / (p * (p - 1))
        factor = 2.0 * n / (n + 2.0)
        by_theory = (
            factor * max(second - first * first / n, 0.0),
            factor * max(mixed - second * second / n, 0.0),
        )
        by_spread = (float(forms.var()), float(squares.var()))
        # A variance of few probes is itself uncertain: the spread of Student's t.
        spread = (p - 1) / max(p - 3, 0.5)
        errors = [
            math.sqrt(spread * max(pair) / p)
            for pair in zip(by_theory, by_spread, strict=True)
        ]
        norm = math.sqrt(float(values.square().sum()) + second)
        return (
            (float(values.sum()) + first) * self._scale,
            errors[0] * self._scale,
            norm * self._scale,
            errors[1] / (2.0 * norm) * self._scale,
        )


@final
class QuadratureChain(Chain):
    """Lanczos from one random vector: nodes and weights of a Gauss quadrature.

    Attributes:
        nodes, weights: Float64, as many as steps, or fewer where the space ended.
    """

    def __init__(
        self, space: Space, *, num_steps: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self._steps = min(num_steps, space.n)
        self._space, self._generator = space, generator
        self._session = _FedSession(space)
        self._krylov: KrylovSpace | None = None
        self.nodes = self.weights = torch.zeros(0, dtype=torch.float64)

    def wanted(self) -> Tensor:
        """Return the newest vector."""
        if self._krylov is None:
            self._krylov = KrylovSpace(self._session, self._steps, 1, self._generator)
            self._krylov.start_chain(1)
        krylov = self._krylov
        return krylov.Q[krylov.m : krylov.m + 1].T

    def _take(self, product: Tensor) -> None:
        krylov = self._krylov
        assert krylov is not None
        self._session.source.answer = product
        krylov.step()
        krylov.flush()
        if krylov.m < self._steps and krylov.w:
            return
        nodes, vectors = torch.linalg.eigh(krylov.T[: krylov.m, : krylov.m])
        self.nodes = nodes * (self._session.scale or 1.0)
        self.weights = vectors[0].square()
        self.done = True
        self._krylov = None  # its basis is the largest thing here


def top_basis_size(n: int, k: int) -> int:
    """Return how many vectors the chain of the top pairs keeps before a restart."""
    k = min(k, n)
    return min(n, default_basis_size(n, k, block_size=k))
