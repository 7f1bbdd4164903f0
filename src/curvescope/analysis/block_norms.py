"""Frobenius norms of the blocks between layers, of H and of its two parts."""

import math
import time
from typing import NamedTuple

import torch
from torch import Tensor

from curvescope._core.checks import one_of, positive_int
from curvescope._core.memory import peak_memory
from curvescope._core.progress import track
from curvescope._core.random import gaussian, resolve_generator
from curvescope.analysis.layer_groups import Groups, resolve_groups
from curvescope.curvature import GGN, FunctionalHessian
from curvescope.exact import matrices, own_blocks_in_turn
from curvescope.problem import Problem
from curvescope.results import BlockNorms, Cost

METHODS = ("auto", "exact", "probes")
NAMES = ("hessian", "ggn", "functional")
# Up to here the dense matrices take seconds.
_DENSE_BELOW = 1500
_PASSES_OF_A_BLOCK = 32


def block_norms(
    problem: Problem,
    *,
    groups: Groups | None = None,
    num_probes: int = 8,
    method: str = "auto",
    generator: torch.Generator | None = None,
) -> BlockNorms:
    r"""Measure the blocks between all pairs of layers, of H, GGN and functional Hessian.

    .. math:: \|B_{kl}\|_F^2 = \mathbb E\, \|B_{kl} z\|^2

    Probes z that live in one layer give the blocks of a whole column at once. As the
    matrix is symmetric, every block between two layers is estimated twice, and the two
    estimates are averaged; a layer's own block is exact where the Hessian chain rule
    gives it (`exact.own_blocks`).

    Args:
        problem: Model, loss and data.
        groups: Other blocks than the layers', as for `layer_curvature`.
        num_probes: Probes of each layer, at least 2.
        method: ``"exact"`` forms the matrices in float64; ``"auto"`` does so for few
            parameters; ``"probes"`` estimates all but exact own blocks.
        generator: Source of the probes; a fresh one with a fixed seed if ``None``.

    Returns:
        The norms with standard errors, to be printed, saved and drawn as heat maps.

    Raises:
        ValueError: If ``num_probes`` is below 2, or a group holds no parameter.

    Cost:
        For every layer ``num_probes`` products with the GGN and with the functional
        Hessian; formed, what `exact.matrices` takes.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        >>> data = (torch.ones(5, 3), torch.zeros(5, dtype=torch.long))
        >>> norms = block_norms(Problem(net, "cross_entropy", data)).norms["functional"]
        >>> norms.diagonal().tolist()  # each layer alone is linear in its weights
        [0.0, 0.0]

    References:
        Skorski, Temperoni, Theobald (2021), PMLR 157, for the split of own blocks.
    """
    num_probes = positive_int("num_probes", num_probes, minimum=2)
    one_of("method", method, METHODS)
    generator = resolve_generator(generator)
    began = time.perf_counter()
    chosen = resolve_groups(problem, groups)
    rows = {name: _rows(problem, names) for name, names in chosen.items()}
    dense = method == "exact" or (
        method == "auto" and problem.num_params <= _DENSE_BELOW
    )
    if dense:
        found = _formed(problem, list(rows.values()))
        text = "formed in float64"
    else:
        own = problem.layers()
        layers = [n for n in chosen if own.get(n) == chosen[n]]
        found = _probed(problem, rows, layers, num_probes, generator)
        text = f"{num_probes} Gaussian probes a layer"
    return BlockNorms(
        of=problem.provenance("Hessian"),
        cost=Cost(
            num_matvecs=found.cost.num_matvecs,
            num_data_passes=found.cost.num_data_passes,
            seconds=time.perf_counter() - began,
            peak_memory=peak_memory(problem.device),
        ),
        settings={
            "num_probes": num_probes,
            "method": method,
            "seed": generator.initial_seed(),
        },
        layers=tuple(rows),
        num_params=tuple(len(r) for r in rows.values()),
        norms={k: v.sqrt() for k, v in found.squares.items()},
        errors=found.errors,
        method=text,
    )


class _Found(NamedTuple):
    squares: dict[str, Tensor]
    errors: dict[str, Tensor]
    cost: Cost


def _rows(problem: Problem, names: tuple[str, ...]) -> Tensor:
    """Return the places of some parameters in the flat vector."""
    places = [s for s in problem.layout.slices() if s.name in names]
    return torch.cat([torch.arange(s.start, s.stop) for s in places])


def _empty(count: int) -> dict[str, Tensor]:
    return {name: torch.zeros(count, count, dtype=torch.float64) for name in NAMES}


def _formed(problem: Problem, rows: list[Tensor]) -> _Found:
    formed = matrices(problem)
    squares = _empty(len(rows))
    for name, operator in formed.computed.items():
        entries = operator.matrix.square()
        for i, own in enumerate(rows):
            band = entries[own.to(entries.device)].sum(0).cpu()
            for j, other in enumerate(rows):
                squares[name][i, j] = band[other].sum()
    return _Found(squares, _empty(len(rows)), formed.cost)


def _probed(
    problem: Problem,
    rows: dict[str, Tensor],
    layers: list[str],
    num_probes: int,
    generator: torch.Generator,
) -> _Found:
    count = len(rows)
    means, errors = _empty(count), _empty(count)
    operators = (GGN(problem), FunctionalHessian(problem))
    with track("blocks", total=count) as task:
        for j, own in enumerate(rows.values()):
            shape = (len(own), num_probes)
            draws = gaussian(
                shape, generator, dtype=problem.dtype, device=problem.device
            )
            Z = draws.new_zeros(problem.num_params, num_probes)
            Z[own.to(Z.device)] = draws
            linearisation, curvature = (A @ Z for A in operators)
            products = (linearisation + curvature, linearisation, curvature)
            for name, Y in zip(NAMES, products, strict=True):
                squares = Y.double().square().cpu()
                for i, other in enumerate(rows.values()):
                    values = squares[other].sum(0)
                    means[name][i, j] = values.mean()
                    errors[name][i, j] = values.std() / math.sqrt(num_probes)
            task.advance()
    for operator in operators:
        operator.release()
    passes = 2 * count * math.ceil(num_probes / _PASSES_OF_A_BLOCK)
    cost = Cost(num_matvecs=2 * num_probes * count, num_data_passes=passes)
    for name in NAMES:
        means[name], errors[name] = _averaged(means[name], errors[name])
    cost = cost + _exact_own_blocks(problem, list(rows), layers, means, errors)
    for name in NAMES:
        # Of the norm, by the delta method; a block of zeros is exactly that.
        root = means[name].sqrt()
        errors[name] = torch.where(root > 0, errors[name] / (2.0 * root), 0.0)
    return _Found(means, errors, cost)


def _averaged(means: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
    """Average the two independent estimates of every block between two layers."""
    diagonal = errors.diagonal().clone()
    mean = (means + means.T) / 2
    error = torch.hypot(errors, errors.T) / 2
    error.diagonal().copy_(diagonal)
    return mean, error


def _exact_own_blocks(
    problem: Problem,
    names: list[str],
    layers: list[str],
    squares: dict[str, Tensor],
    errors: dict[str, Tensor],
) -> Cost:
    """Replace estimates on the diagonal where there is an exact way."""
    cost = Cost()
    for blocks in own_blocks_in_turn(problem, layers=layers):
        cost = cost + Cost(num_data_passes=blocks.num_data_passes)
        while blocks:
            name, block = blocks.popitem()
            place = names.index(name)
            for matrix, norm in zip(NAMES, block.frobenius_norms(), strict=True):
                squares[matrix][place, place] = norm**2
                errors[matrix][place, place] = 0.0
    return cost
