"""A problem seen as a feed-forward net in float64: weights, activations, samples.

Shape suffixes, here and in the rest of the room: N samples, D inputs, K outputs, P
parameters; layer l maps width ``widths[l]`` to ``widths[l + 1]``, counted from 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from curvescope.exact.activations import IDENTITY, Activation, activation_of
from curvescope.problem import Problem

_DROPOUT = (nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout)


@final
@dataclass(frozen=True, kw_only=True)
class Layer:
    """One affine map; names are those of the model's parameters."""

    name: str
    weight_name: str
    bias_name: str | None
    weight: Tensor
    bias: Tensor | None

    @property
    def num_params(self) -> int:
        """Entries of weight and bias."""
        return self.weight.numel() + (0 if self.bias is None else self.bias.numel())


@final
@dataclass(frozen=True, kw_only=True)
class Samples:
    """Some samples at the present weights, float64, where the problem computes.

    Attributes:
        inputs: ``(n, D)``.
        outputs: ``(n, K)``.
        targets: As the loss takes them.
        gradients: Of the loss SUM by the outputs, ``(n, K)``.
    """

    inputs: Tensor
    outputs: Tensor
    targets: Any
    gradients: Tensor

    def __len__(self) -> int:
        return len(self.inputs)


@final
@dataclass(frozen=True, kw_only=True)
class InputMap:
    """New coordinates of the inputs, ``(x - shift) @ matrix``."""

    shift: Tensor
    matrix: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """``f(x) = W_L s_{L-1}( ... s_1(W_1 x + b_1) ... ) + b_L`` with its data.

    All of the model's parameters are here, in the order of the model; which of them the
    problem selects is `problem`'s business (`selected`).

    Attributes:
        problem: The problem, in float64.
        layers: The affine maps, first to last.
        activations: Between them: one less than layers.
        input_maps: What the problem's inputs go through before the first layer.
    """

    problem: Problem
    layers: tuple[Layer, ...]
    activations: tuple[Activation, ...]
    input_maps: tuple[InputMap, ...] = ()

    @property
    def widths(self) -> tuple[int, ...]:
        """``(D, hidden widths ..., K)``."""
        first = self.layers[0].weight.shape[1]
        return (first, *(layer.weight.shape[0] for layer in self.layers))

    @property
    def is_linear(self) -> bool:
        """Whether every activation is the identity."""
        return all(activation.linear for activation in self.activations)

    @property
    def has_bias(self) -> bool:
        """Whether every layer has a bias."""
        return all(layer.bias is not None for layer in self.layers)

    @property
    def num_params(self) -> int:
        """Parameters of all layers, selected or not."""
        return sum(layer.num_params for layer in self.layers)

    def samples(self, *, most: int) -> Iterator[Samples]:
        """Yield all samples, at most ``most`` at a time."""
        loss = self.problem.loss
        for batch in self.problem.batches():
            for start in range(0, batch.num_samples, most):
                part = batch.part(start, start + most)
                inputs = part.inputs.detach().flatten(1)
                for change in self.input_maps:
                    inputs = (inputs - change.shift) @ change.matrix
                with torch.no_grad():
                    outputs = self.forward(inputs)[-1]
                with torch.enable_grad():
                    leaf = outputs.detach().requires_grad_()
                    (gradients,) = torch.autograd.grad(
                        loss.total(leaf, part.targets),
                        leaf,
                        allow_unused=True,
                        materialize_grads=True,
                    )
                yield Samples(
                    inputs=inputs,
                    outputs=outputs,
                    targets=part.targets,
                    gradients=gradients,
                )

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """Return the pre-activations ``z_1, ..., z_L``; the last are the outputs."""
        between = (*self.activations, IDENTITY)
        pre, hidden = [], inputs
        for layer, activation in zip(self.layers, between, strict=True):
            z = hidden @ layer.weight.T
            pre.append(z if layer.bias is None else z + layer.bias)
            hidden = activation.value(pre[-1])
        return pre

    def output_hessians(self, samples: Samples) -> Tensor:
        """Return the loss sum's Hessian by the outputs of every sample, ``(n, K, K)``."""
        product = self.problem.loss.output_hessian(samples.outputs, samples.targets)
        n, k = samples.outputs.shape
        unit = torch.eye(k).to(samples.outputs)[:, None, :].expand(k, n, k)
        return product(unit.contiguous()).transpose(0, 1)

    def output_factors(self, samples: Samples) -> Tensor | None:
        """Return R ``(n, K', K)`` with ``R' R`` the output Hessian; ``None`` if indefinite."""
        factor = self.problem.loss.output_factor(samples.outputs, samples.targets)
        if factor is not None:
            return factor
        return semidefinite_factor(self.output_hessians(samples))


