"""Norms of every layer's own block, at one moment of a training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from curvescope._core.random import gaussian
from curvescope.analysis.layer_groups import restricted
from curvescope.curvature import GGN, FunctionalHessian
from curvescope.exact import own_blocks, own_blocks_in_turn
from curvescope.problem import Problem

# A pass of the chain rule is a backward one; a gradient is one forward and one backward.
_PASS = 2.0 / 3.0
_LOOK = 2
_SHOWN = 4
# A product with the GGN and one with the functional Hessian, and their two graphs.
_PROBE = 4.0 / 3.0 + 2.0
_GRAPHS = 2.0

Norms = dict[str, list[float]]


@final
@dataclass(frozen=True)
class LayerPrices:
    """What the norms of the layers cost on a problem.

    Attributes:
        inexact: Layers that need probes, with their sizes.
        num_passes: Passes over the data that serve all the others.
        reasons: Why the chain rule does not give a layer of `inexact`.
    """

    inexact: dict[str, int]
    num_passes: int
    reasons: dict[str, str] = field(default_factory=dict)

    def only_exact(self) -> "LayerPrices":
        """Return the price without the layers that need probes."""
        return LayerPrices({}, self.num_passes)

    def num_matvecs(self, num_probes: int) -> int:
        """Return the products of the layers that need probes."""
        return sum(2 * min(size, num_probes) for size in self.inexact.values())

    def gradients(self, num_probes: int) -> float:
        """Return all work in gradients of the probe set."""
        probes = [min(size, num_probes) for size in self.inexact.values()]
        return _PASS * self.num_passes + sum(_GRAPHS + _PROBE * m for m in probes)


def layer_prices(problem: Problem) -> LayerPrices:
    """Find which layers the chain rule gives exactly, from a look at two samples."""
    sizes = {
        name: restricted(problem, names).num_params
        for name, names in problem.layers().items()
    }
    if problem.layout.entries is not None:  # the chain rule gives whole layers
        reason = "only some entries of the parameters are selected"
        return LayerPrices(sizes, 0, dict.fromkeys(sizes, reason))
    try:
        found = own_blocks(_first_samples(problem))
    except ValueError as error:  # two samples may leave nothing to divide by
        return LayerPrices(sizes, 0, dict.fromkeys(sizes, str(error)))
    inexact = {name: size for name, size in sizes.items() if name not in found}
    reasons = {name: found.left_out.get(name, "not known") for name in inexact}
    return LayerPrices(inexact, found.num_data_passes if found else 0, reasons)


def left_out_note(left_out: Sequence[str], prices: LayerPrices) -> str:
    """Return which layers have no norms in a tracking, and why."""
    by_reason: dict[str, list[str]] = {}
    for name in left_out:
        reason = prices.reasons.get(name, "it was not exact when the tracking began")
        by_reason.setdefault(reason, []).append(name)
    texts = []
    for reason, names in by_reason.items():
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        texts.append(f"{shown} ({reason})")
    return (
        f"layers' norms: {len(left_out)} without an exact one are left out: "
        f'{"; ".join(texts)}. With `measures=[..., "layers"]` they come from probes'
    )


def _first_samples(problem: Problem) -> Problem:
    batch = next(iter(problem.batches())).part(0, _LOOK)
    names = frozenset(problem.layout.names)
    return Problem(
        problem.model,
        problem.loss,
        [(batch.inputs, batch.targets)],
        params=lambda name, _: name in names,
        reduction=problem.reduction,
        device=problem.device,
        dtype=problem.dtype,
        check=False,
    )


def layer_norms(
    problem: Problem,
    *,
    num_probes: int,
    generator: torch.Generator,
    without: Sequence[str] = (),
) -> tuple[dict[str, dict[str, list[float]]], dict[str, Any]]:
    """Return each layer's norms and standard errors, and what they took.

    Layers of the names ``without`` are left out.

    The norms are those of the whole block, of its linearisation part and of its
    curvature part: exact by the chain rule where it holds, else from probes.
    """
    found: dict[str, Norms] = {}
    passes = 0
    groups = {n: members for n, members in problem.layers().items() if n not in without}
    for blocks in own_blocks_in_turn(problem, layers=list(groups)):
        passes += blocks.num_data_passes
        for name, block in blocks.items():
            norms = list(map(float, block.frobenius_norms()))
            found[name] = {"norms": norms, "errors": [0.0, 0.0, 0.0]}
    left_out = {n: members for n, members in groups.items() if n not in found}
    sizes = {}
    for name, members in left_out.items():
        part = restricted(problem, members)
        sizes[name] = part.num_params
        found[name] = _probed(part, num_probes, generator)
    spent = LayerPrices(sizes, passes)
    cost = {
        "num_matvecs": spent.num_matvecs(num_probes),
        "gradients": spent.gradients(num_probes),
    }
    return {name: found[name] for name in groups}, cost


def _probed(part: Problem, num_probes: int, generator: torch.Generator) -> Norms:
    size = part.num_params
    exact = size <= num_probes
    if exact:
        Z = torch.eye(size, dtype=part.dtype, device=part.device)
    else:
        shape = (size, num_probes)
        Z = gaussian(shape, generator, dtype=part.dtype, device=part.device)
    linearisation = (GGN(part) @ Z).double()
    curvature = (FunctionalHessian(part) @ Z).double()
    parts = (linearisation + curvature, linearisation, curvature)
    values = [_norm(Y, exact=exact) for Y in parts]
    return {
        "norms": [value for value, _ in values],
        "errors": [error for _, error in values],
    }


def _norm(Y: Tensor, *, exact: bool) -> tuple[float, float]:
    """Return the Frobenius norm and its standard error, by the delta method."""
    squares = Y.square().sum(dim=0)
    if exact:
        return math.sqrt(float(squares.sum())), 0.0
    value = math.sqrt(float(squares.mean()))
    if value == 0.0:
        return 0.0, 0.0
    error = float(squares.std()) / math.sqrt(len(squares))
    return value, error / (2.0 * value)
