"""One call from what is known of a network to the ranks that theory gives its matrices."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from curvescope._core.checks import one_of
from curvescope._core.predictions import PredictedRank, Status
from curvescope.theory.rank_bias import (
    functional_rank_with_bias,
    ggn_rank_with_bias,
    hessian_rank_with_bias,
)
from curvescope.theory.rank_facts import RankFacts, check_facts, check_units
from curvescope.theory.rank_linear import (
    bottleneck,
    functional_rank,
    ggn_rank,
    hessian_rank,
)
from curvescope.theory.rank_nonlinear import (
    functional_ceiling,
    functional_rank_one_hidden,
    ggn_ceiling,
    ggn_ceiling_one_hidden,
    hessian_ceiling,
)
from curvescope.theory.rank_structure import (
    functional_column_ceiling,
    staircase_ggn_rank,
)

RankActivation = Literal["linear", "homogeneous", "smooth"]

SINGH = "Singh, Bachmann, Hofmann (2021), arXiv:2106.16225"
FITTED = "found by fitting, verified on fresh random networks in exact arithmetic"
KERNELS = "derived from kernels of the matrix"
GENERIC = "generic weights: almost all, so any continuous random initialisation"
COMMON = (
    "the per-sample loss Hessians are positive definite on one space, of dimension k, "
    "for samples that span the inputs"
)
ONE_SPACE = "all per-sample loss Hessians live on one space, of dimension k"
FLAT = (
    "a ceiling only: the loss is flat or not convex in some output directions, and the "
    "samples where it is neither do not span the inputs"
)
LARGEST = "ranks are largest at generic weights and definite curvatures"
UNBALANCED = "the gradients by the outputs do not sum to zero over the samples"
BALANCED = "the gradients by the outputs sum to zero over the samples"
ASSUMED = "the residual has full rank (not measured)"


def predicted_ranks(
    *,
    widths: Sequence[int],
    activation: RankActivation,
    bias: bool | Sequence[bool],
    num_samples: int,
    input_rank: int,
    output_rank: int,
    residual_rank: int | None = None,
    centred_input_rank: int | None = None,
    shift_invariant: bool = False,
    balanced: bool = False,
    definite_curvature: bool = True,
    full_rank_weights: bool = True,
    left_ranks: Sequence[int] | None = None,
    right_ranks: Sequence[int] | None = None,
    unit_input_ranks: Sequence[int] | None = None,
    unit_residual_ranks: Sequence[int] | None = None,
) -> dict[str, PredictedRank]:
    r"""Predict the ranks of H, GGN and functional Hessian of a feed-forward network.

    An equality is claimed where one is known: linear networks with biases in all layers
    or in none, and F of one hidden layer of homogeneous units. Everything else is a
    ceiling. Each prediction says its formula with the numbers in it, what it assumes,
    and whether it is published, derived, or fitted and verified.

    Args:
        widths: All widths, from the number of inputs ``d`` to that of outputs ``K``.
        activation: ``"linear"``, ``"homogeneous"`` (ReLU, leaky ReLU) or ``"smooth"``
            (any other elementwise one).
        bias: Whether the layers have biases; one flag, or one a layer.
        num_samples: ``n``.
        input_rank: ``r``, the rank of the inputs, not centred.
        output_rank: ``k``, of the space that the loss is curved on: ``K``, for
            cross-entropy ``K - 1``, 0 for a loss that is linear in the outputs.
        residual_rank: ``s``, the rank of :math:`\sum_i \delta_i x_i^\top`, and of
            :math:`\sum_i \delta_i [x_i; 1]^\top` **if any layer has a bias**. ``None``
            assumes that it is full.
        centred_input_rank: ``r_c``, the rank of ``[X 1]`` less one; needed if any layer
            has a bias.
        shift_invariant: Whether adding one number to all outputs of a sample changes
            nothing (cross-entropy).
        balanced: Whether the gradients by the outputs sum to zero over the samples, as at
            an exact minimum over the last layer's bias. Only biases make a difference.
        definite_curvature: Whether the loss is curved in all ``k`` directions for samples
            that span the inputs (saturated samples may be left out). If not, formulas
            for the GGN and H of linear networks are ceilings.
        full_rank_weights: Whether all weights, and their products, have the ranks that
            the widths allow. If not, the GGN's rank comes from ``left_ranks`` and
            ``right_ranks`` and the other two are ceilings.
        left_ranks: ``a_l``, linear networks only: see `staircase_ggn_rank`.
        right_ranks: ``b_l``, linear networks only: ranks of the layers' inputs over the
            samples, beside a column of ones if the layers have biases.
        unit_input_ranks: Homogeneous activation and one hidden layer only: see
            `ggn_ceiling_one_hidden`.
        unit_residual_ranks: Likewise: see `functional_rank_one_hidden`.

    Returns:
        Predictions by the matrix's name: ``"hessian"``, ``"ggn"``, ``"functional"``.

    Raises:
        TypeError: If a number is not an integer.
        ValueError: If the numbers cannot be those of one network, or one that is needed
            is missing.

    Example:
        >>> facts = dict(activation="linear", bias=False, num_samples=50)
        >>> ranks = dict(input_rank=25, output_rank=10, residual_rank=10)
        >>> predicted = predicted_ranks(widths=[25, 5, 10, 10], **facts, **ranks)
        >>> predicted["ggn"].value, predicted["ggn"].formula
        (150, 'q(r+k-q) with q=5, r=25, k=10')
        >>> str(predicted["hessian"])
        'rank = 250 (published)'

    References:
        Singh, Bachmann, Hofmann (2021), arXiv:2106.16225, for what is marked published.
    """
    one_of("activation", activation, ("linear", "homogeneous", "smooth"))
    facts = check_facts(
        widths=widths,
        bias=bias,
        num_samples=num_samples,
        ranks=(input_rank, output_rank, residual_rank, centred_input_rank),
        factors=(left_ranks, right_ranks),
        shift_invariant=shift_invariant,
        full_rank_weights=full_rank_weights,
        balanced=balanced,
        definite=definite_curvature,
    )
    linear = activation == "linear" or not facts.hidden
    homogeneous = activation == "homogeneous" and not linear
    units = check_units(facts, homogeneous, unit_input_ranks, unit_residual_ranks)
    if not linear:
        return _nonlinear(facts, homogeneous, *units)
    if all(facts.biases):
        return _linear(facts, bias=True)
    return _mixed(facts) if facts.any_bias else _linear(facts, bias=False)


def _linear(facts: RankFacts, *, bias: bool) -> dict[str, PredictedRank]:
    """Predict for a linear network with biases in all layers or in none."""
    if not facts.definite:
        return _linear_flat(facts, bias=bias)
    if not facts.factors_generic:
        return _linear_deficient(facts, bias=bias)
    ggn = _linear_ggn(facts, bias=bias)
    functional = _linear_functional(facts, bias=bias)
    # Without curvature H is F, without hidden layers it is G: nothing has to be shared.
    if facts.hidden and facts.output_rank and not facts.residual_held:
        return _named(_sum_ceiling(facts, ggn, functional), ggn, functional)
    return _named(_linear_hessian(facts, bias=bias), ggn, functional)


def _linear_flat(facts: RankFacts, *, bias: bool) -> dict[str, PredictedRank]:
    """Predict where the loss is not curved enough: F, which no curvature enters.

    For given weights and residuals ranks are lower semicontinuous in the curvatures, and
    definite ones are an open set of all on the space: the formulas bound the ranks.
    """
    known = _linear(replace(facts, definite=True), bias=bias)
    ggn, hessian = (
        replace(
            known[name],
            claim="at_most",
            assumptions=(FLAT,),
            source=f"{LARGEST}: {known[name].source}",
        )
        for name in ("ggn", "hessian")
    )
    parts = _sum_ceiling(facts, ggn, known["functional"])
    if facts.hidden and parts.value < hessian.value:
        hessian = replace(parts, assumptions=(FLAT,))
    return _named(hessian, ggn, known["functional"])


def _named(*predictions: PredictedRank) -> dict[str, PredictedRank]:
    return {prediction.matrix: prediction for prediction in predictions}


def _linear_ggn(facts: RankFacts, *, bias: bool) -> PredictedRank:
    r, k = (facts.centred_rank if bias else facts.input_rank), facts.output_rank
    q = bottleneck(facts.hidden, input_rank=r, output_rank=k)
    return PredictedRank(
        matrix="ggn",
        value=(
            ggn_rank_with_bias(facts.hidden, centred_input_rank=r, output_rank=k)
            if bias
            else ggn_rank(facts.hidden, input_rank=r, output_rank=k)
        ),
        claim="equal",
        status="derived" if bias else "published",
        formula=(
            f"k+q(r_c+k-q) with q={q}, r_c={r}, k={k}"
            if bias
            else f"q(r+k-q) with q={q}, r={r}, k={k}"
        ),
        assumptions=(GENERIC, COMMON),
        source="the staircase of layers' factors" if bias else SINGH,
    )


def _linear_functional(facts: RankFacts, *, bias: bool) -> PredictedRank:
    hidden, s = facts.hidden, facts.residual_rank
    total, layers = sum(hidden), len(hidden) + 1
    q = min((s, *hidden))
    if not hidden:
        value, formula = 0, "0, as the outputs are linear in the parameters"
    elif bias:
        balanced = facts.balanced
        value = functional_rank_with_bias(hidden, residual_rank=s, balanced=balanced)
        formula = f"sum of the layers' column ranks with s={s}, hidden={list(hidden)}"
        if facts.balanced:
            formula = f"that without biases, with s={s}, hidden={list(hidden)}"
        elif min(hidden) >= s:
            formula = f"2sM-(L-2)s(s-1) with s={s}, M={total}, L={layers}"
    else:
        value = functional_rank(hidden, residual_rank=s)
        formula = f"2qM+2qs-Lq^2 with q=min(s,m)={q}, M={total}, s={s}, L={layers}"
    return PredictedRank(
        matrix="functional",
        value=value,
        claim="equal",
        status=_status(facts, bias=bias),
        formula=formula,
        assumptions=_assumptions(facts, GENERIC, *_bias_needs(facts, bias=bias)),
        source=_source(facts, bias=bias),
    )


def _linear_hessian(facts: RankFacts, *, bias: bool) -> PredictedRank:
    hidden, s, k = facts.hidden, facts.residual_rank, facts.output_rank
    s = s if hidden else 0  # F vanishes, wherever the residual is
    r = facts.centred_rank if bias else facts.input_rank
    q = bottleneck(hidden, input_rank=r, output_rank=k)
    shared, total, layers = min(q, s), sum(hidden), len(hidden) + 1
    if bias:
        value = hessian_rank_with_bias(
            hidden,
            centred_input_rank=r,
            output_rank=k,
            residual_rank=s,
            balanced=facts.balanced,
        )
        both = "2s-t" if facts.balanced else "2s-1-t"
        formula = f"rank G+rank F-t({both}) with t=min(q,s)={shared}, s={s}, q={q}"
    else:
        value = hessian_rank(hidden, input_rank=r, output_rank=k, residual_rank=s)
        formula = f"q(r+k-q)+t(2M-(L-1)t) with q={q}, t=min(q,s)={shared}, "
        formula += f"r={r}, k={k}, M={total}, L={layers}"
    if not hidden:
        formula = "rank G, as there is no hidden layer"
    elif not k:
        formula = "rank F, as the loss is linear in the outputs"
    return PredictedRank(
        matrix="hessian",
        value=value,
        claim="equal",
        status=_status(facts, bias=bias),
        formula=formula,
        assumptions=_assumptions(
            facts, GENERIC, COMMON, *_bias_needs(facts, bias=bias)
        ),
        source=_source(facts, bias=bias),
    )


def _bias_needs(facts: RankFacts, *, bias: bool) -> tuple[str, ...]:
    if not bias:
        return ()
    return (BALANCED,) if facts.balanced else (UNBALANCED,)


def _status(facts: RankFacts, *, bias: bool) -> Status:
    if not facts.hidden:
        return "derived"
    return "published" if facts.full_residual and not bias else "fitted"


def _source(facts: RankFacts, *, bias: bool) -> str:
    sources = {"published": SINGH, "derived": "no hidden layer", "fitted": FITTED}
    return sources[_status(facts, bias=bias)]


def _assumptions(facts: RankFacts, *texts: str) -> tuple[str, ...]:
    return texts if facts.residual_measured else (*texts, ASSUMED)


def _linear_deficient(facts: RankFacts, *, bias: bool) -> dict[str, PredictedRank]:
    """Predict for weights that are not of full rank: the GGN, and two ceilings."""
    generic = _linear(facts.as_generic(), bias=bias)
    ggn, functional = (
        _ceiling(name, generic[name].value, generic[name].formula, of=generic[name])
        for name in ("ggn", "functional")
    )
    if facts.left_ranks is not None and facts.right_ranks is not None:
        left, right = facts.left_ranks, facts.right_ranks
        ggn = PredictedRank(
            matrix="ggn",
            value=staircase_ggn_rank(left, right),
            claim="equal",
            status="derived",
            formula=f"sum (a_l-a_(l-1))b_l with a={list(left)}, b={list(right)}",
            assumptions=(COMMON,),
            source="the staircase of layers' factors, for any weights",
        )
        if facts.residual_held and not bias:
            functional = _column_ceiling(facts, left, right)
    hessian = _sum_ceiling(facts, ggn, functional)
    if generic["hessian"].value < hessian.value:
        known = generic["hessian"]
        hessian = _ceiling("hessian", known.value, known.formula, of=known)
    return _named(hessian, ggn, functional)


def _column_ceiling(
    facts: RankFacts, left: Sequence[int], right: Sequence[int]
) -> PredictedRank:
    value = functional_column_ceiling(
        facts.hidden,
        residual_rank=facts.residual_rank,
        left_ranks=left,
        right_ranks=right,
    )
    formula = f"sum of the layers' column ranks with s={facts.residual_rank}, "
    formula += f"a={list(left)}, b={list(right)}"
    return _ceiling("functional", value, formula)


def _mixed(facts: RankFacts) -> dict[str, PredictedRank]:
    """Predict for a linear network with biases in some layers: ceilings.

    Its matrices are principal parts of those of the network with all biases, whose
    missing ones are zero; ranks are largest at generic weights.
    """
    full = _linear(facts.as_generic(), bias=True)
    sizes = {
        "ggn": (facts.output_rank, facts.biases),
        "functional": (facts.seen, (*facts.biases[:-1], False)),
        "hessian": (facts.seen, facts.biases),
    }
    ceilings = {}
    for matrix, (seen, biases) in sizes.items():
        text = f"at most with biases in all layers: {full[matrix].formula}"
        size = hessian_ceiling(
            facts.widths, fan_in=facts.fan_in, biases=biases, seen=seen
        )
        ceilings[matrix] = _ceiling(matrix, full[matrix].value, text, of=full[matrix])
        if size < full[matrix].value:
            text = "number of parameters that data and loss can tell apart"
            ceilings[matrix] = _ceiling(matrix, size, text)
    parts = _sum_ceiling(facts, ceilings["ggn"], ceilings["functional"])
    if parts.value < ceilings["hessian"].value:
        ceilings["hessian"] = parts
    return ceilings


def _ceiling(
    matrix: str,
    value: int,
    formula: str,
    *,
    assumptions: tuple[str, ...] = (ONE_SPACE,),
    of: PredictedRank | None = None,
) -> PredictedRank:
    """Return a ceiling; one that is an equality elsewhere is proved as far as that is."""
    return PredictedRank(
        matrix=matrix,
        value=value,
        claim="at_most",
        status="derived" if of is None else of.status,
        formula=formula,
        assumptions=assumptions,
        source=KERNELS if of is None else f"{LARGEST}: {of.source}",
    )


def _sum_ceiling(
    facts: RankFacts, ggn: PredictedRank, functional: PredictedRank
) -> PredictedRank:
    """Return the ceiling that always holds: the parts' sum, the parameters that count."""
    size = hessian_ceiling(
        facts.widths, fan_in=facts.fan_in, biases=facts.biases, seen=facts.seen
    )
    parts = ggn.value + functional.value
    formula = f"min(P_r, rank G+rank F) with P_r={size}, G {ggn.value}, "
    return _ceiling("hessian", min(size, parts), f"{formula}F {functional.value}")


