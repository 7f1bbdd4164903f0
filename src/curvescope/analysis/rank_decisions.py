"""Second opinions on a rank: other coordinates, and exact arithmetic."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

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


def certified(
    ranks: Mapping[str, RankEstimate],
    net: FeedForward,
    *,
    certify: Literal["auto"] | bool,
    whole: bool,
) -> tuple[Ranks, tuple[str, ...]]:
    """Set the exact ranks beside the numerical ones; where they differ, doubt these.

    Args:
        ranks: The numerical ranks.
        net: What they are of.
        certify: As for `rank_report`.
        whole: Whether all parameters are selected, so that coordinates can change.

    Returns:
        The ranks, and remarks for the reader.
    """
    if certify is False:
        return dict(ranks), ()
    reason = uncertifiable(net)
    if reason is None and certify == "auto" and elimination_size(net) > _LARGEST:
        reason = f"more than {_LARGEST} rows to eliminate; ask with certify=True"
    certificate = None if reason is not None else certified_ranks(net)
    if certificate is None:
        return dict(ranks), (f"not certified: {reason}",)
    exact = certificate.ranks
    doubtful = [name for name, rank in ranks.items() if exact[name] != rank.rank]
    result: Ranks = {}
    notes: tuple[str, ...] = ()
    if doubtful and whole:
        result, notes = _explained(ranks, doubtful, exact, net)
    for name, rank in ranks.items():
        sure = rank.rank == exact[name]
        chosen = result.get(name, replace(rank, certain=sure))
        result[name] = replace(chosen, certified=exact[name], primes=certificate.primes)
    return {name: result[name] for name in ranks}, notes


def _explained(
    ranks: Mapping[str, RankEstimate],
    doubtful: list[str],
    exact: Mapping[str, int],
    net: FeedForward,
) -> tuple[Ranks, tuple[str, ...]]:
    """Look for what makes measured and exact ranks differ.

    Inputs of rank r whose entries were rounded have full exact rank. In coordinates
    with r inputs the problem is the same up to that rounding, and its certificate
    counts what was meant.
    """
    again = _in_standardised_inputs(net)
    reduced = certified_ranks(standardised(net))
    assert reduced is not None
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
        else:
            notes.append(
                f"{name}: float64 tells {rank.rank} apart from rounding, exact "
                f"arithmetic proves {exact[name]}"
            )
    return result, tuple(notes)


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
