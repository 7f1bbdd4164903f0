r"""Where parameters enter a network linearly, found while it runs.

A linear map, a convolution and the affine part of a normalisation are one form,

.. math:: u_{n g a p} = \sum_j W_{g a j} \, x_{n g j p} + b_{g a}

with n the sample, g the group, a the group's outputs, j its inputs, p the position. A
zero is added to u; the derivatives by that zero are those by u, exactly.

Shape suffixes: N samples, G groups, A outputs of a group, D inputs of a group, T
positions, K columns.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

# From a stack (K, *u.shape) to (K, N, G, A, T), given N.
Arrangement = Callable[[Tensor, int], Tensor]
# The inputs as (N, G, D, T), given N; made when they are asked for.
Inputs = Callable[[int], Tensor]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Site:
    """One call in which a layer's parameters enter linearly.

    Attributes:
        kind: ``"linear"``, ``"convolution"`` or ``"norm"``.
        weight_name: The weight's name, ``None`` where it is not selected.
        bias_name: The bias's, likewise.
        groups: G.
        outputs: A.
        width: D, of the weight alone.
        zero: What was added to u.
        result: u itself, with the zero.
        source: What went in, to see that nobody overwrote it.
        version: The source's, at the call.
        inputs: Gives x.
        arrange: Sorts derivatives by u.
    """

    kind: str
    weight_name: str | None
    bias_name: str | None
    groups: int
    outputs: int
    width: int
    zero: Tensor
    source: Tensor
    version: int
    inputs: Inputs
    arrange: Arrangement

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that enter here."""
        return tuple(n for n in (self.weight_name, self.bias_name) if n is not None)

    @property
    def overwritten(self) -> bool:
        """Whether the input was changed in place after the call."""
        return self.source._version != self.version

    def positions(self, num_samples: int) -> int:
        """Return T."""
        return self.zero.numel() // (num_samples * self.groups * self.outputs)

    def vectors(self, num_units: int) -> Tensor:
        """Return x, and 1 where there is a bias, of a site used once: ``(U, D~)``."""
        parts = []
        if self.weight_name is not None:
            parts.append(self.inputs(num_units)[:, 0, :, 0])
        if self.bias_name is not None:
            parts.append(self.zero.new_ones(num_units, 1))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def total(self, cotangents: Tensor, inputs: Tensor) -> Tensor:
        """Return the sum over samples of ``d u' c / d theta``, weight before bias.

        Args:
            cotangents: Shape ``(N, G, A, T)``.
            inputs: Shape ``(N, G, D, T)``.
        """
        pieces = []
        left = cotangents.permute(1, 2, 0, 3).flatten(2)
        if self.weight_name is not None:
            right = inputs.permute(1, 0, 3, 2).flatten(1, 2)
            pieces.append((left @ right).reshape(-1))
        if self.bias_name is not None:
            pieces.append(left.sum(-1).reshape(-1))
        return torch.cat(pieces)

    def rows(self, cotangents: Tensor, inputs: Tensor, names: Sequence[str]) -> Tensor:
        """Return ``d u' c / d theta`` of every sample.

        Args:
            cotangents: Shape ``(N, K, G, A, T)``.
            inputs: Shape ``(N, G, D, T)``.
            names: The parameters, in the order of the columns.

        Returns:
            Shape ``(N, K, P)``.
        """
        n, k, g, a, t = cotangents.shape
        pieces = []
        for name in names:
            if name == self.weight_name:
                left = cotangents.transpose(1, 2).reshape(n * g, k * a, t)
                right = inputs.reshape(n * g, -1, t).transpose(1, 2)
                product = (left @ right).view(n, g, k, a, -1).transpose(1, 2)
                pieces.append(product.reshape(n, k, -1))
            else:
                pieces.append(cotangents.sum(-1).reshape(n, k, -1))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)


