"""Random problems for rank reports: degenerate data, saturated losses, any biases."""

import itertools
import random

import torch
from torch import nn

import curvescope as cs

ACTIVATIONS = {
    "linear": nn.Identity,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "elu": nn.ELU,
}
DATA = ("full", "zero", "dead", "equal", "low_rank", "rounded", "centred", "repeated",
        "shifted", "far", "sparse", "scaled")  # fmt: skip
LOSSES = ("half_squared_error", "mse", "cross_entropy", "weighted", "logcosh",
          "bce_with_logits", "bce_weighted")  # fmt: skip
WEIGHTS = ("full",) * 7 + ("low_rank", "zero", "rounded", "small", "balanced", "fitted",
                           "identity", "equal", "signs", "all_signs", "repeated")  # fmt: skip


def draw(seed, *, widest=7, deepest=4):
    """Return a description and a problem; the same for the same seed."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    hidden = [rng.randint(1, widest) for _ in range(rng.randint(0, deepest))]
    widths = [rng.randint(1, 8), *hidden, rng.randint(1, 6)]
    activation = rng.choice(["linear"] * 5 + list(ACTIVATIONS))
    bias = rng.choice([True, False, False, "mixed"])
    num_samples = rng.choice([1, 1, 2, 3, 5, 10, 30])
    kinds = {name: rng.choice(list(of)) for name, of in
             (("data", DATA), ("loss", LOSSES), ("weights", WEIGHTS))}  # fmt: skip
    model = network(rng, generator, widths, activation, bias)
    shape_weights(rng, generator, model, kinds["weights"])
    inputs = make_inputs(rng, generator, (num_samples, widths[0]), kinds["data"])
    loss, targets = loss_and_targets(rng, generator, model, inputs, kinds["loss"])
    if kinds["weights"] == "fitted":
        fit_last_layer(model, inputs, targets)
    if kinds["weights"] == "balanced":
        targets = balance(model, inputs, loss, targets)
    words = f"{seed}: {widths} {activation} bias={bias} n={num_samples} {kinds}"
    try:
        return words, cs.Problem(model, loss, (inputs, targets))
    except ValueError:  # a loss that is rounding alone is refused
        assert kinds["loss"] in {"half_squared_error", "mse", "logcosh"}
        targets = normal(generator, num_samples, widths[-1])
        return words, cs.Problem(model, loss, (inputs, targets))


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def integers(generator, low, high, *shape):
    return torch.randint(low, high, shape, generator=generator).double()


def network(rng, generator, widths, activation, bias):
    modules = []
    for a, b in itertools.pairwise(widths):
        has_bias = rng.random() < 0.5 if bias == "mixed" else bias
        layer = nn.Linear(a, b, bias=has_bias, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(normal(generator, b, a) / a**0.5)
            if has_bias:
                layer.bias.copy_(normal(generator, b))
        modules += [layer, ACTIVATIONS[activation]()]
    return nn.Sequential(*modules[:-1])


def shape_weights(rng, generator, model, kind):
    """Take rank, or size, from one of the weights."""
    layers = [m for m in model if isinstance(m, nn.Linear)]
    weight = rng.choice(layers).weight
    b, a = weight.shape
    rank = rng.randint(0, min(a, b))
    with torch.no_grad():
        if kind == "low_rank":
            left = integers(generator, -9, 10, b, rank)
            weight.copy_(left @ integers(generator, -9, 10, rank, a))
        elif kind == "rounded":
            weight.copy_(normal(generator, b, rank) @ normal(generator, rank, a))
        elif kind == "zero":
            weight.zero_()
        elif kind == "identity":
            weight.copy_(torch.eye(b, a))
        elif kind == "equal":
            weight.fill_(0.5)
        elif kind == "repeated":
            weight[-1] = weight[0]
        elif kind in {"signs", "all_signs"}:
            for one in [weight] if kind == "signs" else [m.weight for m in layers]:
                one.copy_(2 * integers(generator, 0, 2, *one.shape) - 1)
        elif kind == "small":
            weight.mul_(10.0 ** rng.choice([-3, -6, -10]))


def make_inputs(rng, generator, shape, kind):
    n, d = shape
    X = normal(generator, n, d)
    rank = rng.randint(1, d)
    if kind == "zero":
        X = X * 0
    elif kind == "dead":
        X[:, rng.randrange(d)] = 0
    elif kind == "equal":
        X[:, 0] = X[:, -1]
    elif kind == "low_rank":
        left = integers(generator, -3, 4, n, rank)
        X = left @ integers(generator, -3, 4, rank, d)
    elif kind == "rounded":
        X = normal(generator, n, rank) @ normal(generator, rank, d)
    elif kind == "centred":
        X = X - X.mean(0)
    elif kind == "repeated":
        X = X[torch.randint(n, (n,), generator=generator)]
    elif kind == "shifted":
        X = X + rng.choice([1.0, 10.0])
    elif kind == "far":
        X = X + 100
    elif kind == "sparse":
        X = X * (torch.rand(n, d, generator=generator) < 0.4)
    elif kind == "scaled":
        X = X * 10.0 ** torch.randint(-6, 4, (d,), generator=generator)
    return X


def loss_and_targets(rng, generator, model, inputs, kind):
    n = len(inputs)
    K = model[-1].out_features
    labels = torch.randint(rng.randint(1, K), (n,), generator=generator)
    one_hot = nn.functional.one_hot(labels, K).double()
    if kind == "cross_entropy":
        soft = torch.rand(n, K, generator=generator).double()
        return kind, rng.choice([labels, labels, soft, one_hot])
    if kind == "weighted":
        weight = torch.rand(K, generator=generator).double()
        weight[rng.randrange(K)] = rng.choice([1.0, 1.0, 0.0])
        smooth = rng.choice([0.0, 0.1])
        if float(weight[labels].sum()) == 0.0:
            weight += 1
        if rng.random() < 0.3 and n > 1:
            labels[0] = -100
            if float(weight[labels[1:]].sum()) == 0.0:
                weight += 1
        loss = nn.CrossEntropyLoss(weight=weight, label_smoothing=smooth)
        return loss, labels
    if kind == "bce_with_logits":
        return kind, one_hot
    if kind == "bce_weighted":
        positive = 0.5 + torch.rand(K, generator=generator).double()
        weight = torch.rand(K, generator=generator).double()
        return nn.BCEWithLogitsLoss(pos_weight=positive, weight=weight), one_hot
    targets = normal(generator, n, K)
    with torch.no_grad():
        f = model(inputs)
    near = f + targets * 10.0 ** rng.choice([-3, -8, -12])
    return kind, rng.choice([targets, targets, one_hot, near, f])


def fit_last_layer(model, inputs, targets):
    """Solve least squares for the last weight: what is left is orthogonal to its inputs."""
    if targets.shape != (len(inputs), model[-1].out_features):
        return
    with torch.no_grad():
        hidden = model[:-1](inputs)
        solution = torch.linalg.lstsq(hidden, targets, driver="gelsd").solution
        model[-1].weight.copy_(solution.T)
        if model[-1].bias is not None:
            model[-1].bias.zero_()


def balance(model, inputs, loss, targets):
    """Move targets so that the gradients by the outputs sum to zero up to rounding."""
    if loss not in {"half_squared_error", "mse"}:
        return targets
    with torch.no_grad():
        return targets + (model(inputs) - targets).mean(0)


def faults(report):
    """Return what is wrong with a report, a line each."""
    found = []
    for name, rank in report.measured.items():
        here = report.predicted.get(name)
        there = report.certified_predictions.get(name)
        explained = any(
            note.startswith(f"{name}: exactly as stored") for note in report.notes
        )
        if rank.certified is None:
            found.append(f"{name}: no certificate")
            continue
        if there is not None and not there.agrees(rank.certified):
            found.append(
                f"{name}: formula {there}, exact rank {rank.certified}: {there.formula}"
            )
        if rank.certain and rank.certified != rank.rank and not explained:
            found.append(f"{name}: certain {rank.rank}, exact {rank.certified}")
        if rank.certain and here is not None and not here.agrees(rank.rank):
            found.append(f"{name}: certain {rank.rank}, in float64 formula {here}")
    return found
