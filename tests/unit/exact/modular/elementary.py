"""The same matrices by other means: Python integers, one pair of parameters at a time.

A number is ``value + b e1 + c e2 + d e1 e2`` with ``e1^2 = e2^2 = 0``, modulo a prime;
the last coefficient of an output is its second derivative by two parameters.
"""

import math
from fractions import Fraction
from itertools import combinations_with_replacement

import torch
from torch import nn


def residue(x, prime):
    exact = Fraction(x)
    return exact.numerator * pow(exact.denominator, -1, prime) % prime


def _add(x, y):
    return [a + b for a, b in zip(x, y, strict=True)]


def _mul(x, y, prime):
    a, b, c, d = x
    e, f, g, h = y
    return [
        v % prime
        for v in (a * e, a * f + b * e, a * g + c * e, a * h + d * e + b * g + c * f)
    ]


def _floats(module, pre):
    """Return sigma, sigma', sigma'' of all pre-activations in float64."""
    leaf = pre.clone().requires_grad_()
    out = module(leaf)
    (first,) = torch.autograd.grad(out.sum(), leaf, create_graph=True)
    second = torch.zeros_like(leaf)
    if first.requires_grad:
        (second,) = torch.autograd.grad(first.sum(), leaf)
    return pre, out.detach(), first.detach(), second


def _jet(module, table, where, value, prime):
    """Return sigma, sigma', sigma'' at one pre-activation, whose residue is ``value``."""
    z, out, first, second = (float(t[where]) for t in table)
    if isinstance(module, nn.ReLU):
        s = int(z > 0)
        return value * s, s, 0
    if isinstance(module, nn.LeakyReLU):
        s = 1 if z > 0 else residue(module.negative_slope, prime)
        return value * s, s, 0
    s = residue(out, prime)
    if isinstance(module, nn.Tanh):
        return s, 1 - s * s, -2 * s * (1 - s * s)
    if isinstance(module, nn.Sigmoid):
        return s, s * (1 - s), s * (1 - s) * (1 - 2 * s)
    return s, residue(first, prime), residue(second, prime)


def output_jets(model, x, index, tables, pair, prime):
    """Return the outputs of a sample as jets by two entries of the parameter vector."""
    values = [[residue(float(v), prime), 0, 0, 0] for v in x]
    place = 0
    for number, module in enumerate(model):
        out = []
        if isinstance(module, nn.Linear):
            jets = []
            for entry in torch.cat(
                [p.detach().reshape(-1) for p in module.parameters()]
            ):
                ones = [int(place == chosen) for chosen in pair]
                jets.append([residue(float(entry), prime), *ones, 0])
                place += 1
            rows, columns = module.weight.shape
            for a in range(rows):
                total = [0, 0, 0, 0]
                for b in range(columns):
                    total = _add(total, _mul(jets[a * columns + b], values[b], prime))
                if module.bias is not None:
                    total = _add(total, jets[rows * columns + a])
                out.append([v % prime for v in total])
        else:
            for unit, (a, b, c, d) in enumerate(values):
                table = tables[number]
                s, s1, s2 = _jet(module, table, (index, unit), a, prime)
                out.append(
                    [v % prime for v in (s, s1 * b, s1 * c, s1 * d + s2 * b * c)]
                )
        values = out
    return values


def loss_terms(kind, f, floats, y, prime):
    """Return the gradient (K) and the Hessian (K x K) by the outputs, of one sample.

    ``floats`` are what the loss rounds: tanh(f - y) and sigmoid(f) (or what they lack of
    one), softmax(f).
    """
    K = len(f)
    if kind in {"half_squared_error", "mse"}:
        factor = 2 if kind == "mse" else 1
        gradient = [factor * (f[k] - residue(float(y[k]), prime)) for k in range(K)]
        return gradient, _diag([factor] * K)
    if kind == "cross_entropy":
        p = [residue(v, prime) for v in probabilities(floats)]
        Hessian = [[p[i] * (int(i == j) - p[j]) for j in range(K)] for i in range(K)]
        return [p[k] - int(k == int(y)) for k in range(K)], Hessian
    v = [residue(x, prime) for x in floats]
    if kind == "logcosh":
        return v, _diag([1 - t * t for t in v])
    assert kind == "bce_with_logits"
    gradient = [v[k] - residue(float(y[k]), prime) for k in range(K)]
    return gradient, _diag([s * (1 - s) for s in v])


