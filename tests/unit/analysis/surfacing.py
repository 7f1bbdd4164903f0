"""A process that looks around a network until it is interrupted, several times over.

It prints one line when a look begins, and one, as JSON, on what an interruption left.
"""

import json
import signal
import sys

import torch
from torch import nn

from curvescope.analysis import homogeneity, loss_surface
from curvescope.problem import Problem


def network():
    """A network with batch norm, gradients and a frozen layer, in mixed modes."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(),
        nn.Conv2d(4, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(),
        nn.Flatten(), nn.Linear(3 * 64, 10),
    )  # fmt: skip
    model(torch.randn(20, 1, 8, 8)).square().sum().backward()
    model[0].weight.requires_grad_(False)
    model[4].eval()
    return model


def state_of(model):
    """Everything of a user's that a call could change, as something that compares."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {
        "values": {name: value.detach().clone() for name, value in named},
        "places": {name: value.data_ptr() for name, value in named},
        "gradients": {
            name: None if p.grad is None else p.grad.clone()
            for name, p in model.named_parameters()
        },
        "trained": {name: p.requires_grad for name, p in model.named_parameters()},
        "modes": [module.training for module in model.modules()],
        "hooks": [len(module._forward_hooks) for module in model.modules()],
        "random": torch.random.get_rng_state(),
        "dtype": torch.get_default_dtype(),
        "grad mode": torch.is_grad_enabled(),
    }


def differences(before, after):
    """Name what is not the same bits."""

    def same(a, b):
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            return torch.equal(a, b)
        if isinstance(a, dict):
            return all(same(a[key], b[key]) for key in a)
        return a == b

    return [name for name in before if not same(before[name], after[name])]


def look(problem, verb):
    """Look around the weights for longer than any test waits."""
    if verb == "loss_surface":
        return loss_surface(problem, num_points=400)
    return homogeneity(problem, num_draws=500, num_top=2, num_pairs=4)


def main():
    """Be interrupted once in each verb that was named."""
    # A shell's background job ignores SIGINT, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    model = network()
    images = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    problem = Problem(model, "cross_entropy", (images, torch.arange(64) % 10))
    expected = problem.gradient()
    # What torch imports at a first product (sympy) is lost where that is interrupted.
    loss_surface(problem, directions="gradient", num_points=2)
    for verb in sys.argv[1:]:
        before = state_of(model)
        print("begins", flush=True)
        interrupted = False
        try:
            look(problem, verb)
        except KeyboardInterrupt:
            interrupted = True
        found = differences(before, state_of(model))
        right = torch.equal(problem.gradient(), expected)
        left = {"interrupted": interrupted, "changed": found, "works": right}
        print(json.dumps(left), flush=True)


if __name__ == "__main__":
    main()
