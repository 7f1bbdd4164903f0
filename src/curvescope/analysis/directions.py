"""Directions in parameter space: eigenvectors, gradients, random and filter-normalised.

Whatever they come from, a set of directions leaves this file orthonormal.
"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from curvescope._core.checkpoint import Checkpoint
from curvescope._core.checks import describe, message, one_of
from curvescope._core.fingerprints import checksum
from curvescope._core.random import gaussian
from curvescope.curvature import Hessian
from curvescope.exact import matrices
from curvescope.exact.network import feed_forward
from curvescope.linalg import eigsh
from curvescope.problem import Problem
from curvescope.results import Cost, Eigenpairs

NAMES = ("top", "bottom", "complement", "random", "gradient", "filter")
SPECTRAL = ("top", "bottom", "complement")
# The largest Hessian that is diagonalised unasked: by closed forms, column by column.
_DENSE_CLOSED_FORM = 4096
_DENSE_AUTODIFF = 1024
# How far from orthonormal eigenvectors may be: far above rounding in float32.
_ORTHONORMAL = 1e-3
# Below this part of a direction outside the others', the plane is rounding noise.
_INDEPENDENT = 1e-4


@final
@dataclass(frozen=True)
class Directions:
    """Orthonormal directions, each with its name and its length before.

    Attributes:
        vectors: ``(P, d)``, in the problem's dtype and place.
        names: What each one is.
        lengths: Before they were made orthonormal.
        cost: What finding them cost.
        notes: Remarks for a reader.
    """

    vectors: Tensor
    names: tuple[str, ...]
    lengths: tuple[float, ...]
    cost: Cost = field(default_factory=Cost)
    notes: tuple[str, ...] = ()


def eigenbasis(
    problem: Problem,
    k: int,
    *,
    checkpoint: Checkpoint | None = None,
    generator: torch.Generator | None = None,
) -> Eigenpairs:
    """Return all eigenpairs of a small Hessian, else the ``k`` of largest magnitude.

    Exact and dense up to 4,096 parameters of a feed-forward net, or 1,024 of another;
    then `eigsh`.
    """
    if is_dense(problem):
        return _all_pairs(problem)
    k = min(k, problem.num_params)
    return eigsh(Hessian(problem), k=k, checkpoint=checkpoint, generator=generator)


def is_dense(problem: Problem) -> bool:
    """Tell whether `eigenbasis` computes all eigenpairs of a problem, exactly."""
    size = problem.num_params
    return size <= _DENSE_AUTODIFF or (
        size <= _DENSE_CLOSED_FORM and feed_forward(problem) is not None
    )


def _all_pairs(problem: Problem) -> Eigenpairs:
    began = time.perf_counter()
    found = matrices(problem, parts=("hessian",))
    assert found.hessian is not None
    H = found.hessian.matrix
    values, vectors = torch.linalg.eigh(H)
    values, vectors = values.flip(0).contiguous(), vectors.flip(1).contiguous()
    residuals = (H @ vectors - vectors * values).norm(dim=0)
    return Eigenpairs(
        of=problem.provenance("Hessian"),
        cost=replace(found.cost, seconds=time.perf_counter() - began),
        settings={"method": f"dense, float64, {found.method}"},
        eigenvalues=values.cpu(),
        eigenvectors=vectors,
        residual_norms=residuals.cpu(),
        converged=torch.ones(len(values), dtype=torch.bool),
        which="LM",
        tolerance=0.0,
        norm=float(values.abs().max()),
    )


def check_eigenpairs(problem: Problem, pairs: Eigenpairs) -> Eigenpairs:
    """Refuse eigenpairs without vectors, or of other weights.

    Raises:
        TypeError: If they are no eigenpairs.
        ValueError: If they do not fit the problem.
    """
    if not isinstance(pairs, Eigenpairs):
        remedy = "Pass the result of `eigsh`."
        text = message("eigenpairs", "be Eigenpairs", describe(type(pairs)), remedy)
        raise TypeError(text)
    vectors = pairs.eigenvectors
    if vectors is None or vectors.shape[0] != problem.num_params:
        got = "none" if vectors is None else f"vectors of {vectors.shape[0]} entries"
        contract = f"hold eigenvectors of {problem.num_params} entries"
        remedy = "Compute them with `eigsh(..., eigenvectors=True)` at these weights."
        raise ValueError(message("eigenpairs", contract, got, remedy))
    if pairs.of.fingerprint and pairs.of.fingerprint != problem.refresh():
        got = "those of other weights, data or settings"
        remedy = "Compute them again, for this problem."
        raise ValueError(message("eigenpairs", "be of this very problem", got, remedy))
    gram = vectors.T @ vectors
    gram.diagonal().sub_(1.0)
    off = float(gram.abs().max()) if gram.numel() else 0.0
    if not off <= _ORTHONORMAL:
        got = f"products that are off by up to {off:.2g}"
        remedy = "Orthonormalise them: `torch.linalg.qr` of the vectors."
        contract = "hold orthonormal eigenvectors"
        raise ValueError(message("eigenpairs", contract, got, remedy))
    return pairs


def check_bottom(
    problem: Problem, pairs: Eigenpairs | None, names: Iterable[object]
) -> None:
    """Refuse ``"bottom"`` where only some eigenpairs are, or would be, there.

    The net's size decides it, so that nothing need be computed before.

    Raises:
        ValueError: If the flattest eigenvectors are out of reach.
    """
    if "bottom" not in [name for name in names if isinstance(name, str)]:
        return
    if is_dense(problem) if pairs is None else is_whole(problem, pairs):
        return
    some = "the largest" if pairs is None else str(len(pairs.eigenvalues))
    got = f'"bottom" with {some} of {problem.num_params} eigenpairs'
    remedy = (
        'Use "complement", random directions orthogonal to the top eigenvectors, or '
        "a problem of fewer parameters (`problem.select(...)`)."
    )
    contract = "not need the flattest eigenvectors of a large net"
    raise ValueError(message("directions", contract, got, remedy))


def pairs_checksum(pairs: Eigenpairs | None) -> str | None:
    """Return a hash of eigenvalues and vectors, of which saved numbers depend."""
    if pairs is None:
        return None
    vectors = [] if pairs.eigenvectors is None else [pairs.eigenvectors]
    return checksum([pairs.eigenvalues, *vectors])


def by_magnitude(problem: Problem, pairs: Eigenpairs) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and vectors, largest magnitude first, where products are."""
    assert pairs.eigenvectors is not None
    order = pairs.eigenvalues.abs().argsort(descending=True, stable=True)
    vectors = pairs.eigenvectors.to(device=problem.device, dtype=problem.dtype)
    return pairs.eigenvalues[order], vectors[:, order.to(problem.device)]