@final
class Perturbed(TorchFunctionMode):
    """Adds a zero to the result of every call that some parameters enter linearly.

    It sees the tensors that functions of torch get, so that nothing of the model is
    touched, and a parameter that is used twice, or by another function, shows itself.

    Args:
        leaves: The parameters by name.

    Attributes:
        sites: The calls, in the order of the computation.
        elsewhere: Names of parameters that another function used.
    """

    def __init__(self, leaves: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = {id(leaf): name for name, leaf in leaves.items()}
        self.sites: list[Site] = []
        self.elsewhere: dict[str, str] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function; add a zero where it is one of those above."""
        kwargs = dict(kwargs or {})
        used = [
            self._names[id(leaf)]
            for leaf in tree_leaves((args, kwargs))
            if id(leaf) in self._names
        ]
        output = func(*args, **kwargs)
        if not used or not _differentiable(output):
            return output
        reader = _READERS.get(func)
        parts = None if reader is None else reader(self._names, func, args, kwargs)
        if parts is None or sorted(parts.names) != sorted(used):
            name = getattr(func, "__name__", str(func))
            self.elsewhere.update(dict.fromkeys(used, name))
            return output
        zero = torch.zeros_like(output).requires_grad_()
        self.sites.append(parts.site(zero))
        return output + zero


def _differentiable(output: Any) -> bool:
    """Tell whether a gradient flows through any tensor of a function's result."""
    return any(isinstance(t, Tensor) and t.requires_grad for t in tree_leaves(output))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Parts:
    """What a call says, before its result is known."""

    kind: str
    weight_name: str | None
    bias_name: str | None
    groups: int
    outputs: int
    width: int
    source: Tensor
    inputs: Inputs
    arrange: Arrangement

    @property
    def names(self) -> list[str]:
        return [n for n in (self.weight_name, self.bias_name) if n is not None]

    def site(self, zero: Tensor) -> Site:
        return Site(**vars(self), zero=zero, version=self.source._version)


Names = Mapping[int, str]
Reader = Callable[
    [Names, Callable[..., Any], tuple[Any, ...], dict[str, Any]], _Parts | None
]


def _given(
    order: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    return {**dict(zip(order.split(), args, strict=False)), **kwargs}


def _name(names: Names, tensor: Any) -> str | None:
    return None if tensor is None else names.get(id(tensor))


def _linear(
    names: Names,
    func: Callable[..., Any],  # noqa: ARG001 - one signature for all readers
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> _Parts | None:
    given = _given("input weight bias", args, kwargs)
    x, weight = given["input"].detach(), given["weight"]
    if x.ndim < 2 or id(given["input"]) in names:
        return None
    outputs, width = weight.shape

    def inputs(n: int) -> Tensor:
        rows: Tensor = x.reshape(n, -1, width)
        return rows.transpose(1, 2)[:, None]

    def arrange(stack: Tensor, n: int) -> Tensor:
        return stack.reshape(len(stack), n, -1, outputs).transpose(2, 3)[:, :, None]

    return _Parts(
        kind="linear",
        weight_name=_name(names, weight),
        bias_name=_name(names, given.get("bias")),
        groups=1,
        outputs=outputs,
        width=width,
        source=x,
        inputs=inputs,
        arrange=arrange,
    )


def _convolution(
    names: Names,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> _Parts | None:
    order = "input weight bias stride padding dilation groups"
    given = _given(order, args, kwargs)
    x, weight = given["input"].detach(), given["weight"]
    if id(given["input"]) in names or x.ndim != weight.ndim:
        return None
    kernel = (1, *weight.shape[2:]) if weight.ndim == 3 else tuple(weight.shape[2:])
    groups, outputs = int(given.get("groups", 1)), weight.shape[0]
    one = func is F.conv1d

    def pair(key: str, default: int, filler: int) -> tuple[int, int]:
        value = given.get(key, default)
        values = (value,) if isinstance(value, int) else tuple(value)
        if one:
            return (filler, int(values[-1]))
        return (int(values[0]), int(values[-1]))

    stride, dilation = pair("stride", 1, 1), pair("dilation", 1, 1)
    padding = given.get("padding", 0)
    sides = _sides(padding if isinstance(padding, str) else pair("padding", 0, 0),
                   kernel, dilation)  # fmt: skip
    width = math.prod(weight.shape[1:])

    def inputs(n: int) -> Tensor:
        image = x[:, :, None] if one else x
        patches = F.unfold(
            F.pad(image, sides), kernel, dilation=dilation, stride=stride
        )
        # A batch may hold several images of a sample.
        b, _, t = patches.shape
        patches = patches.view(n, b // n, groups, width, t).permute(0, 2, 3, 1, 4)
        return patches.reshape(n, groups, width, -1)

    def arrange(stack: Tensor, n: int) -> Tensor:
        k, b = stack.shape[:2]
        stack = stack.reshape(k, n, b // n, groups, outputs // groups, -1)
        return stack.permute(0, 1, 3, 4, 2, 5).flatten(4)

    return _Parts(
        kind="convolution",
        weight_name=_name(names, weight),
        bias_name=_name(names, given.get("bias")),
        groups=groups,
        outputs=outputs // groups,
        width=width,
        source=x,
        inputs=inputs,
        arrange=arrange,
    )


def _sides(
    padding: str | tuple[int, int], kernel: tuple[int, ...], dilation: tuple[int, int]
) -> list[int]:
    """Return the padding as `F.pad` takes it: left, right, top, bottom."""
    if padding == "valid":
        padding = (0, 0)
    if not isinstance(padding, str):
        return [padding[1], padding[1], padding[0], padding[0]]
    sides = []
    for size, step in zip(reversed(kernel), reversed(dilation), strict=True):
        total = step * (size - 1)
        sides += [total // 2, total - total // 2]
    return sides


def _batch_norm(
    names: Names,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> _Parts | None:
    if func is F.batch_norm:
        order = "input running_mean running_var weight bias training momentum eps"
    else:
        order = "input weight bias running_mean running_var training momentum eps"
    given = _given(order, args, kwargs)
    if given.get("training", False) or given.get("running_mean") is None:
        return None
    x = given["input"].detach()
    mean, variance = given["running_mean"], given["running_var"]
    scale = (variance + given.get("eps", 1e-5)).rsqrt()
    shape = (-1,) + (1,) * (x.ndim - 2)

    def normalised() -> Tensor:
        centred: Tensor = (x - mean.view(shape)) * scale.view(shape)
        return centred

    return _affine(names, given, x, normalised, channels=x.shape[1])


def _group_norm(
    names: Names,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> _Parts | None:
    order = "input num_groups weight bias eps"
    given = _given(order, args, kwargs)
    x, num, eps = given["input"].detach(), given["num_groups"], given.get("eps", 1e-5)

    def normalised() -> Tensor:
        return func(x, num, None, None, eps)

    return _affine(names, given, x, normalised, channels=x.shape[1])


def _layer_norm(
    names: Names,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> _Parts | None:
    rms = func is F.rms_norm
    order = f"input normalized_shape weight {'' if rms else 'bias '}eps"
    given = _given(order, args, kwargs)
    x, shape = given["input"].detach(), tuple(given["normalized_shape"])
    default = None if rms else 1e-5
    options = (None,) if rms else (None, None)
    eps = given.get("eps", default)

    def normalised() -> Tensor:
        return func(x, shape, *options, eps)

    return _affine(names, given, x, normalised, elements=math.prod(shape))


def _affine(
    names: Names,
    given: Mapping[str, Any],
    x: Tensor,
    normalised: Callable[[], Tensor],
    *,
    channels: int = 0,
    elements: int = 0,
) -> _Parts | None:
    """Return gain and shift: of each channel (dimension 1), or of the last dimensions."""
    if x.ndim < 2 or id(given["input"]) in names:
        return None

    def arrange(stack: Tensor, n: int) -> Tensor:
        if channels:
            k, b = stack.shape[:2]
            split = stack.reshape(k, n, b // n, channels, -1).transpose(2, 3)
            return split.reshape(k, n, channels, 1, -1)
        split = stack.reshape(len(stack), n, -1, elements)
        return split.transpose(2, 3)[:, :, :, None]

    return _Parts(
        kind="norm",
        weight_name=_name(names, given.get("weight")),
        bias_name=_name(names, given.get("bias")),
        groups=channels or elements,
        outputs=1,
        width=1,
        source=x,
        inputs=lambda n: arrange(normalised()[None], n)[0],
        arrange=arrange,
    )


_READERS: dict[Callable[..., Any], Reader] = {
    F.linear: _linear,
    F.conv1d: _convolution,
    F.conv2d: _convolution,
    F.batch_norm: _batch_norm,
    torch.batch_norm: _batch_norm,
    F.group_norm: _group_norm,
    torch.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.rms_norm: _layer_norm,
}
