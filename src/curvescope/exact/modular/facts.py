"""What the rank formulas need to know, exactly: of the numbers as they are stored."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from curvescope.exact.modular.certificate import uncertifiable
from curvescope.exact.modular.elimination import rank_modulo, row_basis
from curvescope.exact.modular.field import PRIMES, Array, PrimeField
from curvescope.exact.modular.residues import ResidueNet, residues_of
from curvescope.exact.network import FeedForward, Samples
from curvescope.theory.rank_structure import generic_left_ranks, generic_right_ranks

# Above this many multiplications the ranks of single units are not worth their time.
_MOST_UNIT_WORK = 2e10


def exact_facts(
    net: FeedForward, *, primes: Sequence[int] = PRIMES[:2]
) -> dict[str, Any] | None:
    r"""Return the facts of `curvescope.exact.facts.facts` at the stored numbers.

    The same numbers as `certified_ranks` sees, by the same arithmetic: formulas at these
    facts are to be compared with certified ranks, as formulas at the facts in float64
    are with measured ones. The two differ where a rank holds up to rounding only (centred
    or projected inputs, weights that are products) or where something small is lost in
    float64.

    Args:
        net: Any feed-forward net.
        primes: Odd primes below ``2^22``; each rank is the largest over them.

    Returns:
        By name: ``input_rank``, ``centred_input_rank``, ``output_rank``,
        ``residual_rank``, ``shift_invariant``, ``balanced``, ``weight_ranks``,
        ``full_rank_weights``, ``left_ranks``, ``right_ranks``, ``unit_input_ranks``,
        ``unit_residual_ranks``, ``flat_samples``, ``definite_curvature``; ``None`` where
        there is no certificate either.

    Cost:
        ``O(n (d r + K^2 k))`` for each prime, and ``O(n m r^2)`` for single units.
    """
    if uncertifiable(net) is not None:
        return None
    samples = list(net.samples(most=max(1, net.problem.num_samples)))
    positive = all(_is_positive(net, part) for part in samples)
    found = [
        _facts(residues_of(net, samples, PrimeField(prime)), net) for prime in primes
    ]
    ranks = {name: _largest([one[name] for one in found]) for name in found[0]}
    flat = min(one["flat_samples"] for one in found)
    seen = net.widths[-1] - ranks["shift_invariant"]
    inputs = ranks["centred_input_rank"]
    inputs = ranks["input_rank"] if inputs is None else inputs
    return ranks | {
        "shift_invariant": bool(ranks["shift_invariant"]),
        "balanced": bool(min(one["balanced"] for one in found)),
        "residual_rank": min(ranks["residual_rank"], seen),
        "full_rank_weights": _are_generic(net, ranks, inputs),
        "flat_samples": flat,
        "definite_curvature": positive and bool(ranks["definite_curvature"]),
    }


def _largest(values: list[Any]) -> Any:
    if values[0] is None:
        return None
    if isinstance(values[0], tuple):
        return tuple(max(ranks) for ranks in zip(*values, strict=True))
    return max(values)


def _is_positive(net: FeedForward, part: Samples) -> bool:
    """Tell whether no output Hessian has a negative direction."""
    # Diagonal, or mass (diag p - p p'): the diagonal tells.
    diagonal = torch.diagonal(net.output_hessians(part), dim1=1, dim2=2)
    return bool((diagonal >= 0).all())


def _facts(residues: ResidueNet, net: FeedForward) -> dict[str, Any]:
    """Return the facts modulo one prime; what is true or false as 1 or 0."""
    field = residues.field
    inputs = residues.hidden[0]
    with_one = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    any_bias = any(residues.biased)
    seen = with_one if any_bias else inputs
    omega = field.matmul(residues.gradients.T, seen)
    outputs, flat, definite = _curvature(residues, seen)
    total = field.matmul(np.ones((1, len(inputs))), residues.gradients)
    weights = tuple(rank_modulo(weight, field.prime) for weight in residues.weights)
    return {
        "input_rank": rank_modulo(inputs, field.prime),
        "centred_input_rank": (
            rank_modulo(with_one, field.prime) - 1 if any_bias else None
        ),
        "output_rank": len(outputs),
        "residual_rank": rank_modulo(omega, field.prime),
        "shift_invariant": int(residues.centred and net.widths[-1] > 1),
        "balanced": int(any_bias and bool(omega.any()) and not total.any()),
        "weight_ranks": weights,
        "inner_ranks": _inner_ranks(residues) if net.is_linear else None,
        "flat_samples": flat,
        "definite_curvature": int(definite),
        **_factors(residues, outputs),
        **_units(residues, net),
    }


def _curvature(residues: ResidueNet, seen: Array) -> tuple[Array, int, bool]:
    """Return what the loss is curved on, samples flat in part of it, and if it matters.

    It does not where the samples that are curved on all of it span the inputs: then the
    sum of ``Lambda (x) x x'`` is definite on the product of both spaces.
    """
    prime, curvatures = residues.field.prime, residues.curvatures
    rows = curvatures.reshape(-1, curvatures.shape[-1])
    pivots, _ = row_basis(rows, prime)
    outputs = rows[pivots]
    if len(curvatures) == 1:
        return outputs, 0, True
    # Diagonal, or mass (diag p - p p') with sum p = 1, which loses one where mass is.
    live = curvatures.any(2).sum(1)
    whole = np.maximum(live - residues.centred, 0) >= len(outputs)
    flat = int((~whole).sum())
    if not flat:
        return outputs, 0, True
    definite = rank_modulo(seen[whole], prime) == rank_modulo(seen, prime)
    return outputs, flat, definite


def _factors(residues: ResidueNet, outputs: Array) -> dict[str, Any]:
    """Return the ranks of the staircase, of linear nets with all biases or none."""
    if not residues.is_linear or any(residues.biased) != all(residues.biased):
        return {"left_ranks": None, "right_ranks": None}
    field = residues.field
    space = outputs
    left = [len(space)]
    for weight in residues.weights[:0:-1]:
        space = field.matmul(space, weight)
        left.insert(0, rank_modulo(space, field.prime))
    layers = range(len(residues.weights))
    right = (rank_modulo(residues.extended(layer), field.prime) for layer in layers)
    return {"left_ranks": tuple(left), "right_ranks": tuple(right)}


def _inner_ranks(residues: ResidueNet) -> tuple[int, ...]:
    """Return the ranks of all products of consecutive weights between hidden layers."""
    field, inner = residues.field, residues.weights[1:-1]
    ranks = []
    for first in range(len(inner)):
        product = np.eye(inner[first].shape[1])
        for weight in inner[first:]:
            product = field.matmul(weight, product)
            ranks.append(rank_modulo(product, field.prime))
    return tuple(ranks)


def _are_generic(net: FeedForward, ranks: dict[str, Any], inputs: int) -> bool:
    """Tell whether weights and products have the ranks that the widths allow."""
    full = tuple(min(pair) for pair in pairwise(net.widths))
    if ranks["weight_ranks"] != full:
        return False
    if ranks["left_ranks"] is None:
        return True
    hidden = net.widths[1:-1]
    bias = net.layers[0].bias is not None
    right = generic_right_ranks(hidden, input_rank=inputs)
    inner = tuple(
        min(hidden[first : last + 1])
        for first in range(len(hidden) - 1)
        for last in range(first + 1, len(hidden))
    )
    return (
        ranks["left_ranks"]
        == generic_left_ranks(hidden, output_rank=ranks["output_rank"])
        and ranks["right_ranks"] == tuple(rank + bias for rank in right)
        and ranks["inner_ranks"] == inner
    )


def _units(residues: ResidueNet, net: FeedForward) -> dict[str, Any]:
    """Return the ranks that single units of one homogeneous hidden layer see."""
    nothing = {"unit_input_ranks": None, "unit_residual_ranks": None}
    if net.is_linear or len(net.layers) != 2 or not net.activations[0].homogeneous:
        return nothing
    slopes, x, field = residues.slopes[0], residues.extended(0), residues.field
    if slopes is None or slopes.size * x.shape[1] ** 2 > _MOST_UNIT_WORK:
        return nothing
    inputs, residual = [], []
    for slope in slopes.T:
        rows = field.product(slope[:, None], x)
        inputs.append(rank_modulo(rows, field.prime))
        seen = field.matmul(residues.gradients.T, rows)
        residual.append(rank_modulo(seen, field.prime))
    return {"unit_input_ranks": tuple(inputs), "unit_residual_ranks": tuple(residual)}
