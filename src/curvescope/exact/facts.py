"""What rank formulas need to know of a net and its data, each decided in float64."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from curvescope.exact.flatness import flatness
from curvescope.exact.linear_inputs import InputGeometry, input_geometry, standardised
from curvescope.exact.linear_maps import (
    DataSums,
    chunk_size,
    data_sums,
    row_space,
)
from curvescope.exact.network import FeedForward
from curvescope.linalg.rank import rank_of_values
from curvescope.theory.rank_structure import generic_left_ranks, generic_right_ranks

_EPS = torch.finfo(torch.float64).eps
# Above this many multiplications the ranks of single units are not worth their time.
_MOST_UNIT_WORK = 2e11


@final
@dataclass
class _Decisions:
    """Ranks by name, with the gap behind each and whether it leaves no doubt."""

    gaps: dict[str, float] = field(default_factory=dict)
    certain: dict[str, bool] = field(default_factory=dict)

    def rank(self, name: str, values: Tensor, tolerance: float) -> int:
        """Read a rank; of several of one name the worst gap is kept."""
        found = rank_of_values(values, tolerance=tolerance)
        self.gaps[name] = min(found.gap, self.gaps.get(name, float("inf")))
        self.certain[name] = found.certain and self.certain.get(name, True)
        return found.rank

    def of_matrix(self, name: str, matrix: Tensor) -> int:
        """Read the rank of a matrix at the usual tolerance."""
        values = torch.linalg.svdvals(matrix)
        top = float(values[0]) if len(values) else 0.0
        return self.rank(name, values, 4 * max(matrix.shape) * _EPS * top)


def facts(net: FeedForward) -> dict[str, Any]:
    r"""Measure what the rank formulas are about.

    Inputs are taken in coordinates of one scale, so that neither a column of small
    numbers nor a large mean hides a direction. Ranks of products of weights are decided
    one factor at a time, on orthonormal bases of what the factors before let through,
    not on the product, whose small singular values are rounding.

    Args:
        net: Any feed-forward net.

    Returns:
        By name (those that `predicted_ranks` takes, and more): ``num_params``,
        ``num_samples``, ``widths``, ``activation`` (the name), ``activation_kind``
        (``"linear"``, ``"homogeneous"`` or ``"smooth"``), ``biases``, ``bias`` (whether
        any layer has one); ``input_rank`` r; ``centred_input_rank`` (rank of ``[X 1]``
        less one; ``None`` without a bias); ``residual_rank`` s (of
        :math:`\sum \delta [x; 1]^\top` with any bias); ``output_rank`` k;
        ``bottleneck`` q; ``flat_samples`` (how many the loss is not curved for in all k
        directions: saturated ones) and ``definite_curvature`` (whether it is for samples
        that span the inputs); ``shift_invariant``; ``balanced`` (with any bias: whether the
        gradients by the outputs sum to zero, as at the minimum over the last bias);
        ``weight_ranks``; ``full_rank_weights``
        (for linear nets of their products too); ``left_ranks`` and ``right_ranks`` of
        the staircase (linear nets with biases on all or no layers); ``dead_units``
        (hidden units whose slope is 0 on all samples); ``unit_input_ranks`` and
        ``unit_residual_ranks`` (one hidden layer of homogeneous units); ``gaps`` and
        ``certain``, by the name of each rank. What does not apply is ``None``.

    Cost:
        Three to five passes over the data in ``O(n (d^2 + K^3))``, and ``O(n m r^2)`` for
        single units, which are left out above 2e11 multiplications.
    """
    decisions = _Decisions()
    biases = tuple(layer.bias is not None for layer in net.layers)
    any_bias, all_biases = any(biases), all(biases)
    geometry = input_geometry(net, centred=any_bias)
    centred, inputs = None, _span_of_inputs(decisions, "input_rank", geometry)
    if any_bias:
        centred = _span_of_inputs(decisions, "centred_input_rank", geometry)
        inputs += _mean_counts(decisions, geometry, net.problem.num_samples)
    easy = standardised(net)
    sums = data_sums(easy, extended=any_bias, stored=net)
    outputs, values = row_space(sums.outputs)
    slack = 8 * len(outputs) * _EPS
    top = float(values[0]) if len(values) else 0.0
    curved = decisions.rank("output_rank", values, slack * top)
    seen = net.widths[-1] - sums.shift_invariant
    residual = _residual_rank(decisions, sums)
    balanced = any_bias and _is_balanced(sums)
    flat, definite = flatness(net, easy, sums, outputs)
    most = inputs if centred is None else centred + (not balanced)
    hidden = net.widths[1:-1]
    rank = inputs if centred is None or not all_biases else centred
    found: dict[str, Any] = {
        "num_params": net.num_params,
        "num_samples": net.problem.num_samples,
        "widths": net.widths,
        "activation": _activation(net),
        "activation_kind": _kind(net),
        "biases": biases,
        "bias": any_bias,
        "input_rank": inputs,
        "centred_input_rank": centred,
        "residual_rank": min(residual, seen, most),
        "output_rank": curved,
        "bottleneck": min((rank, curved, *hidden)),
        "shift_invariant": sums.shift_invariant,
        "balanced": balanced,
        "flat_samples": flat,
        "definite_curvature": definite,
        "weight_ranks": tuple(
            decisions.of_matrix("weight_ranks", layer.weight) for layer in net.layers
        ),
    }
    found["full_rank_weights"] = all(
        rank == min(layer.weight.shape)
        for rank, layer in zip(found["weight_ranks"], net.layers, strict=True)
    )
    found |= _products(net, decisions, geometry, outputs, found)
    found |= _units(easy, net, decisions)
    return found | {"gaps": decisions.gaps, "certain": decisions.certain}


def _activation(net: FeedForward) -> str:
    names = dict.fromkeys(activation.name for activation in net.activations)
    return ", ".join(names) or "linear"


def _kind(net: FeedForward) -> str:
    if net.is_linear:
        return "linear"
    homogeneous = all(activation.homogeneous for activation in net.activations)
    return "homogeneous" if homogeneous else "smooth"


def _span_of_inputs(decisions: _Decisions, name: str, geometry: InputGeometry) -> int:
    rank = decisions.rank(name, geometry.values, geometry.tolerance)
    clear = rank == 0 or float(geometry.values[rank - 1]) >= 1e3 * geometry.noise
    decisions.certain[name] = decisions.certain[name] and clear
    return rank


def _mean_counts(decisions: _Decisions, geometry: InputGeometry, num: int) -> int:
    """Return 1 if the mean lies outside the span of the centred inputs, else 0."""
    mean = num**0.5 * geometry.shift / geometry.scale
    rest = mean
    for _ in range(2):
        rest = rest - geometry.directions @ (geometry.directions.T @ rest)
    if geometry.rank == len(mean):
        return 0
    top = float(geometry.values[0]) if len(geometry.values) else 0.0
    tolerance = 8 * len(mean) * _EPS * max(float(mean.norm()), top)
    if float(rest.norm()) <= tolerance:
        return 0
    return decisions.rank("input_rank", rest.norm()[None], tolerance)


def _residual_rank(decisions: _Decisions, sums: DataSums) -> int:
    values = torch.linalg.svdvals(sums.residual)
    top = float(values[0]) if len(values) else 0.0
    relative = 8 * max(sums.residual.shape) * _EPS * top
    return decisions.rank("residual_rank", values, max(relative, 2 * sums.noise))


def _is_balanced(sums: DataSums) -> bool:
    """Tell whether the last column of Omega, the sum of the gradients, is rounding."""
    total = float(sums.residual[:, -1].norm())
    size = float(sums.residual.norm())
    floor = max(8 * max(sums.residual.shape) * _EPS * size, 2 * sums.noise)
    return size > 0.0 and total <= floor


def _span(decisions: _Decisions, name: str, weight: Tensor, space: Tensor) -> Tensor:
    """Return an orthonormal basis of the weight's image of a space, given by its basis.

    What rounding leaves where the weight takes the space to zero is as large as the
    weight, not as what is left.
    """
    left, values, _ = torch.linalg.svd(weight @ space, full_matrices=False)
    top = float(torch.linalg.matrix_norm(weight, ord=2))
    rank = decisions.rank(name, values, 4 * max(weight.shape) * _EPS * top)
    return left[:, :rank]


def _products(
    net: FeedForward,
    decisions: _Decisions,
    geometry: InputGeometry,
    outputs: Tensor,
    found: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the ranks of the staircase, and whether all products have full rank."""
    biases = found["biases"]
    if not net.is_linear or any(biases) != all(biases):
        return {"left_ranks": None, "right_ranks": None}
    weights = [layer.weight for layer in net.layers]
    spaces = [outputs]
    for weight in reversed(weights[1:]):
        spaces.append(_span(decisions, "left_ranks", weight.T, spaces[-1]))
    left = tuple(space.shape[1] for space in reversed(spaces))
    spaces = [geometry.basis()]
    for weight in weights[:-1]:
        spaces.append(_span(decisions, "right_ranks", weight, spaces[-1]))
    plain = tuple(space.shape[1] for space in spaces)
    hidden = net.widths[1:-1]
    generic = (
        found["full_rank_weights"]
        and left == generic_left_ranks(hidden, output_rank=found["output_rank"])
        and plain == generic_right_ranks(hidden, input_rank=plain[0])
        and _inner_products_are_full(weights[1:-1], decisions)
    )
    return {
        "left_ranks": left,
        # A column of ones beside a layer's inputs is never in the span of centred ones.
        "right_ranks": tuple(rank + any(biases) for rank in plain),
        "full_rank_weights": generic,
    }


