"""Exact ranks of random linear and ReLU networks, modulo a prime, from the definition.

Nothing of what is tested is used: no product formula, only forward and backward passes
in integers modulo 2^31 - 1. With its activation pattern fixed such a network is affine in
every single parameter, so that a difference over a step of one IS the derivative.
"""

import itertools
from dataclasses import dataclass

import numpy as np

P = 2**31 - 1


def matmul(a, b):
    """Product modulo P; every product is reduced before the sum (they fill 62 bits)."""
    return (a[..., :, :, None] * b[..., None, :, :] % P).sum(-2) % P


def rank(matrix):
    """Rank over the field of P elements, by elimination."""
    m, found = np.array(matrix) % P, 0
    for column in range(m.shape[1]):
        rows = np.flatnonzero(m[found:, column])
        if not len(rows):
            continue
        pivot = found + rows[0]
        m[[found, pivot]] = m[[pivot, found]]
        m[found] = m[found] * pow(int(m[found, column]), P - 2, P) % P
        below = found + 1 + np.flatnonzero(m[found + 1 :, column])
        m[below] = (m[below] - m[below, column][:, None] * m[found] % P) % P
        found += 1
        if found == len(m):
            break
    return found


def low_rank(rng, rows, columns, of_rank=None):
    """A random matrix, of a rank at most `of_rank` where that is given."""
    if of_rank is None or of_rank >= min(rows, columns):
        return rng.integers(0, P, (rows, columns))
    return matmul(
        rng.integers(0, P, (rows, of_rank)), rng.integers(0, P, (of_rank, columns))
    )


@dataclass
class Net:
    """Weights, biases (arrays or None by layer), slopes of the hidden units or None."""

    weights: list
    biases: list
    slopes: list | None = None

    @property
    def widths(self):
        return [self.weights[0].shape[1], *(len(w) for w in self.weights)]

    def sizes(self):
        """Numbers of parameters by layer, the bias beside its weight."""
        pairs = zip(self.weights, self.biases, strict=True)
        return [w.size + (0 if b is None else b.size) for w, b in pairs]

    def theta(self):
        parts = []
        for w, b in zip(self.weights, self.biases, strict=True):
            parts += [w.ravel()] if b is None else [w.ravel(), b]
        return np.concatenate(parts) % P

    def split(self, theta):
        """Weights and biases of a batch of flat vectors."""
        at, layers = 0, []
        for w, b in zip(self.weights, self.biases, strict=True):
            weight = theta[:, at : at + w.size].reshape(-1, *w.shape)
            at += w.size
            bias = None if b is None else theta[:, at : at + b.size]
            at += 0 if b is None else b.size
            layers.append((weight, bias))
        return layers

    def forward(self, theta, x):
        """Layer inputs and outputs of a batch of flat vectors, each (batch, n, width)."""
        states = [np.broadcast_to(x % P, (len(theta), *x.shape))]
        for index, (weight, bias) in enumerate(self.split(theta)):
            z = matmul(states[-1], weight.swapaxes(1, 2))
            z = z if bias is None else (z + bias[:, None]) % P
            hidden = index < len(self.weights) - 1
            states.append(z * self.slopes[index] % P if hidden and self.slopes else z)
        return states

    def gradient(self, theta, x, delta):
        """Gradient of sum_i delta_i . f(x_i), `delta` held fixed, by a batch."""
        states, back = (
            self.forward(theta, x),
            np.broadcast_to(delta % P, (len(theta), *delta.shape)),
        )
        parts = []
        for index in reversed(range(len(self.weights))):
            weight, bias = self.split(theta)[index]
            grad = matmul(back.swapaxes(1, 2), states[index]).reshape(len(theta), -1)
            parts = [grad, *([] if bias is None else [back.sum(1) % P]), *parts]
            back = matmul(back, weight)
            if index and self.slopes:
                back = back * self.slopes[index - 1] % P
        return np.concatenate(parts, axis=1)

    def jacobian(self, x):
        """All derivatives of the outputs, (parameters, n, K)."""
        theta = self.theta()
        steps = (theta + np.eye(len(theta), dtype=np.int64)) % P
        outputs = self.forward(steps, x)[-1]
        return (outputs - self.forward(theta[None], x)[-1]) % P

    def functional(self, x, delta):
        """Sum over samples of delta_i times the second derivative of the outputs."""
        theta = self.theta()
        steps = (theta + np.eye(len(theta), dtype=np.int64)) % P
        return (
            self.gradient(steps, x, delta) - self.gradient(theta[None], x, delta)
        ) % P

    def ggn(self, x, curvature):
        """Sum over samples of J_i^T Lambda_i J_i, Lambda of shape (n, K, K)."""
        jacobian = self.jacobian(x).swapaxes(0, 1)
        right = matmul(curvature % P, jacobian.swapaxes(1, 2))
        return matmul(jacobian, right).sum(0) % P


def outputs(net, x):
    return net.forward(net.theta()[None], x)[-1][0]


def one_hot(rng, n, num_outputs, classes):
    """Labels in the first `classes` classes."""
    return np.eye(num_outputs, dtype=np.int64)[rng.integers(0, classes, n)]


