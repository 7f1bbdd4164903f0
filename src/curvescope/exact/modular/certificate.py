"""The certificate: ranks of a problem's matrices as they are stored, without rounding."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from curvescope._core import checks
from curvescope.exact.modular.elimination import rank_modulo
from curvescope.exact.modular.field import PRIMES, Array, Indices, PrimeField
from curvescope.exact.modular.layered import layered_matrices
from curvescope.exact.modular.linear import linear_matrices, linear_size
from curvescope.exact.modular.residues import ResidueNet, residues_of
from curvescope.exact.network import FeedForward
from curvescope.losses import BCEWithLogits, CrossEntropy, LogCosh, SquaredError

Part = Literal["hessian", "ggn", "functional"]
PARTS: tuple[Part, ...] = ("hessian", "ggn", "functional")
_LOSSES = (SquaredError, CrossEntropy, LogCosh, BCEWithLogits)


@final
@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Ranks found by exact arithmetic modulo primes.

    Attributes:
        ranks: Of every part, the largest over the primes.
        primes: The primes.
        agreed: Whether all primes gave the same ranks.
        ranks_by_prime: Of every part, one rank for each prime.
        size: Rows of the largest matrix that was eliminated.
        seconds: Wall time.
    """

    ranks: Mapping[str, int]
    primes: tuple[int, ...]
    agreed: bool
    ranks_by_prime: Mapping[str, tuple[int, ...]]
    size: int
    seconds: float


def certified_ranks(
    net: FeedForward,
    *,
    parts: Collection[Part] = PARTS,
    primes: Sequence[int] = PRIMES[:2],
    compress: bool = True,
) -> Certificate | None:
    r"""Return exact ranks of H, GGN and functional Hessian at the stored floats.

    Floats are integers times powers of two, so the matrices, polynomials in weights,
    data and the values below, are evaluated modulo a prime without any rounding, and
    eliminated there. Rounded once to float64, and exact from there on, are: whether a
    pre-activation of a ReLU is positive; the value of a tanh or sigmoid (its derivatives
    are polynomials in it); value and derivatives of other smooth activations; softmax
    probabilities, of which the largest is what the others leave (so that they add up to
    one); ``tanh(f - y)`` of a log-cosh and the sigmoid of a binary cross-entropy, or
    what they lack of one where that is smaller, so that no curvature cancels to zero.

    What it means: a minor that is not zero modulo a prime is not zero, so every rank is
    a proved LOWER bound of the exact rank of that real matrix. It is equal unless the
    prime divides all the largest minors: for numbers that have nothing to do with it a
    chance of about 1 / p. The ranks are the largest over the primes, and `agreed` says
    whether they agree.

    What it does not mean: it sees floating-point structure. A weight computed as a
    product ``A B`` of low rank is rounded entry by entry, and its exact rank is full; so
    is that of centred or projected data. It complements the numerical rank, and does not
    replace it.

    Args:
        net: Net and data; all of the loss sum's positive factors are dropped. Of a
            `standardised` net: what is certified is the nearby net whose first weight
            and inputs are as they were rounded there.
        parts: Which matrices.
        primes: Odd primes below ``2^22``.
        compress: Whether a linear net's matrices are first reduced, by congruences
            modulo the prime, to the coordinates where they are not zero.

    Returns:
        The certificate; ``None`` where `uncertifiable` gives a reason.

    Raises:
        ValueError: If ``parts`` or ``primes`` are empty or unknown.

    Cost:
        For each prime and part ``O(S^2 r)`` flops and ``3 S^2`` floats, with S from
        `elimination_size`.
    """
    for part in parts:
        checks.one_of("parts", part, PARTS)
    if not parts or not primes:
        argument = "primes" if parts else "parts"
        raise ValueError(checks.message(argument, "name at least one", "none"))
    if uncertifiable(net) is not None:
        return None
    start = time.perf_counter()
    samples = list(net.samples(most=max(1, net.problem.num_samples)))
    found: dict[Part, list[int]] = {part: [] for part in parts}
    size = 0
    for prime in primes:
        residues = residues_of(net, samples, PrimeField(prime))
        ggn, functional = _matrices(net, residues, compress=compress)
        size = max(size, len(ggn))
        for part, ranks in found.items():
            ranks.append(rank_modulo(_part(part, ggn, functional), prime))
    return Certificate(
        ranks={part: max(ranks) for part, ranks in found.items()},
        primes=tuple(primes),
        agreed=all(len(set(ranks)) == 1 for ranks in found.values()),
        ranks_by_prime={part: tuple(ranks) for part, ranks in found.items()},
        size=size,
        seconds=time.perf_counter() - start,
    )


