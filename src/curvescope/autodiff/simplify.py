"""Fewer and cheaper operations for a traced product: what autograd wrote is verbose.

Double backward adds to zeros, transposes twice, and multiplies and adds apart. The
rewritten program computes the same sums, in the same precision.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

_ZEROS = (aten.zeros_like.default, aten.zeros.default, aten.new_zeros.default)
# Elementwise operations with a form that overwrites their first argument.
_IN_PLACE: dict[Any, Any] = {
    aten.add.Tensor: aten.add_.Tensor,
    aten.sub.Tensor: aten.sub_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.mul.Scalar: aten.mul_.Scalar,
    aten.div.Tensor: aten.div_.Tensor,
    aten.div.Scalar: aten.div_.Scalar,
    aten.neg.default: aten.neg_.default,
}


def simplified(program: fx.GraphModule) -> fx.GraphModule:
    """Return the program without zeros that are added and transposes that cancel."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(program.graph, {}))
    for node in graph.nodes:
        if node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default  # strides may change
    rules = (_without_zeros, _as_transposition, _cancelled, _selected, _transposed_sum)
    _rewrite(graph, rules)
    return _finished(program, graph)


def fused(program: fx.GraphModule) -> fx.GraphModule:
    """Return the program with sums of matrix products in one, where possible in place.

    For running as it is; a compiler fuses by itself, and wants no operation in place.
    """
    graph = fx.Graph()
    graph.output(graph.graph_copy(program.graph, {}))
    _rewrite(graph, (_turned, _added_product))
    for node in graph.nodes:
        _overwrite(node)
    return _finished(program, graph)


