"""Norms and trace of layers' own blocks: exactly where that is possible, else by probes.

No eigenvalue is asked for, so that an initialisation costs little more than a few
backward passes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from curvescope._core.random import gaussian
from curvescope.curvature import GGN, FunctionalHessian
from curvescope.curvature.choices import MOST_COLUMNS
from curvescope.exact import own_blocks_in_turn
from curvescope.problem import Problem
from curvescope.results import Cost


@final
@dataclass(frozen=True, kw_only=True)
class Measure:
    """One layer's own block; norms are Frobenius norms, errors standard errors."""

    num_params: int
    frobenius_norm: float
    linearisation_norm: float
    curvature_norm: float
    trace: float
    linearisation_trace: float
    frobenius_norm_error: float = 0.0
    trace_error: float = 0.0


@final
@dataclass(frozen=True, kw_only=True)
class Measures:
    """All layers' blocks at one set of weights.

    Attributes:
        layers: By name.
        cost: Products (of probes) and passes over the data.
        probed: Why a layer was measured by probes, by name.
    """

    layers: Mapping[str, Measure]
    cost: Cost
    probed: Mapping[str, str]

    @property
    def norms(self) -> dict[str, float]:
        """Each block's Frobenius norm."""
        return {name: one.frobenius_norm for name, one in self.layers.items()}

    @property
    def method(self) -> str:
        """How they were measured, in words."""
        if not self.probed:
            return "exact, by the Hessian chain rule"
        if len(self.probed) == len(self.layers):
            return "Gaussian probes"
        return f"exact, but {len(self.probed)} of {len(self.layers)} by Gaussian probes"


def exactly(names: Sequence[str]) -> Any:
    """Return the selection of just these parameters."""
    chosen = frozenset(names)
    return lambda name, _: name in chosen


def measure_layers(
    problem: Problem, *, num_probes: int, generator: torch.Generator
) -> Measures:
    """Measure the own block of every layer of a problem."""
    found: dict[str, Measure] = {}
    left: dict[str, str] = {}
    cost = Cost()
    for blocks in own_blocks_in_turn(problem):
        left |= blocks.left_out
        cost = cost + Cost(num_data_passes=blocks.num_data_passes)
        for name, block in blocks.items():
            norms, traces = block.frobenius_norms(), block.traces()
            found[name] = Measure(
                num_params=block.num_params,
                frobenius_norm=norms.whole,
                linearisation_norm=norms.linearisation,
                curvature_norm=norms.curvature,
                trace=traces.whole,
                linearisation_trace=traces.linearisation,
            )
    groups = problem.layers()
    left = {name: left.get(name, "") for name in groups if name not in found}
    for name in left:
        part = problem.select(exactly(groups[name]))
        found[name], spent = _probed(part, num_probes, generator)
        cost = cost + spent
    return Measures(
        layers={name: found[name] for name in groups}, cost=cost, probed=left
    )


def _probed(
    part: Problem, num_probes: int, generator: torch.Generator
) -> tuple[Measure, Cost]:
    """Measure one block by Gaussian probes: E |B z|^2 is the norm's square."""
    shape = (part.num_params, num_probes)
    Z = gaussian(shape, generator, dtype=part.dtype, device=part.device)
    linearisation = (GGN(part) @ Z).double()
    curvature = (FunctionalHessian(part) @ Z).double()
    whole = linearisation + curvature
    norm, norm_error = _norm(whole)
    products = (Z.double() * whole).sum(0)
    measure = Measure(
        num_params=part.num_params,
        frobenius_norm=norm,
        linearisation_norm=_norm(linearisation)[0],
        curvature_norm=_norm(curvature)[0],
        trace=float(products.mean()),
        linearisation_trace=float((Z.double() * linearisation).sum(0).mean()),
        frobenius_norm_error=norm_error,
        trace_error=float(products.std()) / math.sqrt(num_probes),
    )
    passes = 2 * math.ceil(num_probes / MOST_COLUMNS)
    return measure, Cost(num_matvecs=2 * num_probes, num_data_passes=passes)


def _norm(Y: Tensor) -> tuple[float, float]:
    """Return the root of the mean square and its standard error, by the delta method."""
    squares = (Y * Y).sum(0)
    value = math.sqrt(float(squares.mean()))
    error = float(squares.std()) / math.sqrt(len(squares))
    return value, error / (2.0 * value) if value > 0.0 else 0.0
