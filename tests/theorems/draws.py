"""Random networks, data and losses, and what theory and the oracle say of them."""

import numpy as np
from tests.theorems import oracle

from curvescope.theory import predicted_ranks

LOSSES = ("mse", "logcosh", "cross_entropy", "linear")


def architecture(rng, most_layers=5, least_layers=1):
    return [
        int(m)
        for m in rng.integers(
            1, 7, rng.integers(least_layers, most_layers, endpoint=True) + 1
        )
    ]


def biases(rng, layers, kind):
    """`kind`: "none", "all", "either" of the two, or "some"."""
    if kind == "some":
        return [bool(flag) for flag in rng.integers(0, 2, layers)]
    return bool(rng.integers(2)) if kind == "either" else kind == "all"


def inputs(rng, num_inputs, *, integers=False):
    """Few samples or many, of any rank, sometimes beside or upon a constant."""
    n = int(rng.integers(1, 13 if rng.integers(2) else 40))
    of_rank = int(rng.integers(1, num_inputs + 1))
    if integers:
        left = rng.integers(-9, 10, (n, of_rank))
        return left @ rng.integers(-9, 10, (of_rank, num_inputs))
    x = oracle.low_rank(rng, n, num_inputs, of_rank)
    if rng.integers(3) == 0:
        x[:, 0] = 1
        x = oracle.matmul(x, rng.integers(0, oracle.P, (num_inputs, num_inputs)))
    return x


def residual(rng, net, x, loss):
    """Gradients and curvature: free ones, those of few classes, or of a low rank."""
    num_outputs = net.widths[-1]
    most = None
    if rng.integers(2):
        most = int(rng.integers(0, min(len(x), num_outputs) + 1))
    classes = int(rng.integers(1, num_outputs + 1))
    parts = oracle.loss_parts(loss, rng, net, x, residual=most, classes=classes)
    if rng.integers(4) == 0:
        parts[0][0] = -parts[0][1:].sum(0) % oracle.P
    return parts


def linear_case(rng, kind, *, deficient=False):
    """A linear network: the true ranks, and the predicted ones."""
    widths = architecture(rng)
    layers = len(widths) - 1
    limits = [int(q) for q in rng.integers(1, 7, layers)] if deficient else None
    x = inputs(rng, widths[0])
    net = oracle.linear_net(
        rng, widths, bias=biases(rng, layers, kind), weight_ranks=limits
    )
    loss = LOSSES[rng.integers(4)]
    delta, curvature = residual(rng, net, x, loss)
    known = {}
    if deficient:
        left, right = oracle.factor_ranks(net, x, loss)
        known = {"left_ranks": left, "right_ranks": right, "full_rank_weights": False}
    facts = oracle.facts(net, x, delta, loss)
    predicted = predicted_ranks(activation="linear", **facts, **known)
    return oracle.ranks(net, x, delta, curvature), predicted, (loss, facts)


def homogeneous_case(rng, kind, *, layers=None):
    """A ReLU or leaky ReLU network: the true ranks, and the predicted ones."""
    widths = architecture(rng, layers or 4, layers or 2)
    x = inputs(rng, widths[0], integers=True)
    flags = biases(rng, len(widths) - 1, kind)
    net = oracle.relu_net(rng, widths, x, bias=flags, negative=3 * rng.integers(2))
    loss = LOSSES[rng.integers(4)]
    delta, curvature = residual(rng, net, x, loss)
    facts = oracle.facts(net, x, delta, loss)
    units = oracle.unit_ranks(net, x, delta) if len(widths) == 3 else {}
    predicted = predicted_ranks(activation="homogeneous", **facts, **units)
    return oracle.ranks(net, x, delta, curvature), predicted, (loss, facts)


def disagreements(case, num_cases, seed, **options):
    """Run many cases; return those that break a claim, and how many claims were equal."""
    rng = np.random.default_rng(seed)
    wrong, equal = [], 0
    for _ in range(num_cases):
        truth, predicted, what = case(rng, **options)
        equal += sum(p.claim == "equal" for p in predicted.values())
        wrong += [
            (what, name, truth[name], str(p))
            for name, p in predicted.items()
            if not p.agrees(truth[name])
        ]
    return wrong, equal