def is_whole(problem: Problem, pairs: Eigenpairs) -> bool:
    """Tell whether these are all eigenpairs."""
    return len(pairs.eigenvalues) == problem.num_params


def subspace(
    problem: Problem, pairs: Eigenpairs, name: str, num: int
) -> tuple[Tensor, Tensor]:
    """Return values and vectors of the ``num`` top or bottom ones by magnitude.

    Raises:
        ValueError: If the pairs do not reach that far.
    """
    values, vectors = by_magnitude(problem, pairs)
    if num > len(values):
        contract = f"be at most {len(values)}, the eigenpairs that are there"
        raise ValueError(message(f"num_{name}", contract, num))
    if name == "top":
        return values[:num], vectors[:, :num]
    check_bottom(problem, pairs, [name])
    return values[-num:].flip(0), vectors[:, -num:].flip(1)


def projected_off(Q: Tensor, V: Tensor) -> Tensor:
    """Take the part orthogonal to orthonormal columns ``Q``, to rounding: twice."""
    for _ in range(2):
        V = V - Q @ (Q.T @ V)
    return V


def filter_normalised(problem: Problem, V: Tensor) -> Tensor:
    r"""Give every filter of directions ``(P, d)`` the length of the weights' filter.

    .. math:: d_f \leftarrow \frac{\|\theta_f\|}{\|d_f\|}\, d_f

    A filter is what feeds one output: an entry of a parameter's first dimension. The
    directions are zero on biases and norm layers, as Li et al. have them.

    References:
        Li, Xu, Taylor, Studer, Goldstein (2018), arXiv:1712.09913, section 4.
    """
    layout = problem.layout
    weights = layout.split(problem.parameter_vector()[None])
    scaled = []
    for piece, weight in zip(layout.split(V.T), weights, strict=True):
        if weight.ndim < 3:  # one dimension is that of the vectors
            scaled.append(torch.zeros_like(piece))
            continue
        own = piece.flatten(2).norm(dim=2)
        ratio = weight.flatten(2).norm(dim=2) / own.clamp_min(1e-30)
        scaled.append(piece * ratio.reshape(*own.shape, *[1] * (piece.ndim - 2)))
    return layout.join(scaled).T


