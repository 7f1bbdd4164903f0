"""What theory is told of a problem, and what it then says."""

from typing import Any

from curvescope._core.predictions import PredictedRank
from curvescope.exact.facts import facts as measured_facts
from curvescope.exact.network import FeedForward
from curvescope.problem import Problem
from curvescope.theory import predicted_ranks

# What `predicted_ranks` takes of the measured facts as they are.
_TAKEN = (
    "widths",
    "num_samples",
    "input_rank",
    "centred_input_rank",
    "output_rank",
    "residual_rank",
    "shift_invariant",
    "balanced",
    "full_rank_weights",
    "left_ranks",
    "right_ranks",
    "unit_input_ranks",
    "unit_residual_ranks",
)


def predictions(
    problem: Problem, net: FeedForward | None
) -> tuple[dict[str, Any], dict[str, PredictedRank]]:
    """Measure what the formulas need, and apply them.

    Args:
        problem: The problem, for what is known of any model.
        net: The same as a feed-forward net with all parameters selected, or ``None``.

    Returns:
        The facts, and the predictions by matrix; none for a model of unknown structure.
    """
    known: dict[str, Any] = {
        "num_params": problem.num_params,
        "num_samples": problem.num_samples,
        "loss": problem.loss.name,
    }
    if net is None:
        return known, {}
    measured = measured_facts(net)
    return {**known, **measured}, predicted_ranks(
        activation=measured["activation_kind"],
        bias=measured["biases"],
        **{name: measured[name] for name in _TAKEN},
    )