def _nonlinear(
    facts: RankFacts,
    homogeneous: bool,  # noqa: FBT001
    input_ranks: Sequence[int] | None,
    residual_ranks: Sequence[int] | None,
) -> dict[str, PredictedRank]:
    """Predict for a non-linear network: ceilings, and F of one hidden ReLU layer."""
    ggn = _nonlinear_ggn(facts, homogeneous, input_ranks)
    functional = _nonlinear_functional(facts, homogeneous, residual_ranks)
    return _named(_sum_ceiling(facts, ggn, functional), ggn, functional)


def _nonlinear_ggn(
    facts: RankFacts,
    homogeneous: bool,  # noqa: FBT001
    input_ranks: Sequence[int] | None,
) -> PredictedRank:
    n, k, hidden = facts.num_samples, facts.output_rank, facts.hidden
    value = ggn_ceiling(
        facts.widths,
        fan_in=facts.fan_in,
        biases=facts.biases,
        num_samples=n,
        output_rank=k,
        homogeneous=homogeneous,
    )
    scalings = f"-{sum(hidden)} scalings of hidden units" if homogeneous else ""
    formula = f"min(nk, P_r{scalings}) with n={n}, k={k}"
    if homogeneous and len(hidden) == 1:
        ranks = input_ranks or (facts.fan_in,) * hidden[0]
        last = facts.biases[-1]
        sharper = ggn_ceiling_one_hidden(ranks, output_rank=k, output_bias=last)
        if sharper <= value:
            value = sharper
            plus = "+k" if last else ""
            formula = f"sum_j (r_j+k-1){plus} with k={k}, r_j={_few(ranks)}"
    return _ceiling("ggn", value, formula)