def probabilities(floats):
    """Return fractions that add up to one: the largest is what the others leave."""
    p = [Fraction(float(v)) for v in floats]
    p[p.index(max(p))] += 1 - sum(p)
    return p


def log_cosh_slopes(d):
    """Return tanh(d) as fractions, near one as what 1 - |tanh| = 2 / (1 + e^2|d|) leaves."""
    e = torch.exp(-2 * d.abs())
    small, rest = torch.tanh(d.abs()), 2 * e / (1 + e)
    exact = [
        Fraction(float(t)) if abs(float(x)) <= 0.5 else 1 - Fraction(float(r))
        for x, t, r in zip(d, small, rest, strict=True)
    ]
    return [t if float(x) > 0 else -t for x, t in zip(d, exact, strict=True)]


def sigmoids(f):
    """Return sigmoids as fractions, above one half as what 1 - s leaves."""
    rest = torch.sigmoid(-f.abs())
    return [
        1 - Fraction(float(r)) if float(x) > 0 else Fraction(float(r))
        for x, r in zip(f, rest, strict=True)
    ]


def _diag(values):
    size = len(values)
    return [[values[i] if i == j else 0 for j in range(size)] for i in range(size)]


def matrices(model, kind, X, Y, prime):
    """Return GGN and functional Hessian of the loss sum, in the parameters' own order."""
    tables, f = {}, X
    for number, module in enumerate(model):
        if isinstance(module, nn.Linear):
            # Not module(f): its last bits may differ, and tanh rounds what it is given.
            f = f @ module.weight.detach().T
            f = f if module.bias is None else f + module.bias.detach()
        else:
            tables[number] = _floats(module, f)
            f = tables[number][1]
    rounded = {
        "logcosh": lambda: [log_cosh_slopes(d) for d in f - Y],
        "bce_with_logits": lambda: [sigmoids(row) for row in f],
        "cross_entropy": lambda: torch.softmax(f, -1),
    }.get(kind, lambda: f)()
    size = sum(p.numel() for p in model.parameters())
    ggn, functional = ([[0] * size for _ in range(size)] for _ in range(2))
    for i, j in combinations_with_replacement(range(size), 2):
        for n, (x, y) in enumerate(zip(X, Y, strict=True)):
            jets = output_jets(model, x, n, tables, (i, j), prime)
            outputs = [jet[0] for jet in jets]
            gradient, Hessian = loss_terms(kind, outputs, rounded[n], y, prime)
            functional[i][j] += sum(
                g * jet[3] for g, jet in zip(gradient, jets, strict=True)
            )
            ggn[i][j] += sum(
                a[1] * Hessian[k][m] * b[2]
                for k, a in enumerate(jets)
                for m, b in enumerate(jets)
            )
        functional[j][i], ggn[j][i] = functional[i][j], ggn[i][j]
    return ggn, functional


def rank_of_rationals(matrix):
    """Return the rank over the rationals, by elimination with Fractions."""
    rows = [[Fraction(v) for v in row] for row in matrix]
    rank = 0
    for column in range(len(rows[0]) if rows else 0):
        pivot = next((r for r in range(rank, len(rows)) if rows[r][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        for r in range(rank + 1, len(rows)):
            factor = rows[r][column] / rows[rank][column]
            if factor:
                rows[r] = [
                    a - factor * b for a, b in zip(rows[r], rows[rank], strict=True)
                ]
        rank += 1
    return rank


def is_prime(number):
    return number > 1 and all(number % d for d in range(2, math.isqrt(number) + 1))