def _inner_products_are_full(weights: list[Tensor], decisions: _Decisions) -> bool:
    """Tell whether every product of consecutive inner weights has the rank of its widths."""
    for first in range(len(weights)):
        space = torch.eye(weights[first].shape[1]).to(weights[first])
        for weight in weights[first:]:
            full = min(space.shape[1], weight.shape[0])
            space = _span(decisions, "weight_ranks", weight, space)
            if space.shape[1] < full:
                return False
    return True


def _units(
    net: FeedForward, stored: FeedForward, decisions: _Decisions
) -> dict[str, Any]:
    """Return which hidden units are dead, and the ranks that single units see."""
    if net.is_linear:
        return dict.fromkeys(("dead_units", "unit_input_ranks", "unit_residual_ranks"))
    first = net.layers[0]
    extended = first.bias is not None
    width, units = net.widths[0] + extended, net.widths[1]
    work = net.problem.num_samples * units * width**2
    wanted = len(net.layers) == 2 and net.activations[0].homogeneous
    wanted = wanted and work <= _MOST_UNIT_WORK
    alive = [
        torch.zeros(m, dtype=torch.bool).to(first.weight.device)
        for m in net.widths[1:-1]
    ]
    like = first.weight
    inputs = like.new_zeros(units, 0, width)
    residual, noise = (
        like.new_zeros(units, net.widths[-1], width),
        like.new_zeros(units),
    )
    most = chunk_size(units * width)
    pairs = zip(net.samples(most=most), stored.samples(most=most), strict=True)
    for easy, part in pairs:
        # Which units are on is told by the stored numbers: it may hang on the last bit.
        slopes = [
            activation.slope(z)
            for activation, z in zip(
                net.activations, stored.forward(part.inputs), strict=False
            )
        ]
        alive = [a | (s != 0).any(0) for a, s in zip(alive, slopes, strict=True)]
        if not wanted:
            continue
        x = torch.nn.functional.pad(easy.inputs, (0, int(extended)), value=1.0)
        weighted = slopes[0].T[:, :, None] * x
        inputs = _triangles(inputs, weighted)
        residual += part.gradients.T @ weighted
        noise += _EPS * weighted.norm(dim=2) @ part.gradients.norm(dim=1)
    found: dict[str, Any] = {
        "dead_units": sum(int((~a).sum()) for a in alive),
        "unit_input_ranks": None,
        "unit_residual_ranks": None,
    }
    if wanted:
        found["unit_input_ranks"] = tuple(
            decisions.of_matrix("unit_input_ranks", rows) for rows in inputs
        )
        found["unit_residual_ranks"] = tuple(
            _unit_residual_rank(decisions, omega, 2 * float(bound))
            for omega, bound in zip(residual, noise, strict=True)
        )
    return found


def _unit_residual_rank(decisions: _Decisions, omega: Tensor, bound: float) -> int:
    values = torch.linalg.svdvals(omega)
    top = float(values[0]) if len(values) else 0.0
    relative = 8 * max(omega.shape) * _EPS * top
    return decisions.rank("unit_residual_ranks", values, max(relative, bound))


def _triangles(rows: Tensor, more: Tensor) -> Tensor:
    """`triangle` for a batch of matrices."""
    stacked = torch.cat([rows, more], 1)
    if stacked.shape[1] <= 2 * stacked.shape[2]:
        return stacked
    return torch.linalg.qr(stacked, mode="r").R