def _nonlinear_functional(
    facts: RankFacts,
    homogeneous: bool,  # noqa: FBT001
    residual_ranks: Sequence[int] | None,
) -> PredictedRank:
    if residual_ranks is not None:
        return PredictedRank(
            matrix="functional",
            value=functional_rank_one_hidden(residual_ranks),
            claim="equal",
            status="derived",
            formula=f"2 sum_j rank Omega_j with ranks {_few(residual_ranks)}",
            source="one block of two rows and columns of blocks for each hidden unit",
        )
    value = functional_ceiling(
        facts.widths,
        fan_in=facts.fan_in,
        biases=facts.biases,
        seen=facts.seen,
        homogeneous=homogeneous,
    )
    if len(facts.hidden) == 1:
        scale = "2m min(r,k)" if homogeneous else "m(r+min(r,k))"
        formula = f"{scale} with m={facts.hidden[0]}, r={facts.fan_in}, k={facts.seen}"
    elif homogeneous:
        formula = "sum_l min(p_l, sum of the other p_j), p_l without the last bias"
    else:
        formula = "sum_l p_l without the last bias, p_L at most the sum of the others"
    return _ceiling("functional", value, formula, assumptions=())


def _few(ranks: Sequence[int]) -> str:
    """Return ranks as text: one number where all are equal, the first few of many."""
    if len(set(ranks)) == 1:
        return f"{ranks[0]} (each of {len(ranks)})"
    shown = ", ".join(str(rank) for rank in ranks[:8])
    return f"[{shown}{', ...' if len(ranks) > 8 else ''}]"
