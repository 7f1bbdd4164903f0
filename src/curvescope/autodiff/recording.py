"""Watches a model run, and recognises a chain of linear layers when it sees one.

Nothing is assumed from the model's modules: what counts is which tensors went into which
functions. Anything that is not a linear layer or an elementwise function of the last
tensor alone ends the recording, and autograd's graph, which is there anyway, is used.

Not all can be seen: hooks behind the scenes, writes through ``.data``, a loss that reads
what the model left in an attribute. So whoever uses a chain compares its first product
with autograd's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from curvescope.autodiff.chain import Chain, ChainLayer

_ELEMENTWISE = frozenset(
    {
        *(F.relu, torch.relu, Tensor.relu, torch.relu_, Tensor.relu_),
        *(F.tanh, torch.tanh, Tensor.tanh, F.sigmoid, torch.sigmoid, Tensor.sigmoid),
        *(F.gelu, F.silu, F.mish, F.elu, F.selu, F.celu, F.softplus, F.leaky_relu),
        *(F.hardtanh, F.relu6, F.logsigmoid, F.hardswish, F.softsign),
        *(F.tanhshrink, torch.sin, Tensor.sin, torch.cos, Tensor.cos),
        *(torch.erf, Tensor.erf, torch.square, Tensor.square),
        *(torch.pow, Tensor.pow, Tensor.__pow__),
        # With numbers: a tensor beside the last one ends the chain.
        *(torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__),
        *(torch.div, Tensor.div, Tensor.__truediv__),
        *(torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__),
        *(torch.sub, Tensor.sub, Tensor.__sub__, Tensor.__rsub__),
        *(torch.neg, Tensor.neg, Tensor.__neg__),
    }
)
_DROPOUT = frozenset({F.dropout, torch.dropout, F.alpha_dropout})
# These keep the order of the entries.
_RESHAPING = frozenset(
    {
        *(torch.flatten, Tensor.flatten, Tensor.view, Tensor.reshape, torch.reshape),
        *(torch.squeeze, Tensor.squeeze, torch.unsqueeze, Tensor.unsqueeze),
    }
)
# What is done to gradients is not seen in the values.
_HOOKS = frozenset({Tensor.register_hook})
# A function, what it was given, and its other arguments.
_Call = tuple[Callable[..., Any], Tensor, tuple[Any, ...], dict[str, Any]]


@final
class ChainRecorder(TorchFunctionMode):
    """Records the layers of a chain while the model runs.

    Args:
        leaves: The selected parameters.
    """

    def __init__(self, leaves: Sequence[Tensor]) -> None:
        super().__init__()
        self._leaves = {id(leaf): i for i, leaf in enumerate(leaves)}
        self._shapes = tuple(leaf.shape for leaf in leaves)
        self._layers: list[ChainLayer] = []
        self._behind: list[list[_Call]] = []
        self._last: Tensor | None = None
        self._version = 0
        self._constants: list[tuple[Tensor, int]] = []
        self._sources: list[tuple[Tensor, int]] = []
        self._broken = False
        # Whether the last tensor's shape is for whoever called the model only.
        self._reshaped = False

    def compute(self, tree: Any) -> Any:
        """Return what the model returned: nothing is deferred."""
        return tree

    def chain(self, outputs: Tensor) -> Chain | None:
        """Return the chain that ends in ``outputs``, if all of it was seen."""
        changed = any(t._version != version for t, version in self._constants)
        if self._broken or changed or not self._is_last(outputs) or not self._layers:
            return None
        return Chain(
            tuple(self._finished(i) for i in range(len(self._layers))),
            outputs.detach(),
            self._shapes,
            tuple(range(len(self._shapes))),
            tuple(self._sources),
        )

    def _finished(self, place: int) -> ChainLayer:
        """Return a layer with the derivatives of the functions behind it."""
        layer = self._layers[place]
        for call in self._behind[place]:
            slope, bend = _derivatives(*call)
            layer = _followed(layer, _columns(slope), _columns(bend))
        return layer

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function, and note what it was."""
        del types
        kwargs = dict(kwargs or {})
        if self._broken:
            return func(*args, **kwargs)
        if self._last is not None and not torch.is_grad_enabled():
            # A constant from here on, or what only looks like one: views, functions in
            # place.
            return self._unrecorded(func, args, kwargs)
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if not any(t.requires_grad for t in tensors):
            return func(*args, **kwargs)
        if self._reshaped and func not in _RESHAPING:
            # The chain ended before: more of it would need the shape.
            output = func(*args, **kwargs)
            self._broken = _depends(output) or self._overwritten() or func in _HOOKS
            return output
        if func is F.linear:
            return self._linear(func, args, kwargs)
        alone = len(tensors) == 1 and bool(args) and self._is_last(args[0])
        if func in _ELEMENTWISE and alone:
            return self._elementwise(func, args, kwargs)
        output = func(*args, **kwargs)
        if alone and _does_nothing(func, args, kwargs):
            self._follow(output)
        elif func in _RESHAPING and alone:
            self._reshaped = self._reshaped or output.shape != args[0].shape
            self._follow(output)
        elif _depends(output) or func in _HOOKS or self._overwritten():
            self._broken = True
        return output

    def _unrecorded(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call a function without gradients; it must leave the last tensor alone."""
        output = func(*args, **kwargs)
        if _depends(output) or self._overwritten():
            self._broken = True
        return output

    def _overwritten(self) -> bool:
        return self._last is not None and self._last._version != self._version

    def _linear(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        output = func(*args, **kwargs)
        if not output.requires_grad:  # inside `no_grad`: a constant
            return output
        names = ("input", "weight", "bias")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        x, weight, bias = given["input"], given["weight"], given.get("bias")
        begins = not self._layers and not x.requires_grad
        known = all(
            t is None or not t.requires_grad or id(t) in self._leaves
            for t in (weight, bias)
        )
        plain = x.layout is torch.strided and not x.is_inference()
        plain = plain and weight.ndim == 2
        plain = plain and (bias is None or bias.shape == weight.shape[:1])
        if not known or not plain or not (begins or self._is_last(x)):
            self._broken = True
            return output
        self._layers.append(
            ChainLayer(
                inputs=x.detach().reshape(-1, x.shape[-1]).t(),
                weight=weight.detach(),
                weight_leaf=self._leaves.get(id(weight)),
                bias_leaf=None if bias is None else self._leaves.get(id(bias)),
            )
        )
        self._behind.append([])
        # Autograd would refuse to go on with what was overwritten later. Detached, they
        # count the same versions and keep no graph.
        read = [(t.detach(), t._version) for t in (x, weight)]
        self._constants += read
        # Whether a parameter still is what it was, its problem knows by its values.
        self._sources += read[:1] if id(weight) in self._leaves else read
        self._follow(output)
        return output

    def _elementwise(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        x = args[0]
        before = x.detach().clone()
        output = func(*args, **kwargs)
        if not output.requires_grad:
            return output
        # Differentiated at the end: a checkpointed part counts what is saved inside.
        self._behind[-1].append((func, before, args[1:], kwargs))
        self._follow(output)
        return output

    def _follow(self, output: Tensor) -> None:
        self._last, self._version = output, output._version

    def _is_last(self, tensor: Any) -> bool:
        if tensor is not self._last or tensor is None:
            return False
        return bool(tensor.requires_grad) and not self._overwritten()


def _derivatives(
    func: Callable[..., Any], x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """Return an elementwise function's first and second derivative."""
    with torch.enable_grad():
        leaf = x.requires_grad_()
        # A copy: some functions overwrite their input.
        value = func(leaf.clone(), *args, **kwargs)
        (slope,) = torch.autograd.grad(value.sum(), leaf, create_graph=True)
    if not slope.requires_grad:
        return slope, None
    (bend,) = torch.autograd.grad(slope.sum(), leaf, allow_unused=True)
    curved = bend is not None and bool((bend != 0.0).any())
    return slope.detach(), bend if curved else None


def _followed(layer: ChainLayer, slope: Tensor, bend: Tensor | None) -> ChainLayer:
    """Put a function behind those that a layer has already."""
    if layer.slope is None:
        return replace(layer, slope=slope, bend=bend)
    # (g o f)'' = g'' f'^2 + g' f''
    bends = [] if bend is None else [bend * layer.slope.square()]
    bends += [] if layer.bend is None else [slope * layer.bend]
    total = sum(bends[1:], bends[0]) if bends else None
    return replace(layer, slope=slope * layer.slope, bend=total)


def _columns(values: Tensor | None) -> Any:
    """Bring ``(..., features)`` to ``(features, samples)``, contiguous."""
    if values is None:
        return None
    return values.reshape(-1, values.shape[-1]).t().contiguous()


def _does_nothing(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> bool:
    """Tell whether a function changes neither values nor derivatives."""
    if func not in _DROPOUT:
        return func is Tensor.contiguous
    given = {**dict(zip(("input", "p", "training"), args, strict=False)), **kwargs}
    return not given.get("training", given.get("train", True))


def _depends(output: Any) -> bool:
    """Tell whether anything in an output has a graph."""
    found = (t for t in tree_leaves(output) if isinstance(t, Tensor))
    return any(t.requires_grad for t in found)
