"""Nodes of autograd's graphs."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor


def nodes(tensors: Sequence[Tensor]) -> Iterator[Any]:
    """Yield every node of the tensors' graph once."""
    pending: list[Any] = [t.grad_fn for t in tensors]
    seen: set[Any] = set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        yield node
        seen.add(node)
        pending.extend(following for following, _ in node.next_functions)


def once_differentiable(gradients: Sequence[Tensor]) -> bool:
    """Tell whether a function in the graph refuses to be differentiated twice.

    Torch puts a node that raises behind such a function (`once_differentiable`), but off
    the path to the parameters: its second derivative would silently be zero.
    """
    return any(node.name() == "torch::autograd::Error" for node in nodes(gradients))
