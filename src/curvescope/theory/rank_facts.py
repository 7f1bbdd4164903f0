"""What is known of a network when its ranks are predicted, checked for contradictions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from curvescope._core.checks import describe, message, positive_int
from curvescope.theory.rank_structure import (
    generic_left_ranks,
    generic_right_ranks,
    rank_argument,
)


@dataclass(frozen=True, kw_only=True)
class RankFacts:
    """What is known of a network, checked."""

    widths: tuple[int, ...]
    biases: tuple[bool, ...]
    num_samples: int
    input_rank: int
    centred_rank: int
    output_rank: int
    residual_rank: int
    residual_measured: bool
    balanced: bool
    definite: bool
    full_rank_weights: bool
    left_ranks: tuple[int, ...] | None
    right_ranks: tuple[int, ...] | None
    seen: int

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return self.widths[1:-1]

    @property
    def any_bias(self) -> bool:
        """Whether some layer has a bias."""
        return any(self.biases)

    @property
    def fan_in(self) -> int:
        """The rank that the first layer sees."""
        return self.centred_rank + 1 if self.biases[0] else self.input_rank

    @property
    def directions(self) -> int:
        """The most that the residual's rank can be on the side of the inputs."""
        free = self.centred_rank + (not self.balanced)
        return free if self.any_bias else self.input_rank

    @property
    def full_residual(self) -> bool:
        """Whether the residual's rank is what the published formulas assume."""
        return self.residual_rank == min(self.directions, self.output_rank)

    @property
    def residual_held(self) -> bool:
        """Whether the loss is curved on all that it sees: no residual lies outside."""
        return self.output_rank == self.seen

    @property
    def factors_generic(self) -> bool:
        """Whether weights and products have the ranks that the widths allow."""
        if not self.full_rank_weights:
            return False
        if self.left_ranks is None or self.right_ranks is None:
            return True
        return (self.left_ranks, self.right_ranks) == self.generic_factors

    @property
    def generic_factors(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ranks of the layers' left and right factors at generic weights."""
        inputs = self.centred_rank if self.any_bias else self.input_rank
        right = generic_right_ranks(self.hidden, input_rank=inputs)
        return (
            generic_left_ranks(self.hidden, output_rank=self.output_rank),
            tuple(rank + self.any_bias for rank in right),
        )

    def as_generic(self) -> "RankFacts":
        """Return the facts of a network of the same widths and generic weights."""
        return replace(self, full_rank_weights=True, left_ranks=None, right_ranks=None)


def check_facts(
    *,
    widths: Sequence[int],
    bias: bool | Sequence[bool],
    num_samples: int,
    ranks: tuple[int, int, int | None, int | None],
    factors: tuple[Sequence[int] | None, Sequence[int] | None],
    shift_invariant: bool,
    full_rank_weights: bool,
    balanced: bool,
    definite: bool,
) -> RankFacts:
    """Return the facts; raise where they contradict each other."""
    sizes = tuple(positive_int("widths", width) for width in widths)
    if len(sizes) < 2:
        raise ValueError(message("widths", "have at least two entries", sizes))
    layers = len(sizes) - 1
    biases = (bool(bias),) * layers if isinstance(bias, bool) else tuple(bias)
    if len(biases) != layers:
        got = f"{len(biases)} for {layers} layers"
        raise ValueError(message("bias", "be one flag or one a layer", got))
    n = positive_int("num_samples", num_samples)
    r = _at_most("input_rank", ranks[0], min(n, sizes[0]))
    seen = sizes[-1] - bool(shift_invariant)
    k = _at_most("output_rank", ranks[1], seen)
    centred = _check_centred(ranks[3], r, needed=any(biases))
    directions = centred + (not balanced) if any(biases) else r
    s = min(directions, k or seen)
    if ranks[2] is not None:
        s = _at_most("residual_rank", ranks[2], min(directions, seen))
    if (factors[0] is None) != (factors[1] is None):
        got = "only one of them"
        raise ValueError(message("left_ranks", "come with `right_ranks`", got))
    left, right = (None if f is None else tuple(f) for f in factors)
    if left is not None and len(left) != layers:
        got = f"{len(left)} for {layers} layers"
        raise ValueError(message("left_ranks", "have one entry a layer", got))
    return RankFacts(
        widths=sizes,
        biases=tuple(bool(flag) for flag in biases),
        num_samples=n,
        input_rank=r,
        centred_rank=centred,
        output_rank=k,
        residual_rank=s,
        residual_measured=ranks[2] is not None,
        balanced=bool(balanced),
        definite=bool(definite),
        full_rank_weights=full_rank_weights,
        left_ranks=left,
        right_ranks=right,
        seen=seen,
    )


def _at_most(argument: str, value: int, most: int) -> int:
    rank = rank_argument(argument, value)
    if rank > most:
        raise ValueError(message(argument, f"be at most {most}", rank))
    return rank


def _check_centred(value: int | None, input_rank: int, *, needed: bool) -> int:
    """Return r_c; [X 1] has the rank of X or one more."""
    if value is None:
        if needed:
            remedy = "It is the rank of the inputs beside a column of ones, less one."
            text = message("centred_input_rank", "be given for biases", None, remedy)
            raise ValueError(text)
        return input_rank
    rank = rank_argument("centred_input_rank", value)
    if rank not in (input_rank - 1, input_rank):
        contract = f"be {input_rank} or one less, by `input_rank`"
        raise ValueError(message("centred_input_rank", contract, rank))
    return rank


def check_units(
    facts: RankFacts,
    homogeneous: bool,  # noqa: FBT001
    input_ranks: Sequence[int] | None,
    residual_ranks: Sequence[int] | None,
) -> tuple[Sequence[int] | None, Sequence[int] | None]:
    """Return the units' ranks, which only one hidden homogeneous layer can have."""
    for argument, ranks in (
        ("unit_input_ranks", input_ranks),
        ("unit_residual_ranks", residual_ranks),
    ):
        if ranks is None:
            continue
        if not homogeneous or len(facts.hidden) != 1:
            contract = "be None but for one hidden layer of homogeneous units"
            raise ValueError(message(argument, contract, describe(ranks)))
        if len(ranks) != facts.hidden[0]:
            contract = f"have one entry for each of {facts.hidden[0]} units"
            raise ValueError(message(argument, contract, f"{len(ranks)}"))
    return input_ranks, residual_ranks