def _finished(program: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    graph.eliminate_dead_code()
    graph.lint()
    return fx.GraphModule(program, graph)


Rule = Callable[[fx.Graph, fx.Node], fx.Node | None]


def _rewrite(graph: fx.Graph, rules: tuple[Rule, ...]) -> None:
    """Apply the rules until none of them applies; each returns a node's replacement."""
    changed = True
    while changed:
        changed = False
        for node in list(graph.nodes):
            if node.op != "call_function" or not node.users:
                continue
            for rule in rules:
                with graph.inserting_before(node):
                    better = rule(graph, node)
                if better is not None:
                    better.meta.setdefault("val", node.meta.get("val"))
                    node.replace_all_uses_with(better)
                    changed = True
                    break
        graph.eliminate_dead_code()


def _shape(node: Any) -> tuple[int, ...] | None:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


def _dtype(node: Any) -> Any:
    return getattr(node.meta.get("val"), "dtype", None)


def _same_kind(a: Any, b: Any) -> bool:
    """Tell whether two nodes have one shape and dtype, both known."""
    return _shape(a) is not None and _shape(a) == _shape(b) and _dtype(a) == _dtype(b)


def _is_sum(node: Any) -> bool:
    """Tell whether a node is ``a + b`` of two tensors."""
    return (
        isinstance(node, fx.Node)
        and node.target is aten.add.Tensor
        and not node.kwargs
        and all(isinstance(a, fx.Node) for a in node.args)
    )


def _is_transposition(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.target is aten.t.default


def _is_product(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.target is aten.mm.default


def _called(graph: fx.Graph, target: Any, args: tuple[Any, ...], like: Any) -> fx.Node:
    node = graph.call_function(target, args)
    node.meta["val"] = like
    return node


def _transposition(graph: fx.Graph, node: Any) -> fx.Node:
    if _is_transposition(node):
        return node.args[0]
    return _called(graph, aten.t.default, (node,), node.meta["val"].t())


def _without_zeros(graph: fx.Graph, node: Any) -> fx.Node | None:
    """``0 + a`` is ``a``, if that has the sum's shape."""
    del graph
    if not _is_sum(node):
        return None
    for zero, other in (node.args, node.args[::-1]):
        if zero.target in _ZEROS and _same_kind(other, node):
            return other
    return None


def _as_transposition(graph: fx.Graph, node: Any) -> fx.Node | None:
    """``permute`` and ``transpose`` of a matrix are written as ``t``."""
    source = node.args[0] if node.args else None
    if _shape(source) is None or len(_shape(source) or ()) != 2:
        return None
    permuted = node.target is aten.permute.default and list(node.args[1]) == [1, 0]
    swapped = node.target is aten.transpose.int and node.args[1] % 2 != node.args[2] % 2
    if not (permuted or swapped):
        return None
    return _called(graph, aten.t.default, (source,), node.meta["val"])


def _cancelled(graph: fx.Graph, node: Any) -> fx.Node | None:
    """Two transposes cancel; a view or an expansion to the same shape is nothing."""
    del graph
    if _is_transposition(node) and _is_transposition(node.args[0]):
        return node.args[0].args[0]
    same = (aten.reshape.default, aten.expand.default)
    if node.target in same and _same_kind(node.args[0], node):
        return node.args[0]
    return None


def _selected(graph: fx.Graph, node: Any) -> fx.Node | None:
    """What a new dimension of length 1 was made for is what it was made of."""
    del graph
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or source.target is not aten.unsqueeze.default:
        return None
    taken = node.target is aten.select.int and node.args[1:] == (source.args[1], 0)
    squeezed = node.target is aten.squeeze.dim and node.args[1] == source.args[1]
    inner: Any = source.args[0]
    return inner if taken or squeezed else None


def _transposed_sum(graph: fx.Graph, node: Any) -> fx.Node | None:
    """``a' + b'`` is ``(a + b)'``."""
    if not (_is_sum(node) and all(_is_transposition(a) for a in node.args)):
        return None
    a, b = (arg.args[0] for arg in node.args)
    if not _same_kind(a, b):
        return None
    total = _called(graph, aten.add.Tensor, (a, b), a.meta["val"])
    return _called(graph, aten.t.default, (total,), node.meta["val"])


def _turned(graph: fx.Graph, node: Any) -> fx.Node | None:
    """``c + (a b)'`` is ``c + b' a'``."""
    if not _is_sum(node):
        return None
    for position, arg in enumerate(node.args):
        if _is_transposition(arg) and _is_product(arg.args[0]):
            a, b = arg.args[0].args
            factors = (_transposition(graph, b), _transposition(graph, a))
            product = _called(graph, aten.mm.default, factors, arg.meta["val"])
            pair = (product, node.args[1]) if position == 0 else (node.args[0], product)
            return _called(graph, aten.add.Tensor, pair, node.meta["val"])
    return None


def _added_product(graph: fx.Graph, node: Any) -> fx.Node | None:
    """``c + a b`` is one operation; it writes into c if nobody else needs that."""
    if not _is_sum(node):
        return None
    for c, product in (node.args, node.args[::-1]):
        if not (_is_product(product) and len(product.users) == 1):
            continue
        if not (_same_kind(product, node) and _shape(c) is not None):
            continue
        if c.target is aten.expand.default:  # a bias: addmm expands it itself
            c = c.args[0]
        elif not _same_kind(c, node):
            continue
        return _called(graph, aten.addmm.default, (c, *product.args), node.meta["val"])
    return None


def _overwrite(node: Any) -> None:
    """Let an operation write into its first argument, if that is needed no more."""
    if node.op != "call_function" or not node.args:
        return
    if node.target is aten.addmm.default and _is_free(node.args[0], node):
        node.target = aten.addmm_.default
        return
    if node.target in _IN_PLACE:
        commutes = node.target in (aten.add.Tensor, aten.mul.Tensor)
        if not _is_free(node.args[0], node) and commutes and not node.kwargs:
            first, second = node.args
            if _is_free(second, node):
                node.args = (second, first)
        if _is_free(node.args[0], node):
            node.target = _IN_PLACE[node.target]
        return
    if node.target is aten.threshold_backward.default and _is_free(node.args[0], node):
        node.target = aten.threshold_backward.grad_input
        node.kwargs = {"grad_input": node.args[0]}


def _is_free(source: Any, node: Any) -> bool:
    """Tell whether ``source`` was computed, for ``node`` alone, and is no view."""
    if not isinstance(source, fx.Node) or source.op != "call_function":
        return False
    if len(source.users) != 1 or not _same_kind(source, node):
        return False
    if sum(arg is source for arg in node.all_input_nodes) != 1 or _repeated(
        source, node
    ):
        return False
    return _is_fresh(source)


def _repeated(source: Any, node: Any) -> bool:
    return sum(arg is source for arg in node.args) != 1


def _is_fresh(source: Any) -> bool:
    """Tell whether an operation's result is memory of its own."""
    if source.target is operator.getitem:
        return False
    if not isinstance(source.target, torch._ops.OpOverload):
        return False
    schema = source.target._schema
    overwrites = source.target in (*_IN_PLACE.values(), aten.addmm_.default)
    overwrites = overwrites or source.target is aten.threshold_backward.grad_input
    if overwrites:  # its result is its first argument, which was fresh
        return True
    aliases = any(r.alias_info is not None for r in schema.returns)
    # Reshapes and the like may return their argument itself.
    maybe_views = (aten.reshape.default, aten.contiguous.default, aten.expand.default)
    return not aliases and source.target not in maybe_views