def semidefinite_factor(matrices: Tensor) -> Tensor | None:
    """Return R with ``R' R`` each of the matrices ``(n, K, K)``; ``None`` if indefinite."""
    values, vectors = torch.linalg.eigh(matrices)
    floor = -values.shape[-1] * torch.finfo(torch.float64).eps
    if bool((values < floor * values.abs().amax(-1, keepdim=True)).any()):
        return None
    # An eigenvalue of zero comes out as rounding, whose root would count as a rank.
    noise = -floor * values.amax(-1, keepdim=True)
    values = torch.where(values > noise, values, 0.0)
    factor: Tensor = values.sqrt()[:, :, None] * vectors.transpose(1, 2)
    return factor


def feed_forward(problem: Problem) -> FeedForward | None:
    """Return the problem as a feed-forward net; ``None`` where the model is none.

    It is one if it is an ``nn.Sequential`` (nested ones count) of ``nn.Linear``,
    elementwise activations, ``Flatten`` and inactive ``Dropout``, each parameter used
    once, nothing hooked or parametrized, with outputs ``(N, K)``. The outputs of the
    first batch are compared with the model's own.

    Args:
        problem: Model, loss and data; promoted to float64.

    Returns:
        The net with float64 weights, or ``None``.
    """
    problem = problem.promoted()
    modules = _chain(problem.model)
    if modules is None:
        return None
    problem.refresh()
    _, parameters = problem.leaves()
    layers: list[Layer] = []
    activations: list[Activation] = []
    # The first name of a tied parameter, so that it is seen to be used twice.
    names = {id(p): n for n, p in problem.model.named_parameters()}
    paths = {id(module): name for name, module in problem.model.named_modules()}
    for module in modules:
        if type(module) is nn.Linear:
            if len(layers) > len(activations):
                activations.append(IDENTITY)
            layers.append(_layer(module, paths[id(module)], names, parameters))
            continue
        activation = activation_of(module)
        if activation is None or len(layers) != len(activations) + 1:
            return None  # before the first layer, or two in a row
        activations.append(activation)
    used = [n for layer in layers for n in (layer.weight_name, layer.bias_name) if n]
    if not layers or len(activations) != len(layers) - 1:
        return None
    if sorted(used) != sorted(parameters) or len(set(map(id, modules))) != len(modules):
        return None  # a parameter is shared, or lies elsewhere
    net = FeedForward(
        problem=problem, layers=tuple(layers), activations=tuple(activations)
    )
    return net if _same_outputs(net, parameters) else None


def _chain(model: nn.Module) -> list[nn.Module] | None:
    """Return the modules in the order of the computation, without those that do nothing."""
    if any(
        module._forward_hooks or module._forward_pre_hooks for module in model.modules()
    ):
        return None
    if type(model) is not nn.Sequential:
        return [model] if type(model) is nn.Linear else None
    found: list[nn.Module] = []
    for module in model:
        if type(module) in _DROPOUT or _flattens(module):
            continue
        inner = _chain(module) if type(module) is nn.Sequential else [module]
        if inner is None:
            return None
        found += inner
    # The identity is an activation only where nothing else stands between two layers.
    return [module for module in found if type(module) is not nn.Identity]


def _flattens(module: nn.Module) -> bool:
    return type(module) is nn.Flatten and module.start_dim == 1 and module.end_dim == -1


def _layer(
    module: nn.Linear, path: str, names: dict[int, str], parameters: dict[str, Tensor]
) -> Layer:
    def value(parameter: Tensor) -> Tensor:
        return parameters[names[id(parameter)]].detach()

    bias = module.bias
    return Layer(
        name=path or "linear",
        weight_name=names[id(module.weight)],
        bias_name=None if bias is None else names[id(bias)],
        weight=value(module.weight),
        bias=None if bias is None else value(bias),
    )


def _same_outputs(net: FeedForward, parameters: dict[str, Tensor]) -> bool:
    """Compare with the model's own forward pass, on a few samples."""
    batch = next(iter(net.problem.batches())).part(0, 8)
    if not isinstance(batch.inputs, Tensor) or batch.inputs.ndim < 2:
        return False
    if batch.inputs.flatten(1).shape[1] != net.widths[0]:
        return False  # the first layer maps the last of several dimensions
    with net.problem.network.running(), torch.no_grad():
        own = net.problem.outputs(batch, parameters)
    with torch.no_grad():
        ours = net.forward(batch.inputs.flatten(1))[-1]
    return own.shape == ours.shape and torch.allclose(own, ours, rtol=1e-10, atol=1e-10)
