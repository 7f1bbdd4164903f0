"""Second opinions on a rank: other coordinates, and exact arithmetic."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, final

from curvescope.analysis.rank_facts import Theory, differences, exact_theory_of
from curvescope.analysis.rank_values import standardised_values
from curvescope.exact.linear_inputs import input_geometry, standardised
from curvescope.exact.modular import certified_ranks, elimination_size, uncertifiable
from curvescope.exact.network import FeedForward
from curvescope.results import RankEstimate

Ranks = dict[str, RankEstimate]

# Largest matrix that is eliminated unasked: it takes about as long as its spectrum.
_LARGEST = 3_000
# Inputs worse conditioned than this hide directions of H below rounding.
_WORST_CONDITION = 1e5
_CONGRUENCE = "decided in coordinates in which the inputs are orthonormal, a congruence"


def decided_again(ranks: Mapping[str, RankEstimate], net: FeedForward) -> Ranks:
    """Decide again where a rank is undetermined or the inputs are badly conditioned.

    In coordinates in which the inputs are orthonormal the first layer's columns are
    recombined: a congruence of every matrix, which keeps ranks and signs (Sylvester),
    and undoes bad scaling and large means. Rounding hides directions and a clear value
    is none of its making: of two clear ranks the larger one stands.
    """
    clear = all(rank.certain for rank in ranks.values())
    if clear and _condition(net) <= _WORST_CONDITION:
        return dict(ranks)
    again = _in_standardised_inputs(net)
    return {
        name: again[name]
        if again[name].certain and (not rank.certain or again[name].rank > rank.rank)
        else rank
        for name, rank in ranks.items()
    }


@final
@dataclass(frozen=True, kw_only=True)
class Certified:
    """Ranks with what exact arithmetic says of them.

    Attributes:
        ranks: By matrix; where exact arithmetic disagrees unexplained, not certain.
        notes: Remarks for the reader.
        theory: Facts at the stored numbers and what theory says at them; empty where
            there is no certificate, or not all parameters are selected.
    """

    ranks: Ranks
    notes: tuple[str, ...] = ()
    theory: Theory = field(default_factory=Theory)


def certified(
    ranks: Mapping[str, RankEstimate],
    net: FeedForward,
    *,
    certify: Literal["auto"] | bool,
    measured: Theory | None,
) -> Certified:
    """Set the exact ranks beside the numerical ones; where they differ, doubt these.

    A rank that differs stays certain if what was measured is the rank of a problem that
    differs from the stored one by rounding: it has a clear gap, and either the
    certificate of the same net in coordinates of the inputs' numerical rank says the
    same, or theory, at the facts in float64, does, and at the exact facts gives the
    exact rank.

    Args:
        ranks: The numerical ranks.
        net: What they are of.
        certify: As for `rank_report`.
        measured: Facts and predictions in float64; ``None`` if not all parameters are
            selected, so that neither coordinates can change nor formulas hold.

    Returns:
        The ranks, remarks, and theory at the exact facts.
    """
    if certify is False:
        return Certified(ranks=dict(ranks))
    reason = uncertifiable(net)
    if reason is None and certify == "auto" and elimination_size(net) > _LARGEST:
        reason = f"more than {_LARGEST} rows to eliminate; ask with certify=True"
    certificate = None if reason is not None else certified_ranks(net)
    if certificate is None:
        return Certified(ranks=dict(ranks), notes=(f"not certified: {reason}",))
    exact = certificate.ranks
    theory, notes = Theory(), []
    if measured is not None:
        theory = exact_theory_of(net, measured.facts)
        notes += _failures(exact, theory)
    doubtful = [name for name, rank in ranks.items() if exact[name] != rank.rank]
    result: Ranks = {}
    if doubtful and measured is not None:
        result, more = _explained(ranks, doubtful, exact, net, (measured, theory))
        notes += more
    for name, rank in ranks.items():
        sure = rank.rank == exact[name]
        chosen = result.get(name, replace(rank, certain=sure))
        result[name] = replace(chosen, certified=exact[name], primes=certificate.primes)
    return Certified(
        ranks={name: result[name] for name in ranks}, notes=tuple(notes), theory=theory
    )


def _failures(exact: Mapping[str, int], theory: Theory) -> list[str]:
    """Say where exact arithmetic contradicts a formula."""
    return [
        f"{name}: exact arithmetic proves {exact[name]}, the formula at the exact facts "
        f"says {prediction}: an assumption does not hold"
        for name, prediction in theory.predicted.items()
        if not prediction.agrees(exact[name])
    ]


def _explained(
    ranks: Mapping[str, RankEstimate],
    doubtful: list[str],
    exact: Mapping[str, int],
    net: FeedForward,
    theories: tuple[Theory, Theory],
) -> tuple[Ranks, list[str]]:
    """Look for what makes measured and exact ranks differ.

    Inputs of rank r whose entries were rounded have full exact rank. In coordinates
    with r inputs the problem is the same up to that rounding, and its certificate
    counts what was meant.
    """
    again = _in_standardised_inputs(net)
    reduced = certified_ranks(standardised(net))
    assert reduced is not None
    facts = differences(theories[0].facts, theories[1].facts)
    result: Ranks = {}
    notes = []
    for name in doubtful:
        rank = ranks[name]
        if again[name].certain and again[name].rank == exact[name]:
            result[name] = again[name]
        elif rank.certain and reduced.ranks[name] == rank.rank:
            result[name] = rank
            notes.append(
                f"{name}: exactly as stored the rank is {exact[name]}, since the inputs "
                "have their rank up to rounding only; with inputs of that very rank it "
                f"is {rank.rank}, as measured"
            )
        elif rank.certain and _both_equal(name, rank.rank, exact[name], theories):
            result[name] = rank
            notes.append(
                f"{name}: exactly as stored the rank is {exact[name]}, since some facts "
                f"hold up to rounding only; where they hold it is {rank.rank}, as "
                "measured and as theory says"
            )
        else:
            notes.append(
                f"{name}: float64 tells {rank.rank} apart from rounding, exact "
                f"arithmetic proves {exact[name]}"
            )
    if facts:
        notes.append(f"facts that differ: {'; '.join(facts)}")
    return result, notes


def _both_equal(
    name: str, measured: int, exact: int, theories: tuple[Theory, Theory]
) -> bool:
    """Tell whether theory claims both ranks, each at its facts, which were clear."""
    here, there = (theory.predicted.get(name) for theory in theories)
    return (
        here is not None
        and there is not None
        and here.claim == there.claim == "equal"
        and (here.value, there.value) == (measured, exact)
        and all(theories[0].facts["certain"].values())
    )


def _in_standardised_inputs(net: FeedForward) -> Ranks:
    estimates = standardised_values(net).estimates()
    return {
        name: replace(rank, notes=(*rank.notes, _CONGRUENCE))
        for name, rank in estimates.items()
    }


def _condition(net: FeedForward) -> float:
    """Return a bound of the ratio of the inputs' extreme singular values, zeros apart."""
    geometry = input_geometry(net, centred=False)
    lengths = geometry.scale[geometry.scale > 0]
    kept = geometry.values[: geometry.rank]
    if not len(kept) or not len(lengths):
        return 1.0
    return float(lengths.max() / lengths.min() * kept[0] / kept[-1])