def loss_parts(loss, rng, net, x, *, residual=None, classes=None):
    """Gradient and Hessian by the outputs, per sample.

    Probabilities and tanh are transcendental in the outputs: random numbers stand for
    them. `residual`, where given, is the most that the rank of the gradients may be.
    """
    n, num_outputs = len(x), net.widths[-1]
    eye = np.eye(num_outputs, dtype=np.int64)
    labels = one_hot(rng, n, num_outputs, classes or num_outputs)
    drawn = low_rank(rng, n, num_outputs, residual)
    if loss == "mse":
        delta = drawn if residual is not None else outputs(net, x) - labels
        return delta % P, np.broadcast_to(eye, (n, *eye.shape))
    if loss == "logcosh":
        return drawn, (1 - drawn * drawn % P)[:, :, None] * eye % P
    if loss == "linear":
        return drawn, np.zeros((n, *eye.shape), dtype=np.int64)
    p = rng.integers(0, P, (n, num_outputs))
    p[:, -1] = (1 - p[:, :-1].sum(1)) % P
    centred = drawn.copy()
    centred[:, -1] = -drawn[:, :-1].sum(1) % P
    delta = (p - labels) % P if residual is None else centred
    return delta, (p[:, :, None] * eye - p[:, :, None] * p[:, None, :] % P) % P


def ranks(net, x, delta, curvature):
    """Ranks of functional Hessian, GGN and Hessian."""
    functional, ggn = net.functional(x, delta), net.ggn(x, curvature)
    return {
        "functional": rank(functional),
        "ggn": rank(ggn),
        "hessian": rank(functional + ggn),
    }


def with_ones(x):
    return np.concatenate([x, np.ones((len(x), 1), dtype=np.int64)], axis=1)


def linear_net(rng, widths, *, bias=False, weight_ranks=None):
    """Random weights modulo P; `bias` is one flag or one a layer."""
    layers = list(itertools.pairwise(widths))
    flags = [bias] * len(layers) if isinstance(bias, bool) else bias
    limits = weight_ranks or [None] * len(layers)
    return Net(
        [low_rank(rng, b, a, q) for (a, b), q in zip(layers, limits, strict=True)],
        [
            rng.integers(0, P, b) if f else None
            for (_, b), f in zip(layers, flags, strict=True)
        ],
    )


def relu_net(rng, widths, x, *, bias=False, negative=0):
    """Random integer weights, and the pattern that the true signs give on integer x.

    The slope of the negative side is an integer, 0 for ReLU.
    """
    layers = list(itertools.pairwise(widths))
    flags = [bias] * len(layers) if isinstance(bias, bool) else bias
    net = Net(
        [rng.integers(-999, 1000, (b, a)) for a, b in layers],
        [
            rng.integers(-999, 1000, b) if f else None
            for (_, b), f in zip(layers, flags, strict=True)
        ],
        [],
    )
    state = x.astype(float)
    for w, b in zip(net.weights[:-1], net.biases[:-1], strict=True):
        z = state @ w.T.astype(float) + (0 if b is None else b)
        slope = np.where(z > 0, 1, negative)
        net.slopes.append(slope)
        state = z * slope
        state = state / max(1.0, np.abs(state).max()) if b is None else state
    return net


OUTPUT_RANK = {
    "mse": lambda k: k,
    "logcosh": lambda k: k,
    "cross_entropy": lambda k: k - 1,
    "linear": lambda k: 0,
}


def seen_by(loss, matrix):
    """What the loss sees of matrices whose rows are outputs."""
    if loss == "linear":
        return matrix[:0]
    return (matrix[:-1] - matrix[-1:]) % P if loss == "cross_entropy" else matrix


def factor_ranks(net, x, loss):
    """Ranks of what stands left and right of each layer's weights, linear networks."""
    left, product = [], np.eye(net.widths[-1], dtype=np.int64)
    for weight in reversed(net.weights):
        left = [rank(seen_by(loss, product)), *left]
        product = matmul(product, weight % P)
    states = [state[0] for state in net.forward(net.theta()[None], x)[:-1]]
    pairs = zip(states, net.biases, strict=True)
    right = [rank(s if b is None else with_ones(s)) for s, b in pairs]
    return left, right


def facts(net, x, delta, loss):
    """What `predicted_ranks` is told of every network."""
    biased = [b is not None for b in net.biases]
    seen = with_ones(x) if any(biased) else x
    return {
        "widths": net.widths,
        "bias": biased,
        "num_samples": len(x),
        "input_rank": rank(x),
        "centred_input_rank": rank(with_ones(x)) - 1,
        "output_rank": OUTPUT_RANK[loss](net.widths[-1]),
        "residual_rank": rank(matmul(delta.T, seen)),
        "shift_invariant": loss == "cross_entropy",
        "balanced": not np.any(delta.sum(0) % P),
    }


def unit_ranks(net, x, delta):
    """Ranks of the inputs and of the residual that each of the hidden units sees."""
    seen = x % P if net.biases[0] is None else with_ones(x) % P
    scaled = [seen * slope[:, None] % P for slope in net.slopes[0].T]
    return {
        "unit_input_ranks": [rank(inputs) for inputs in scaled],
        "unit_residual_ranks": [rank(matmul(delta.T, inputs)) for inputs in scaled],
    }
