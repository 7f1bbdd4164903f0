"""Where each linear or convolutional layer stands: what it gets, and what follows it.

Read off the graph of one forward pass, so that functional activations and residual sums
are seen as well as modules.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from curvescope.models.initialisation import Fans, Scheme, draw_, fans, weight_layers
from curvescope.problem import Problem
from curvescope.theory import (
    Unit,
    dropout_constant,
    hessian_variance,
    unit,
    unit_constant,
)

_TOP = "(top)"
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
# Names of autograd's nodes begin with these; what only moves or averages entries.
_PASSES = (
    "View",
    "UnsafeView",
    "Reshape",
    "Permute",
    "Transpose",
    "TBackward",
    "Expand",
    "Squeeze",
    "Unsqueeze",
    "Clone",
    "Alias",
    "Slice",
    "Select",
    "ToCopy",
    "ConstantPad",
    "MaxPool",
    "AvgPool",
    "MkldnnAdaptiveAvgPool",
    "AdaptiveAvgPool",
    "AdaptiveMaxPool",
    "MeanBackward",
)
_NORMS = (
    "NativeBatchNorm",
    "CudnnBatchNorm",
    "MiopenBatchNorm",
    "NativeLayerNorm",
    "NativeGroupNorm",
)
_AFFINE = ("Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "Linear", "Mkldnn")
_UNITS = {
    "Relu": ("relu", None),
    "LeakyRelu": ("leaky_relu", "_saved_negative_slope"),
    "Tanh": ("tanh", None),
    "Sigmoid": ("sigmoid", None),
    "Gelu": ("gelu", None),
    "Silu": ("silu", None),
    "Elu": ("elu", "_saved_alpha"),
    "Softplus": ("softplus", "_saved_beta"),
}


@final
@dataclass(frozen=True, kw_only=True)
class Place:
    """One layer and its surroundings.

    Attributes:
        name: The layer's name; ``"(top)"`` for the model itself.
        module: The layer.
        fans: Its fan-in and fan-out.
        in_front: What it gets, in words.
        constant: ``c`` of what it gets, dropout included.
        unit: The activation in front; the identity for data and sums, ``None`` where it
            is not known.
        normalised: Whether a norm layer takes its output: its scale changes nothing then.
        fixed: Why its weight cannot be drawn anew; empty where it can.
        trouble: Why it cannot be rescaled by itself; empty where it can.
    """

    name: str
    module: nn.Module
    fans: Fans
    in_front: str
    constant: float
    unit: Unit | None
    normalised: bool
    fixed: str
    trouble: str

    @property
    def weight(self) -> Tensor:
        """Its weight as it is now."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def weight_name(self) -> str:
        """The weight's name among the model's parameters."""
        return "weight" if self.name == _TOP else f"{self.name}.weight"

    @property
    def bias_name(self) -> str | None:
        """The bias's name; ``None`` without a bias."""
        if getattr(self.module, "bias", None) is None:
            return None
        return "bias" if self.name == _TOP else f"{self.name}.bias"

    @property
    def pinned(self) -> bool:
        """Whether it has a bias that may not move with the scale of what it gets."""
        bias = getattr(self.module, "bias", None)
        weight = self.module._parameters.get("weight")
        frozen = weight is not None and not weight.requires_grad
        return isinstance(bias, Tensor) and (frozen or not bias.requires_grad)


