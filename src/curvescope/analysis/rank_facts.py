"""What theory is told of a problem, and what it then says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

from curvescope._core.predictions import PredictedRank
from curvescope.exact.facts import facts as measured_facts
from curvescope.exact.modular import exact_facts
from curvescope.exact.network import FeedForward
from curvescope.problem import Problem
from curvescope.theory import predicted_ranks

# What `predicted_ranks` takes of the facts as they are.
_TAKEN = (
    "input_rank",
    "centred_input_rank",
    "output_rank",
    "residual_rank",
    "shift_invariant",
    "balanced",
    "definite_curvature",
    "full_rank_weights",
    "left_ranks",
    "right_ranks",
    "unit_input_ranks",
    "unit_residual_ranks",
)
# Facts that are compared when a rank differs, in the words of a note. Those from which
# others follow come first.
_COMPARED = {
    "input_rank": "rank of the inputs",
    "centred_input_rank": "rank of the centred inputs",
    "weight_ranks": "ranks of the weights",
    "left_ranks": "ranks of the products of weights after the layers",
    "right_ranks": "ranks of the layers' inputs",
    "output_rank": "outputs that the loss is curved in",
    "flat_samples": "saturated samples",
    "residual_rank": "rank of the residual",
    "balanced": "gradients that sum to zero",
    "unit_input_ranks": "ranks of the units' inputs",
    "unit_residual_ranks": "ranks of the units' residuals",
}
_MOST_SHOWN = 6


@final
@dataclass(frozen=True, kw_only=True)
class Theory:
    """Facts, and the predictions from them by matrix."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    predicted: Mapping[str, PredictedRank] = field(default_factory=dict)


def theory_of(problem: Problem, net: FeedForward | None) -> Theory:
    """Measure what the formulas need, and apply them.

    Args:
        problem: The problem, for what is known of any model.
        net: The same as a feed-forward net with all parameters selected, or ``None``.

    Returns:
        The facts, and the predictions; none for a model of unknown structure.
    """
    known: dict[str, Any] = {
        "num_params": problem.num_params,
        "num_samples": problem.num_samples,
        "loss": problem.loss.name,
    }
    if net is None:
        return Theory(facts=known)
    measured = measured_facts(net)
    return Theory(facts={**known, **measured}, predicted=_predicted(measured, measured))


def exact_theory_of(net: FeedForward, measured: Mapping[str, Any]) -> Theory:
    """Apply the formulas to the facts at the stored numbers, for certified ranks.

    Args:
        net: A feed-forward net with all parameters selected, that can be certified.
        measured: Its facts in float64, of which what the architecture says is taken.

    Returns:
        The facts, and the predictions.
    """
    exact = exact_facts(net)
    assert exact is not None
    return Theory(facts=exact, predicted=_predicted(measured, exact))


def differences(measured: Mapping[str, Any], exact: Mapping[str, Any]) -> list[str]:
    """Name the facts that differ, with both values."""
    found = []
    for name, meaning in _COMPARED.items():
        one, other = measured.get(name), exact.get(name)
        if one is not None and other is not None and one != other:
            found.append(
                f"{meaning} {_shown(one)} up to rounding, {_shown(other)} exactly"
            )
    return found


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, tuple):
        return str(value)
    text = ", ".join(map(str, value[:_MOST_SHOWN]))
    return f"({text}{', ...' if len(value) > _MOST_SHOWN else ''})"


def _predicted(
    architecture: Mapping[str, Any], facts: Mapping[str, Any]
) -> dict[str, PredictedRank]:
    return predicted_ranks(
        widths=architecture["widths"],
        num_samples=architecture["num_samples"],
        activation=architecture["activation_kind"],
        bias=architecture["biases"],
        **{name: facts[name] for name in _TAKEN},
    )
