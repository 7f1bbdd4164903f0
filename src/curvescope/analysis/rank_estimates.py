"""Ranks of matrices that are never formed: estimates with their errors."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from curvescope._core.memory import available_memory
from curvescope._core.predictions import PredictedRank
from curvescope.analysis.rank_values import num_outputs
from curvescope.curvature import GGN, FunctionalHessian, Hessian
from curvescope.exact.factor import ggn_factor, has_factor
from curvescope.linalg import estimate_rank
from curvescope.linalg.rank import rank_of_values
from curvescope.problem import Problem
from curvescope.results import RankEstimate

_EPS = torch.finfo(torch.float64).eps
_OPERATORS: dict[str, Callable[[Problem], Any]] = {
    "hessian": Hessian,
    "ggn": GGN,
    "functional": FunctionalHessian,
}
# A factor of more rows takes longer than the estimates.
_MOST_ROWS = 4_000
_FACTORS_AT_ONCE = 3


def estimates(
    problem: Problem,
    predicted: Mapping[str, PredictedRank],
    *,
    num_probes: int,
    num_steps: int,
    generator: torch.Generator,
) -> dict[str, RankEstimate]:
    """Estimate the three ranks without the matrices; the GGN's exactly where it fits.

    A rank that theory bounds is not estimated above its bound: what lies above is error.
    """
    ranks = {}
    for name, operator in _OPERATORS.items():
        if name == "ggn" and _factor_fits(problem):
            ranks[name] = _of_factor(problem)
            continue
        rank = estimate_rank(
            operator(problem),
            num_probes=num_probes,
            num_steps=num_steps,
            generator=generator,
        )
        ranks[name] = _bounded(rank, predicted.get(name))
    return ranks


def _bounded(rank: RankEstimate, prediction: PredictedRank | None) -> RankEstimate:
    if prediction is None or rank.rank <= prediction.value:
        return rank
    over = rank.rank - prediction.value
    note = f"theory bounds it by {prediction.value}; estimated {rank.rank}"
    return replace(
        rank,
        rank=prediction.value,
        standard_error=max(rank.standard_error - over, 0.0),
        notes=(*rank.notes, note),
    )


def _factor_fits(problem: Problem) -> bool:
    rows = problem.num_samples * num_outputs(problem)
    need = _FACTORS_AT_ONCE * 8 * rows * problem.num_params
    return (
        rows <= min(_MOST_ROWS, problem.num_params)
        and need <= available_memory(torch.device("cpu"))
        and has_factor(problem)
    )


def _of_factor(problem: Problem) -> RankEstimate:
    values = torch.linalg.svdvals(ggn_factor(problem).cpu())
    largest = float(values[0]) if len(values) else 0.0
    return rank_of_values(
        values, tolerance=problem.num_params * _EPS * largest, method="factor"
    )