@dataclass
class _Seen:
    """What the hooks of one forward pass saw; tensors keep their graph alive."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    calls: dict[str, int]
    dropouts: list[tuple[Any, float]]


def find_places(problem: Problem) -> list[Place]:
    """Return the layers in the order in which the first batch meets them.

    Layers that the data do not reach come last.
    """
    layers = {
        name or _TOP: layer for name, layer in weight_layers(problem.model).items()
    }
    batch = next(iter(problem.batches()))
    problem.refresh()
    _, parameters = problem.leaves()
    leaves = {
        name: p.detach().requires_grad_() if p.is_floating_point() else p
        for name, p in parameters.items()
    }
    with (
        problem.network.running(),
        torch.enable_grad(),
        _watching(problem.model, layers) as seen,
    ):
        outputs = problem.outputs(batch.part(0, 2), leaves)
    normed = _feeding_norms(outputs.grad_fn)
    order = [*seen.inputs, *(name for name in layers if name not in seen.inputs)]
    shared = _shared(problem.model)
    return [_place(name, layers[name], seen, normed, shared) for name in order]


@contextmanager
def _watching(model: nn.Module, layers: dict[str, nn.Module]) -> Iterator[_Seen]:
    seen = _Seen({}, {}, {}, [])

    def layer_hook(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            seen.calls[name] = seen.calls.get(name, 0) + 1
            if args and isinstance(args[0], Tensor):
                seen.inputs.setdefault(name, args[0])
            if isinstance(output, Tensor):
                seen.outputs.setdefault(name, output)

        return hook

    def dropout_hook(module: Any, args: tuple[Any, ...], _: Any) -> None:
        if args and isinstance(args[0], Tensor):
            seen.dropouts.append((args[0].grad_fn, float(module.p)))

    handles = []
    try:
        for name, layer in layers.items():
            handles.append(layer.register_forward_hook(layer_hook(name)))
        handles += [
            module.register_forward_hook(dropout_hook)
            for module in model.modules()
            if isinstance(module, _DROPOUT)
        ]
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _place(
    name: str,
    layer: nn.Module,
    seen: _Seen,
    normed: list[Any],
    shared: frozenset[int],
) -> Place:
    words, phi, constant = "nothing: the data do not reach it", None, 1.0
    if name in seen.inputs:
        words, phi, constant = _in_front(seen.inputs[name].grad_fn, seen.dropouts)
    own = getattr(seen.outputs.get(name), "grad_fn", None)
    normalised = own is not None and any(own is node for node in normed)
    fixed = _fixed(layer, shared, reached=name in seen.inputs)
    trouble = fixed
    if not fixed and seen.calls[name] > 1:
        trouble = "left: used more than once"
    elif not fixed and normalised:
        trouble = (
            "left: a norm layer takes its output, so that its scale changes nothing"
        )
    return Place(
        name=name,
        module=layer,
        fans=fans(layer),
        in_front=words,
        constant=constant,
        unit=phi,
        normalised=normalised,
        fixed=fixed,
        trouble=trouble,
    )


def _fixed(layer: nn.Module, shared: frozenset[int], *, reached: bool) -> str:
    weight = layer._parameters.get("weight")
    if weight is None:
        return "left: its weight is computed (a parametrization)"
    if not weight.requires_grad:
        return "left: frozen"
    if id(weight) in shared:
        return "left: its weight is tied to another layer's"
    return "" if reached else "left: the data do not reach it"


def _in_front(
    node: Any, dropouts: list[tuple[Any, float]]
) -> tuple[str, Unit | None, float]:
    """Walk back from a layer's input to what made it; words, activation, constant."""
    factor, passed = 1.0, ""
    while True:
        for place, p in dropouts:
            if place is node and p < 1.0:
                factor *= dropout_constant(1.0 - p)
                passed = f" through dropout of {p:g}"
        if node is None:
            return f"the data{passed}", unit("identity"), factor
        name = node.name()
        if not name.startswith(_PASSES):
            break
        if name.startswith(("AvgPool", "AdaptiveAvgPool", "Mean", "MkldnnAdaptive")):
            passed = f"{passed} and an average"
        node = node.next_functions[0][0]
    for prefix, (known, parameter) in _UNITS.items():
        if name.startswith(prefix):
            value = None if parameter is None else float(getattr(node, parameter))
            phi = unit(known, parameter=value)
            return f"{known}{passed}", phi, factor * unit_constant(phi)
    if name.startswith("AccumulateGrad"):
        return f"a parameter{passed}", None, factor
    if name.startswith(_NORMS):
        return f"a norm layer{passed}", None, factor
    if name.startswith("Add"):
        return f"a sum of branches{passed}", None, factor
    if name.startswith(_AFFINE):
        return f"a linear map{passed}", unit("identity"), factor
    return f"something unknown ({name}){passed}", None, factor


def _feeding_norms(root: Any) -> list[Any]:
    """Return the nodes whose outputs go straight into a norm layer."""
    found: list[Any] = []
    met: set[Any] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node is None or node in met:
            continue
        met.add(node)
        if node.name().startswith(_NORMS):
            source = node.next_functions[0][0]
            found.append(source)
            while source is not None and source.name().startswith(_PASSES):
                source = source.next_functions[0][0]
                found.append(source)
        waiting += [following for following, _ in node.next_functions]
    return found


def _shared(model: nn.Module) -> frozenset[int]:
    counts: dict[int, int] = {}
    for _, p in model.named_parameters(remove_duplicate=False):
        counts[id(p)] = counts.get(id(p), 0) + 1
    return frozenset(key for key, count in counts.items() if count > 1)


def recommended_std(place: Place) -> float:
    """Return the standard deviation that the Hessian's variance law gives a layer."""
    variance = hessian_variance(*place.fans, constant=place.constant)
    return math.sqrt(variance)


def draw_recommended(places: Sequence[Place], *, generator: torch.Generator) -> None:
    """Draw layers' weights by the formula, and zero their biases."""
    for place in places:
        scheme = ("normal", recommended_std(place))
        draw_place(place, scheme, generator=generator)


@torch.no_grad()
def draw_place(place: Place, scheme: Scheme, *, generator: torch.Generator) -> None:
    """Draw one layer's weights, and zero its bias unless that is frozen."""
    bias = place.module.bias
    frozen = isinstance(bias, Tensor) and not bias.requires_grad
    before = bias.detach().clone() if isinstance(bias, Tensor) and frozen else None
    draw_(place.module, scheme, bias_std=0.0, generator=generator)
    if isinstance(bias, Tensor) and before is not None:
        bias.copy_(before)
