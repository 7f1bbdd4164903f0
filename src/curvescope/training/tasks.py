"""One network, or many of one shape, as something that takes steps and is measured."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from curvescope._core.checks import describe, message
from curvescope._core.fingerprints import checksum
from curvescope.autodiff.network import call_arguments, extract_output
from curvescope.losses.base import AbstractLoss
from curvescope.training.samples import Samples
from curvescope.training.stacked_mlp import is_plain_mlp, stacked_outputs

_CHUNK = 1024
_FEW = 8  # networks: below it a loop over their losses is quicker than vmap


class Task(ABC):
    """What the loop needs of networks and loss.

    Attributes:
        size: Number of networks.
        stacked: Whether tensors have a first dimension that runs over the networks.
        loss: The loss.
        trained: The tensors that the optimizer changes.
        state: All parameters and buffers by name, as they are now.
    """

    size: int
    stacked: bool
    loss: AbstractLoss
    trained: list[Tensor]
    state: dict[str, Tensor]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Give modes and gradients back as they were; put the weights into the models."""
        modules = [(m, m.training) for model in self.models() for m in model.modules()]
        grads = [(p, p.grad) for model in self.models() for p in model.parameters()]
        for parameter, _ in grads:
            parameter.grad = None
        try:
            yield
        finally:
            self.release()
            for module, training in modules:
                module.training = training
            for parameter, grad in grads:
                parameter.grad = grad

    @abstractmethod
    def models(self) -> Sequence[nn.Module]:
        """Return the user's networks."""

    @abstractmethod
    def release(self) -> None:
        """Put the present weights and buffers into the user's networks."""

    @abstractmethod
    def set_mode(self, *, train: bool) -> None:
        """Choose between train and eval mode."""

    @abstractmethod
    def outputs(self, inputs: Any, *, each: bool) -> Tensor:
        """Return outputs ``(R, B, ...)``; ``each`` if every network has own inputs."""

    def totals(self, outputs: Tensor, targets: Tensor, *, each: bool) -> Tensor:
        """Return the summed losses ``(R,)``."""
        if self.size <= _FEW:
            own = targets if each else [targets] * self.size
            parts = [self.loss.total(f, y) for f, y in zip(outputs, own, strict=True)]
            return torch.stack(parts)
        totals: Tensor = vmap(self.loss.total, in_dims=(0, 0 if each else None))(
            outputs, targets
        )
        return totals

    def denominators(self, outputs: Tensor, targets: Tensor, *, each: bool) -> Tensor:
        """Return what a mean divides by, ``(R,)`` in float64 on the CPU; 1 for a sum."""
        if self.loss.reduction == "sum":
            return torch.ones(self.size, dtype=torch.float64)
        if not each:
            value = self.loss.denominator(outputs[0].detach(), targets)
            return torch.full((self.size,), value, dtype=torch.float64)
        values = [
            self.loss.denominator(outputs[r].detach(), targets[r])
            for r in range(self.size)
        ]
        return torch.tensor(values, dtype=torch.float64)

    def gradients(
        self,
        inputs: Any,
        targets: Tensor,
        *,
        each: bool,
        denominators: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Set the gradients of each network's objective on one batch.

        Args:
            inputs: The batch.
            targets: The batch.
            each: Whether every network has its own batch.
            denominators: What a mean divides by, where it is known.

        Returns:
            The summed losses before the update, and what a mean divides by.
        """
        outputs = self.outputs(inputs, each=each)
        totals = self.totals(outputs, targets, each=each)
        if denominators is None:
            denominators = self.denominators(outputs, targets, each=each)
        objective = (totals / denominators.to(totals)).sum()
        found = torch.autograd.grad(objective, self.trained, allow_unused=True)
        for parameter, gradient in zip(self.trained, found, strict=True):
            # The fused optimizers read memory as the parameter's layout has it.
            if gradient is not None and gradient.stride() != parameter.stride():
                gradient = torch.empty_like(parameter).copy_(gradient)
            parameter.grad = gradient
        return totals.detach(), denominators

    @torch.no_grad()
    def measure(
        self, samples: Samples, batch_size: int
    ) -> tuple[Tensor, Tensor | None]:
        """Return objectives and accuracies ``(R,)`` of all samples, in eval mode."""
        self.set_mode(train=False)
        total = torch.zeros(self.size, dtype=torch.float64)
        denominator = torch.zeros(self.size, dtype=torch.float64)
        right = torch.zeros(self.size, dtype=torch.float64)
        counted = torch.zeros(self.size, dtype=torch.float64)
        size = max(batch_size, _CHUNK)
        for start in range(0, samples.num_samples, size):
            inputs, targets = samples.take(slice(start, start + size))
            outputs = self.outputs(inputs, each=samples.each)
            total += self.totals(outputs, targets, each=samples.each).cpu()
            denominator += self.denominators(outputs, targets, each=samples.each)
            for r in range(self.size):
                own = targets[r] if samples.each else targets
                found = self.loss.correct(outputs[r], own)
                if found is not None:
                    right[r] += found[0]
                    counted[r] += found[1]
        if self.loss.reduction == "sum":
            denominator.fill_(1.0)
        return total / denominator, right / counted if bool(counted.all()) else None

    def fingerprint(self) -> str:
        """Return a hash of weights and buffers."""
        return checksum(self.state.values())


@final
class SingleTask(Task):
    """One network, trained where it is."""

    def __init__(self, model: nn.Module, loss: AbstractLoss) -> None:
        self.size, self.stacked = 1, False
        self.loss = loss
        self._model = model
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.state = {**dict(model.named_parameters()), **dict(model.named_buffers())}

    def models(self) -> Sequence[nn.Module]:
        """Return the network."""
        return (self._model,)

    def release(self) -> None:
        """Do nothing: the network itself is trained."""

    def set_mode(self, *, train: bool) -> None:
        """Choose between train and eval mode."""
        self._model.train(train)

    def outputs(self, inputs: Any, *, each: bool) -> Tensor:
        """Return outputs ``(1, B, ...)``; inputs of ``each`` have a first dimension 1."""
        del each  # a single network's samples have no dimension of networks
        args, kwargs = call_arguments(inputs)
        return extract_output(self._model(*args, **kwargs))[None]


@final
class StackedTask(Task):
    """Networks of one shape as one, by a first dimension of every tensor."""

    def __init__(self, models: Sequence[nn.Module], loss: AbstractLoss) -> None:
        _require_one_shape(models)
        self.size, self.stacked = len(models), True
        self.loss = loss
        self._models = tuple(models)
        self._base = models[0]
        self._parameters, self._buffers = stack_module_state(list(models))
        self.trained = [p for p in self._parameters.values() if p.requires_grad]
        self.state = {**self._parameters, **self._buffers}
        self._plain = all(is_plain_mlp(model) for model in models)

    def models(self) -> Sequence[nn.Module]:
        """Return the networks."""
        return self._models

    @torch.no_grad()
    def release(self) -> None:
        """Put the present weights and buffers into the user's networks."""
        for index, model in enumerate(self._models):
            own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
            for name, tensor in self.state.items():
                own[name].copy_(tensor[index])

    def set_mode(self, *, train: bool) -> None:
        """Choose between train and eval mode."""
        self._base.train(train)

    def outputs(self, inputs: Any, *, each: bool) -> Tensor:
        """Return outputs ``(R, B, ...)``."""
        if self._plain and isinstance(inputs, Tensor):
            return stacked_outputs(
                self._base, self._parameters, inputs, size=self.size, each=each
            )

        def one(parameters: Any, buffers: Any, own: Any) -> Tensor:
            args, kwargs = call_arguments(own)
            state = (parameters, buffers)
            return extract_output(functional_call(self._base, state, args, kwargs))

        outputs: Tensor = vmap(one, in_dims=(0, 0, 0 if each else None))(
            self._parameters, self._buffers, inputs
        )
        return outputs


def _require_one_shape(models: Sequence[nn.Module]) -> None:
    def shape(model: nn.Module) -> tuple[Any, ...]:
        return (
            type(model),
            tuple((n, p.shape, p.requires_grad) for n, p in model.named_parameters()),
            tuple((n, b.shape, b.dtype) for n, b in model.named_buffers()),
        )

    for index, model in enumerate(models):
        if not isinstance(model, nn.Module):
            text = message("models", "be torch.nn.Module objects", describe(model))
            raise TypeError(text)
        if shape(model) != shape(models[0]):
            remedy = "Train widths and depths one call each."
            got = f"another at index {index}"
            raise ValueError(message("models", "have one shape", got, remedy))
    if len({id(p) for m in models for p in m.parameters()}) != sum(
        len(list(m.parameters())) for m in models
    ):
        text = message("models", "be different objects", "one that stands twice")
        raise ValueError(text)
    for module in models[0].modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            remedy = "Train such networks one by one with `train`."
            text = message("models", "draw nothing at random", "dropout", remedy)
            raise ValueError(text)