@final
@dataclass
class Finder:
    """Finds raw directions by name; computes an eigenbasis at most once.

    Attributes:
        problem: Where.
        num_top: How many top eigenvectors a complement is orthogonal to.
        generator: Source of the randomness.
        eigenpairs: Those that are there already.
        checkpoint: Of the eigensolver.
    """

    problem: Problem
    num_top: int
    generator: torch.Generator
    eigenpairs: Eigenpairs | None = None
    checkpoint: Checkpoint | None = None
    cost: Cost = field(default_factory=Cost)

    def pairs(self) -> Eigenpairs:
        """Return the eigenpairs, computing them at first use."""
        if self.eigenpairs is None:
            self.eigenpairs = eigenbasis(
                self.problem,
                self.num_top,
                checkpoint=self.checkpoint,
                generator=self.generator,
            )
            self.cost = self.cost + self.eigenpairs.cost
        return self.eigenpairs

    def find(self, name: str, num: int) -> tuple[Tensor, list[str]]:
        """Return ``num`` directions of a kind, not yet orthonormal, with their names."""
        one_of("directions", name, NAMES)
        if name in ("top", "bottom"):
            values, V = subspace(self.problem, self.pairs(), name, num)
            titles = [
                f"{name} eigenvector {i + 1}, eigenvalue {float(value):.4g}"
                for i, value in enumerate(values)
            ]
            return V, titles
        if name == "gradient":
            return self._gradients(num)
        V = self.random(num)
        if name == "filter":
            V, title = filter_normalised(self.problem, V), "filter-normalised random"
        elif name == "complement":
            _, Q = by_magnitude(self.problem, self.pairs())
            count = min(self.num_top, Q.shape[1])
            V = projected_off(Q[:, :count], V)
            title = f"random, orthogonal to the top {count} eigenvectors"
        else:
            title = "random"
        return V, [title if num == 1 else f"{title}, {i + 1}" for i in range(num)]

    def random(self, num: int) -> Tensor:
        """Draw Gaussian directions."""
        shape = (self.problem.num_params, num)
        kind, place = self.problem.dtype, self.problem.device
        return gaussian(shape, self.generator, dtype=kind, device=place)

    def _gradients(self, num: int) -> tuple[Tensor, list[str]]:
        g = self.problem.gradient()
        if float(g.norm()) == 0.0:
            remedy = 'Use "top" or "random" at a stationary point.'
            text = message("directions", "have a gradient", "one that is zero", remedy)
            raise ValueError(text)
        if num == 1:
            return g[:, None], ["gradient"]
        bent = Hessian(self.problem) @ g
        self.cost = self.cost + Cost(num_matvecs=1, num_data_passes=1)
        return torch.stack([g, bent], dim=1), ["gradient", "Hessian times gradient"]


def orthonormal(V: Tensor) -> tuple[Tensor, tuple[float, ...]]:
    """Return orthonormal columns in the same order and sense, and the old lengths.

    Raises:
        ValueError: If a column is zero, not finite, or in the span of those before.
    """
    lengths = V.double().norm(dim=0)
    if not bool((torch.isfinite(lengths) & (lengths > 0)).all()):
        got = f"lengths {', '.join(f'{x:.3g}' for x in lengths.tolist())}"
        raise ValueError(message("directions", "be finite and not zero", got))
    Q, R = torch.linalg.qr(V.double() / lengths)
    diagonal = R.diagonal()
    if float(diagonal.abs().min()) < _INDEPENDENT:
        got = f"a sine of {float(diagonal.abs().min()):.1e} between them"
        raise ValueError(message("directions", "be linearly independent", got))
    return (Q * diagonal.sign()).to(V.dtype), tuple(lengths.tolist())


def find_directions(
    finder: Finder, directions: str | Tensor | Sequence[str | Tensor], num_dims: int
) -> Directions:
    """Return orthonormal directions as they were asked for.

    Raises:
        ValueError: If they do not fit the problem or each other.
    """
    problem = finder.problem
    if isinstance(directions, str):
        V, names = finder.find(directions, num_dims)
    elif isinstance(directions, Tensor):
        V, names = _given(problem, directions)
    else:
        parts = [
            finder.find(d, 1) if isinstance(d, str) else _given(problem, d)
            for d in directions
        ]
        V = torch.cat([part for part, _ in parts], dim=1)
        names = [name for _, titles in parts for name in titles]
        names = [
            f"{name} ({i + 1})" if names.count(name) > 1 else name
            for i, name in enumerate(names)
        ]
    if V.shape[1] not in (1, 2) or V.shape[1] != num_dims:
        contract = f"be {num_dims} direction(s), as `num_dims` says"
        raise ValueError(message("directions", contract, V.shape[1]))
    Q, lengths = orthonormal(V)
    notes: tuple[str, ...] = ()
    cosine = float((V[:, 0] @ V[:, -1]).double()) / math.prod(lengths)
    if len(lengths) == 2 and abs(cosine) > 1e-3:
        text = (
            f"the directions had a cosine of {cosine:.3g}; the second axis is the part of "
            "the second one that is orthogonal to the first"
        )
        notes = (text,)
    return Directions(Q, tuple(names), lengths, finder.cost, notes)


def _given(problem: Problem, directions: Tensor) -> tuple[Tensor, list[str]]:
    if directions.is_complex():
        got = describe(directions)
        raise TypeError(message("directions", "hold real numbers", got))
    V = directions[:, None] if directions.ndim == 1 else directions
    if V.ndim != 2 or V.shape[0] != problem.num_params:
        contract = f"have {problem.num_params} rows, one a selected parameter"
        raise ValueError(message("directions", contract, describe(directions)))
    V = V.detach().to(device=problem.device, dtype=problem.dtype)
    return V, [
        "given" if V.shape[1] == 1 else f"given {i + 1}" for i in range(V.shape[1])
    ]
