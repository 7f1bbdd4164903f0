"""One layer after another, by what analyses one block: how peers make a table of layers."""

import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.problems import Task
from benchmarks.solver import Answer


def layers_of(task: Task) -> dict[str, list[nn.Parameter]]:
    """Return each module's own parameters, by its name, in the model's order."""
    return {
        name: own
        for name, module in task.model.named_modules()
        if (own := list(module.parameters(recurse=False)))
    }


def layer_by_layer(
    task: Task, one: Callable[[list[nn.Parameter]], float], limit: float
) -> Answer:
    """Return the layers' values; those only that were begun within ``limit`` seconds."""
    found: dict[str, float] = {}
    groups = layers_of(task)
    start = time.monotonic()
    # Evenly spread, so that what there was time for stands for the whole network.
    for name in spread(list(groups)):
        if found and time.monotonic() - start > limit:
            break
        found[name] = one(groups[name])
    return Answer(
        values=torch.tensor(list(found.values())),
        names=list(found),
        facts={"done": len(found), "of": len(groups)},
    )


def spread(names: list[str]) -> list[str]:
    """Order ``names`` so that any beginning of the order is spread over them."""
    order: list[str] = []
    stride = 1
    while stride < len(names):
        stride *= 2
    while stride >= 1:
        order += [name for name in names[::stride] if name not in order]
        stride //= 2
    return order
