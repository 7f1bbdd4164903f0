"""One layer of a sweep over all layers: its chains, and the row that comes of them."""

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from curvescope.analysis.all_layers_chains import (
    Chain,
    DenseChain,
    ProbeChain,
    QuadratureChain,
    Space,
    TopChain,
)
from curvescope.analysis.all_layers_factors import FormedFactor
from curvescope.analysis.all_layers_pieces import Rows
from curvescope.linalg.density import density_from_nodes
from curvescope.linalg.slq import Quadrature, sphere_mean
from curvescope.results import Cost, LayerSpectrum, SpectralDensity

_FLOOR_EPS = 32.0

# A block of so few parameters is formed: its estimates would be poor.
_FORMED_ALWAYS = 64


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of every layer; see `all_layers`."""

    k: int
    tol: float
    density: bool
    num_probes: int
    num_steps: int
    max_matvecs: int
    generator: torch.Generator


@dataclass(frozen=True)
class _Exact:
    """The spectrum of a block that was formed.

    Attributes:
        values: Distinct places of eigenvalues.
        counts: How many stand at each.
        top: The wanted ones, the largest magnitude first.
        residuals: Theirs, true ones.
    """

    values: Tensor
    counts: Tensor
    top: Tensor
    residuals: Tensor

    @staticmethod
    def of(formed: FormedFactor, k: int, shift: float, n: int) -> "_Exact":
        """Diagonalise ``J'SJ + shift``, from ``J'SJ`` or from a smaller ``JJ'``."""
        values, vectors = torch.linalg.eigh(formed.matrix)
        size = float(values.abs().max())
        rounding = torch.finfo(torch.float64).eps * len(values) * size
        # A negative value may fall behind with weight decay.
        order = torch.argsort((values + shift).abs(), descending=True, stable=True)
        chosen = order[:k]
        top, X = values[chosen], vectors[:, chosen]
        if formed.factor is None:
            residuals = torch.linalg.vector_norm(formed.matrix @ X - top * X, dim=0)
        else:
            residuals = _lifted_residuals(formed.factor, X, top)
            # The zeros of JJ' are zeros of J'J too, but with vectors of their own.
            zeros = top.abs() <= rounding
            top = torch.where(zeros, 0.0, top)
            residuals = torch.where(zeros, rounding, residuals)
        counts = torch.ones_like(values)
        missing = n - len(values)
        if missing:
            values = torch.cat([values, values.new_zeros(1)])
            counts = torch.cat([counts, counts.new_full((1,), float(missing))])
            short = min(k, n) - len(top)
            top = torch.cat([top, top.new_zeros(short)])
            residuals = torch.cat([residuals, residuals.new_zeros(short)])
        return _Exact(values + shift, counts, top + shift, residuals)


def _lifted_residuals(J: Rows, U: Tensor, values: Tensor) -> Tensor:
    """Return the residuals of ``J'u / ||J'u||`` with ``J'J``, for columns u."""
    X = J.adjoint(U.to(J.matrix))
    norms = torch.linalg.vector_norm(X, dim=0, dtype=torch.float64).cpu()
    error = J.multiply(X).double().cpu() - values * X.double().cpu()
    # A direction that J' maps to zero is an eigenvector of JJ' alone.
    return torch.linalg.vector_norm(error, dim=0) / norms.clamp_min(1e-300)