def uncertifiable(net: FeedForward) -> str | None:
    """Return why a net has no certificate; ``None`` if it can have one."""
    loss = net.problem.loss
    if type(loss) not in _LOSSES:
        return f"the derivatives of the loss {loss.name!r} are not known as polynomials"
    if isinstance(loss, CrossEntropy) and (
        loss.shift or loss.class_dim not in {None, 1, -1}
    ):
        return "the cross-entropy is not one of a label for every row of outputs"
    return None


def elimination_size(net: FeedForward, *, compress: bool = True) -> int:
    """Return an upper bound of the rows of the matrices that a certificate eliminates."""
    if not (compress and net.is_linear and _whole_layers(net) is not None):
        return net.num_params
    if net.problem.weight_decay:
        return net.num_params
    outputs = net.widths[-1] - (type(net.problem.loss) is CrossEntropy)
    bias = any(layer.bias is not None for layer in net.layers)
    samples = net.problem.num_samples
    bound = linear_size(net.widths, samples, outputs=outputs, bias=bias)
    return min(bound, net.num_params)


def _part(part: Part, ggn: Array, functional: Array) -> Array:
    match part:
        case "ggn":
            return ggn
        case "functional":
            return functional
        case "hessian":
            return ggn + functional


def _matrices(
    net: FeedForward, residues: ResidueNet, *, compress: bool
) -> tuple[Array, Array]:
    """Return GGN and functional Hessian of the selected parameters, or congruent ones."""
    decay = net.problem.weight_decay
    layers = _whole_layers(net)
    if residues.is_linear and compress and layers is not None and not decay:
        return linear_matrices(residues, layers=layers, compress=True)
    if residues.is_linear:
        every = range(len(net.layers))
        ggn, functional = linear_matrices(residues, layers=every, compress=False)
    else:
        ggn, functional = layered_matrices(residues)
    if decay:
        # The matrices are those of the loss sum: its denominator times the objective's.
        field = residues.field
        sum_per_mean = (
            1.0 if net.problem.reduction == "sum" else net.problem.denominator
        )
        both = field.product(
            *(field.dyadic(np.array([x])) for x in (decay, sum_per_mean))
        )
        ggn[np.diag_indices_from(ggn)] += both
        field.reduce_(ggn)
    chosen = _selected(net)
    if len(chosen) < len(ggn):
        ggn, functional = (m[np.ix_(chosen, chosen)] for m in (ggn, functional))
    return ggn, functional


def _selected(net: FeedForward) -> Indices:
    """Return the selected rows of matrices whose rows are ``[W | b]``, layer by layer."""
    places: dict[str, Indices] = {}
    start = 0
    for layer in net.layers:
        outputs, inputs = layer.weight.shape
        width = inputs + (layer.bias is not None)
        own = start + np.arange(outputs * width).reshape(outputs, width)
        places[layer.weight_name] = own[:, :inputs].reshape(-1)
        if layer.bias_name is not None:
            places[layer.bias_name] = own[:, inputs]
        start += own.size
    layout = net.problem.layout
    rows = [places[name] for name in layout.names]
    chosen = np.concatenate([np.zeros(0, dtype=np.intp), *rows])
    if layout.entries is not None:
        chosen = chosen[layout.entries.cpu().numpy()]
    return np.sort(chosen)


def _whole_layers(net: FeedForward) -> list[int] | None:
    """Return the selected layers if each is selected as a whole or not at all."""
    chosen = _selected(net)
    sizes = [layer.num_params for layer in net.layers]
    bounds = np.cumsum([0, *sizes])
    counts = np.diff(np.searchsorted(chosen, bounds))
    if any(count not in (0, size) for count, size in zip(counts, sizes, strict=True)):
        return None
    layers = [index for index, count in enumerate(counts) if count]
    return layers or None
