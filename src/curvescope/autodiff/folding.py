"""A model run in a form that is cheaper to differentiate twice, and equal.

Frozen BatchNorm is folded into the convolution before it, and convolutions, layer norms
and rectifiers have second derivatives of their own (`curvescope.autodiff.convolution`,
`curvescope.autodiff.normalisation`, `curvescope.autodiff.rectification`).

In eval mode BatchNorm is an affine map of each channel. Multiplying the convolution's
weight by its scale, as a function of the raw parameters, keeps every derivative exact
and saves an elementwise layer in each of the passes that a product makes.

A convolution's output is not computed when the model asks for it but when somebody
uses it: if that is a frozen BatchNorm, both become one convolution.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_any, tree_map

from curvescope.autodiff.convolution import Convolution, ConvSettings
from curvescope.autodiff.normalisation import layer_norm
from curvescope.autodiff.rectification import Rectification

_BATCH_NORMS = (F.batch_norm, torch.batch_norm)
_LAYER_NORMS = (F.layer_norm, torch.layer_norm)
_RELUS = (F.relu, torch.relu, Tensor.relu, torch.relu_, Tensor.relu_)
_IN_PLACE = (torch.relu_, Tensor.relu_)
# What a placeholder answers rightly without being computed.
_SHAPE_QUERIES = frozenset(
    {
        Tensor.size,
        Tensor.dim,
        Tensor.ndimension,
        Tensor.__len__,
        *(
            vars(torch._C.TensorBase)[name].__get__
            for name in ("shape", "ndim", "dtype", "device", "layout")
        ),
        Tensor.is_floating_point,
    }
)


class _Placeholder(torch.autograd.Function):
    """A tensor in a convolution's stead, which must be neither read nor differentiated.

    A custom function or a scripted module gets it unseen. Then its value shows in the
    outputs (NaN), or the backward pass comes here: both are noticed.
    """

    @staticmethod
    def forward(ctx: Any, shape: torch.Size, *sources: Tensor) -> Tensor:
        """Return NaN that depends on ``sources``."""
        del ctx
        return sources[0].new_full((), float("nan")).expand(shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        """Raise.

        Raises:
            RuntimeError: Always.
        """
        del ctx, grads
        text = "a deferred convolution was used unseen"
        raise RuntimeError(text)


@dataclass
class _Deferred:
    """A convolution that nobody has needed yet."""

    x: Tensor
    version: int
    weight: Tensor
    bias: Tensor | None
    settings: ConvSettings
    placeholder: Tensor
    value: Tensor | None = field(default=None)


class FoldedEvaluation(TorchFunctionMode):
    """Runs a frozen model with folded BatchNorm, and layers made for second derivatives.

    Args:
        second_order: Whether all of the second derivative will be needed, or only a
            Jacobian: then gradients are constants but for the outputs' gradient.
    """

    def __init__(self, *, second_order: bool) -> None:
        super().__init__()
        self._second_order = second_order
        self._deferred: dict[int, _Deferred] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Defer convolutions, fold them into BatchNorm, compute them for anyone else."""
        kwargs = dict(kwargs or {})
        if func in _SHAPE_QUERIES:
            return func(*args, **kwargs)
        if func in _BATCH_NORMS:
            call = _batch_norm_arguments(func, args, kwargs)
            if call is not None:
                return self._batch_norm(*call)
        if func in _LAYER_NORMS:
            args, kwargs = self.compute((args, kwargs))
            return self._layer_norm(*args, **kwargs)
        if func in _RELUS and torch.is_grad_enabled():
            args, kwargs = self.compute((args, kwargs))
            return _relu(*args, **kwargs, within=func in _IN_PLACE)
        if func is F.conv2d:
            args, kwargs = self.compute((args, kwargs))
            deferred = self._defer(args, dict(kwargs))
            if deferred is not None:
                return deferred
            return func(*args, **kwargs)
        if self._deferred:
            args, kwargs = self.compute((args, kwargs))
        return func(*args, **kwargs)

    def compute(self, tree: Any) -> Any:
        """Replace the placeholders in ``tree`` by their values."""
        if not tree_any(lambda leaf: id(leaf) in self._deferred, tree):
            return tree
        return tree_map(self._value, tree)

    def _value(self, leaf: Any) -> Any:
        deferred = self._deferred.get(id(leaf))
        if deferred is None:
            return leaf
        if deferred.value is None:
            # Deferred only where gradients were recorded, whoever uses it first.
            with torch.enable_grad():
                deferred.value = self._convolve(
                    deferred, deferred.weight, deferred.bias
                )
        return deferred.value

    def _convolve(self, call: _Deferred, weight: Tensor, bias: Tensor | None) -> Tensor:
        if call.x._version != call.version:
            text = "the input of a deferred convolution was overwritten"
            raise RuntimeError(text)
        x, weight, bias = _autocast(call.x, weight, bias)
        weight = weight.contiguous(memory_format=torch.channels_last)
        whole = self._second_order
        output = Convolution.apply(x, weight, call.settings, whole)
        return output if bias is None else output + bias[:, None, None]

    def _defer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        x, weight, padding = given["input"], given["weight"], given.get("padding", 0)
        if isinstance(padding, str) or x.ndim != 4 or not torch.is_grad_enabled():
            return None
        settings = ConvSettings(
            _pair(given.get("stride", 1)),
            _pair(padding),
            _pair(given.get("dilation", 1)),
            int(given.get("groups", 1)),
        )
        shape = torch.ops.aten.conv2d(
            x.detach().to("meta"), weight.detach().to("meta"), None, *settings
        ).shape
        bias = given.get("bias")
        sources = [x, weight] if bias is None else [x, weight, bias]
        placeholder = _Placeholder.apply(shape, *sources)
        x = x.contiguous(memory_format=torch.channels_last)
        call = _Deferred(x, x._version, weight, bias, settings, placeholder)
        self._deferred[id(placeholder)] = call
        return placeholder

    def _batch_norm(
        self,
        x: Tensor,
        mean: Tensor,
        variance: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        scale = (variance + eps).rsqrt()
        scale = scale if weight is None else weight * scale
        shift = -mean * scale if bias is None else bias - mean * scale
        call = self._deferred.get(id(x))
        if call is None or call.value is not None:
            x = self.compute(x)
            shape = (-1,) + (1,) * (x.ndim - 2)
            return x * scale.view(shape) + shift.view(shape)
        if call.bias is not None:
            shift = shift + call.bias * scale
        return self._convolve(call, call.weight * scale[:, None, None, None], shift)

    def _layer_norm(
        self,
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
        cudnn_enable: bool = True,  # noqa: FBT001
    ) -> Tensor:
        del cudnn_enable
        whole = self._second_order
        shape = list(normalized_shape)
        if torch.is_autocast_enabled(input.device.type):  # torch takes float32 here
            input = input.float()
        return layer_norm(input, shape, weight, bias, eps, second_order=whole)


def _autocast(
    x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Cast as autocast would do for a convolution of torch's."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return x, weight, bias
    dtype = torch.get_autocast_dtype(kind)
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _relu(
    input: Tensor,
    inplace: bool = False,  # noqa: FBT001 - as torch has it
    *,
    within: bool,
) -> Tensor:
    return Rectification.apply(input, inplace or within)


def _pair(value: Any) -> tuple[int, int]:
    return (
        (int(value), int(value))
        if isinstance(value, int)
        else (int(value[0]), int(value[-1]))
    )


def _batch_norm_arguments(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, ...] | None:
    """Return (x, mean, variance, weight, bias, eps) of a frozen call, else ``None``."""
    if func is F.batch_norm:
        order = "input running_mean running_var weight bias training momentum eps"
    else:
        order = "input weight bias running_mean running_var training momentum eps"
    names = order.split()
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    frozen = given.get("running_mean") is not None and not given.get("training", False)
    if not frozen:
        return None
    return (
        given["input"],
        given["running_mean"],
        given["running_var"],
        given.get("weight"),
        given.get("bias"),
        given.get("eps", 1e-5),
    )