@final
class LayerRun:
    """What one layer wants multiplied, round by round.

    Args:
        name: The layer's.
        space: Of its block.
        asked: What is asked.
        shift: Weight decay, where it is part of the matrix.
        formed: The block, if it was formed already.
        trace: The exact trace, if it is known.
        basis_size: Vectors of the basis of the top pairs.
        probes_at_once: Probes of a density that run together.
        positive: Whether no eigenvalue is negative.
    """

    def __init__(
        self,
        name: str,
        space: Space,
        asked: Asked,
        *,
        shift: float,
        formed: FormedFactor | None,
        trace: float | None,
        basis_size: int,
        probes_at_once: int,
        positive: bool,
    ) -> None:
        self.name, self._space, self._asked = name, space, asked
        self._trace, self._positive = trace, positive
        self._at_once = probes_at_once
        self._exact: _Exact | None = None
        if formed is not None:
            self._exact = _Exact.of(formed, asked.k, shift, space.n)
        self._dense: DenseChain | None = None
        self._top: TopChain | None = None
        self._probes: ProbeChain | None = None
        self._quadratures: list[QuadratureChain] = []
        self._turn: list[Chain] = []
        self._widths: list[int] = []
        if self._exact is None:
            self._begin(basis_size)

    def _begin(self, basis_size: int) -> None:
        asked, space = self._asked, self._space
        probes = asked.num_probes * (asked.num_steps if asked.density else 1)
        # A chain takes at least a few steps of k columns, and k for the residuals.
        if space.n <= max(_FORMED_ALWAYS, 4 * asked.k + probes):
            self._dense = DenseChain(space)
            return
        self._top = TopChain(
            space,
            k=asked.k,
            tol=asked.tol,
            basis_size=basis_size,
            max_matvecs=asked.max_matvecs,
            generator=asked.generator,
        )
        if asked.density:
            self._quadratures = [
                QuadratureChain(
                    space, num_steps=asked.num_steps, generator=asked.generator
                )
                for _ in range(asked.num_probes)
            ]
        else:
            self._probes = ProbeChain(
                space, num_probes=asked.num_probes, generator=asked.generator
            )

    def _chains(self) -> list[Chain]:
        chains: list[Chain | None] = [self._dense, self._top, self._probes]
        return [c for c in (*chains, *self._quadratures) if c is not None]

    @property
    def formed(self) -> bool:
        """Whether everything about the block is exact."""
        return self._exact is not None or self._dense is not None

    @property
    def done(self) -> bool:
        """Whether no chain wants anything more."""
        return all(chain.done for chain in self._chains())

    @property
    def num_matvecs(self) -> int:
        """Products with the block so far."""
        return sum(chain.num_matvecs for chain in self._chains())

    def wanted(self) -> Tensor:
        """Return the columns of all chains of this round."""
        waiting = [c for c in self._quadratures if not c.done][: self._at_once]
        others = [c for c in self._chains() if not isinstance(c, QuadratureChain)]
        self._turn = [*(c for c in others if not c.done), *waiting]
        columns = [chain.wanted() for chain in self._turn]
        self._widths = [V.shape[1] for V in columns]
        return torch.cat(columns, dim=1)

    def give(self, product: Tensor) -> None:
        """Hand out the products.

        Raises:
            ValueError: If one is not finite.
        """
        parts = product.split(self._widths, dim=1)
        for chain, part in zip(self._turn, parts, strict=True):
            chain.give(part)
        if self._dense is not None:
            formed = FormedFactor(self._dense.matrix, None)
            self._exact = _Exact.of(formed, self._asked.k, 0.0, self._space.n)

    def row(self, *, method: str, work: float, reason: str) -> LayerSpectrum:
        """Return the layer's row.

        Args:
            method: How it was done.
            work: Of one product with the block.
            reason: Why it has no factor.
        """
        if self._exact is not None:
            numbers = self._exact_numbers(self._exact)
        else:
            numbers = self._estimated_numbers()
        return LayerSpectrum(
            name=self.name,
            num_params=self._space.n,
            method=method,
            num_matvecs=self.num_matvecs,
            product_work=work,
            reason=reason,
            **numbers,
        )

    def _exact_numbers(self, exact: _Exact) -> dict[str, Any]:
        size = float(exact.values.abs().max())
        floor = _FLOOR_EPS * torch.finfo(self._space.dtype).eps * size
        allowed = (self._asked.tol * exact.top.abs()).clamp_min(floor)
        return {
            "eigenvalues": tuple(exact.top.tolist()),
            "residual_norms": tuple(exact.residuals.tolist()),
            "converged": bool((exact.residuals <= allowed).all()),
            "trace": float(exact.counts @ exact.values),
            "frobenius_norm": math.sqrt(float(exact.counts @ exact.values.square())),
        }

    def _estimated_numbers(self) -> dict[str, Any]:
        top = self._top
        assert top is not None
        if self._probes is not None:
            good = top.converged
            trace, trace_error, norm, norm_error = self._probes.moments(
                top.values[good], top.vectors[good.to(top.vectors.device)]
            )
        else:
            trace, trace_error, norm, norm_error = self._moments()
        if self._trace is not None:
            trace, trace_error = self._trace, 0.0
        return {
            "eigenvalues": tuple(top.values.tolist()),
            "residual_norms": tuple(top.residuals.tolist()),
            "converged": bool(top.converged.all()),
            "trace": trace,
            "trace_error": trace_error,
            "frobenius_norm": norm,
            "frobenius_norm_error": norm_error,
        }

    def _moments(self) -> tuple[float, float, float, float]:
        """Return trace and norm with their errors, from the density's quadratures."""
        found = self._quadrature()
        nodes, weights, n = found.nodes.nan_to_num(0.0), found.weights, self._space.n
        first = sphere_mean(nodes, weights, n, exact=False)
        second = sphere_mean(nodes.square(), weights, n, exact=False)
        norm = math.sqrt(float(second.trace))
        error = float(second.standard_error) / (2.0 * norm) if norm else 0.0
        return float(first.trace), float(first.standard_error), norm, error

    def _quadrature(self) -> Quadrature:
        exact = self._exact
        settings: dict[str, Any] = {
            "num_probes": self._asked.num_probes,
            "num_steps": self._asked.num_steps,
            "seed": self._asked.generator.initial_seed(),
        }
        if exact is not None:
            n = self._space.n
            settings = {"method": f"dense: n = {n}"}
            nodes, weights = exact.values[None], exact.counts[None] / n
        else:
            steps = max(len(c.nodes) for c in self._quadratures)
            shape = (len(self._quadratures), steps)
            nodes = torch.full(shape, math.nan, dtype=torch.float64)
            weights = torch.zeros(shape, dtype=torch.float64)
            for i, chain in enumerate(self._quadratures):
                nodes[i, : len(chain.nodes)] = chain.nodes
                weights[i, : len(chain.nodes)] = chain.weights
        if self._positive:
            settings["positive_semidefinite"] = True
        return Quadrature(
            of=self._space.info,
            cost=Cost(num_matvecs=self.num_matvecs),
            settings=settings,
            nodes=nodes,
            weights=weights,
            dimension=self._space.n,
            exact=exact is not None,
        )

    def density(self) -> SpectralDensity:
        """Return the block's spectral density."""
        return density_from_nodes(self._quadrature())
