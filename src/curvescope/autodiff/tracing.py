"""A batch's product as a straight line of operations, split by what it depends on.

The product with a second derivative is linear in its vector. Traced once, it falls into
two programs: ``prepare`` does all that the vector has no part in, ``apply`` the rest.
Without autograd's bookkeeping `apply` can be simplified, and compiled. Both take
weights and data as arguments, so one trace serves all batches of a shape and outlives a
change of the weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, fx

# A product of these constants and vectors: (constants, tangents) -> parts.
Product = Callable[[list[Tensor], list[Tensor]], list[Tensor]]


@final
@dataclass(frozen=True)
class TracedProduct:
    """The two programs.

    Attributes:
        prepare: ``*constants -> kept``: what one batch keeps from product to product.
        apply: ``(*tangents, *kept) -> parts``: the product.
    """

    prepare: Callable[..., Sequence[Tensor]]
    apply: fx.GraphModule


def trace(
    product: Product, constants: Sequence[Tensor], tangents: Sequence[Tensor]
) -> TracedProduct:
    """Trace a product and split it.

    Args:
        product: Runs model, loss and both differentiations; draws no random numbers.
        constants: Weights, buffers, inputs and targets of one batch.
        tangents: A vector; only shapes and dtypes count.

    Raises:
        RuntimeError: If the product cannot be written down as one straight line: it
            branches on values, draws random numbers, or leaves torch.
    """
    # It brings a good part of torch's compiler with it.
    from torch.fx.experimental.proxy_tensor import make_fx

    num = len(constants)

    def flat(*arguments: Tensor) -> list[Tensor]:
        return product(list(arguments[:num]), list(arguments[num:]))

    try:
        with torch.enable_grad():
            written = make_fx(flat)(*constants, *tangents)
        written.graph.eliminate_dead_code()
        with torch.no_grad():
            # Operations in place become ordinary ones: what is kept must stay as it is.
            functional = torch.func.functionalize(written)
            program = make_fx(functional)(*constants, *tangents)
    except Exception as error:  # whatever a model raises when it is traced
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        text = f"the product could not be traced: {reason}"
        raise RuntimeError(text) from error
    program.graph.eliminate_dead_code()
    _check(program)
    return _split(program, num)


def _check(program: fx.GraphModule) -> None:
    """Refuse what would not be the same at every product."""
    for node in program.graph.nodes:
        operation = node.target
        if not isinstance(operation, torch._ops.OpOverload):
            continue
        if torch.Tag.nondeterministic_seeded in operation.tags:
            text = f"the product draws random numbers ({operation})"
            raise RuntimeError(text)
        if operation._schema.is_mutable:
            text = f"the product overwrites a tensor ({operation})"
            raise RuntimeError(text)


def _split(program: fx.GraphModule, num_constants: int) -> TracedProduct:
    """Divide the program at the boundary of what depends on the tangents."""
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder"]
    tangents = placeholders[num_constants:]
    dependent = set(tangents)
    for node in program.graph.nodes:
        if any(source in dependent for source in node.all_input_nodes):
            dependent.add(node)
    (output,) = (n for n in program.graph.nodes if n.op == "output")
    dependent.add(output)
    kept = _in_order(
        source
        for node in program.graph.nodes
        if node in dependent
        for source in node.all_input_nodes
        if source not in dependent
    )
    before, after = fx.Graph(), fx.Graph()
    early: dict[fx.Node, fx.Node] = {}
    for node in placeholders[:num_constants]:
        early[node] = before.placeholder(node.name)
    late = {node: after.placeholder(node.name) for node in tangents}
    late |= {node: after.placeholder(f"kept_{i}") for i, node in enumerate(kept)}
    for node, copy in late.items():
        copy.meta = dict(node.meta)
    for node in program.graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        if node in dependent:
            late[node] = after.node_copy(node, late.__getitem__)
        else:
            early[node] = before.node_copy(node, early.__getitem__)
    before.output([early[node] for node in kept])
    after.output(fx.map_arg(output.args[0], late.__getitem__))
    for graph in (before, after):
        graph.eliminate_dead_code()
        graph.lint()
    return TracedProduct(
        fx.GraphModule(program, before), fx.GraphModule(program, after)
    )


def _in_order(nodes: Any) -> list[fx.Node]:
    return list(dict.fromkeys(nodes))
