"""What a loss must tell: the SUM over a batch and its own DENOMINATOR.

The objective is ``sum of losses / sum of denominators`` over the whole data, whatever
the batches are. That is why a loss here never returns a batch mean. This room knows
outputs and targets; it knows neither models nor parameters.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from curvescope._core.checks import describe, message
from curvescope._core.fingerprints import checksum, combine
from curvescope._core.nodes import nodes, once_differentiable

Reduction = Literal["mean", "sum"]
Product = Callable[[Tensor], Tensor]
REDUCTIONS = ("mean", "sum")
# To a point nearby, relative to the outputs.
_STEP = 1e-4


class AbstractLoss(ABC):
    """A loss that is a sum of terms, and the number that a mean divides it by.

    Attributes:
        name: For reports.
        reduction: ``"mean"`` or ``"sum"``: the unit of the curvature matrices.
    """

    name: str
    reduction: Reduction
    linear_in_outputs: ClassVar[bool] = False  # then the GGN vanishes
    convex_in_outputs: ClassVar[bool] = False  # then the GGN has no negative eigenvalue

    @abstractmethod
    def total(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return the sum of the loss over the batch, differentiable in ``outputs``."""

    @abstractmethod
    def denominator(self, outputs: Tensor, targets: Any) -> float:
        """Return the batch's share of what a mean divides by."""

    @abstractmethod
    def check(self, outputs: Tensor, targets: Any) -> None:
        """Raise ``ValueError`` or ``TypeError`` where outputs and targets do not fit."""

    @abstractmethod
    def correct(self, outputs: Tensor, targets: Any) -> tuple[int, int] | None:
        """Return (right predictions, predictions) of a classifier, else ``None``."""

    @abstractmethod
    def agreeing(
        self, outputs: Tensor, others: Tensor, targets: Any
    ) -> tuple[int, int] | None:
        """Return (predictions in which two outputs agree, predictions), else ``None``.

        Positions that have no target count in neither.
        """

    @abstractmethod
    def output_hessian(self, outputs: Tensor, targets: Any) -> Product:
        """Return the product with the Hessian of `total` with respect to the outputs.

        The function takes and returns stacks of shape ``(k, *outputs.shape)``.
        """

    @abstractmethod
    def output_factor(self, outputs: Tensor, targets: Any) -> Tensor | None:
        """Return R of shape ``(N, K', K)`` with ``R_n' R_n`` the output Hessian of sample n.

        Taken from the formula, not from the matrix: a factor keeps the digits that a
        square loses. ``None`` where no such formula is known; outputs are ``(N, K)``.
        """

    @abstractmethod
    def sampled_gradients(
        self, outputs: Tensor, targets: Any, *, num: int, generator: torch.Generator
    ) -> Tensor:
        """Return gradients by the outputs with labels drawn from the model.

        Shape ``(num, *outputs.shape)``; for the exponential families (cross-entropy,
        squared error, binary cross-entropy) the mean of their outer products is the
        output Hessian.

        Raises:
            TypeError: If the loss is no negative log-likelihood.
        """


def fingerprint(loss: AbstractLoss) -> str:
    """Return a hash of all that the loss depends on: options, weights, code."""
    parts = [type(loss).__qualname__]
    for key, value in sorted(vars(loss).items()):
        if not key.startswith("_"):
            parts += [key, _identity(value)]
    return combine(*parts)


def _identity(value: Any) -> str:
    if isinstance(value, Tensor):
        return checksum([value])
    if isinstance(value, nn.Module):
        # Options such as Huber's delta are plain attributes that no text shows.
        plain = (bool, int, float, str, tuple)
        options = [
            (key, option)
            for module in value.modules()
            for key, option in sorted(vars(module).items())
            if isinstance(option, plain) and key != "training"
        ]
        return combine(repr(value), options, checksum(value.state_dict().values()))
    code = getattr(value, "__code__", None)
    if code is not None:
        constants = [c for c in code.co_consts if isinstance(c, (int, float, str))]
        return combine(value.__qualname__, code.co_code, code.co_names, constants)
    return type(value).__qualname__ if callable(value) else repr(value)


def autodiff_output_hessian(
    loss: AbstractLoss, outputs: Tensor, targets: Any
) -> Product:
    """Return the output Hessian's product by double backward through the loss alone."""
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(
            loss.total(leaf, targets), leaf, create_graph=True
        )

    def product(U: Tensor) -> Tensor:
        if not gradient.requires_grad:  # the loss is linear in the outputs
            return torch.zeros_like(U)
        columns = [
            torch.autograd.grad(
                gradient, leaf, u, retain_graph=True, materialize_grads=True
            )[0]
            for u in U
        ]
        return torch.stack(columns)

    return product


def check_second_derivative(loss: AbstractLoss, outputs: Tensor, targets: Any) -> None:
    """Refuse a loss whose own autograd functions hide its second derivative.

    A backward pass that is not differentiable itself (`once_differentiable`, or numbers
    that left torch) gives a gradient that looks constant, or as if it changed less than
    it does: its part of the second derivative would silently be zero. Whether it is, a
    step to a point nearby shows. Where a function has kinks, a few entries may differ.

    Raises:
        ValueError: If the gradient changes otherwise than its derivative says.
    """
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_()
        value = loss.total(leaf, targets)
        if not any(isinstance(n, BackwardCFunction) for n in nodes((value,))):
            return
        (gradient,) = torch.autograd.grad(
            value, leaf, create_graph=True, materialize_grads=True
        )
        step = _STEP * (leaf.detach() + leaf.detach().abs().max())
        said = torch.zeros_like(leaf)
        if gradient.requires_grad and not once_differentiable((gradient,)):
            (said,) = torch.autograd.grad(
                gradient, leaf, step, retain_graph=True, materialize_grads=True
            )
        moved = (leaf.detach() + step).requires_grad_()
        (other,) = torch.autograd.grad(
            loss.total(moved, targets), moved, materialize_grads=True
        )
    gradient = gradient.detach()
    seen, read = other - gradient, (gradient != 0.0) | (other != 0.0)
    rounding = 10.0 * torch.finfo(leaf.dtype).eps * gradient.abs()
    off = (seen - said).abs() > 0.1 * seen.abs() + rounding
    if 2 * int((off & read).sum()) > int(read.sum()):
        got = f'"{loss.name}", with an autograd function whose backward pass is not'
        remedy = "Write its backward pass in functions that torch can differentiate."
        raise ValueError(message("loss", "be twice differentiable", got, remedy))


def no_likelihood(name: str) -> TypeError:
    """Return the error of a loss that has no distribution to draw labels from."""
    remedy = 'Use "cross_entropy", "mse", "bce_with_logits" or "nll", or `cs.GGN`.'
    return TypeError(
        message("loss", "be a negative log-likelihood", f'"{name}"', remedy)
    )


def require_same_shape(outputs: Tensor, targets: Any, name: str) -> None:
    """Refuse targets that would be broadcast, or that are not floating point."""
    if not isinstance(targets, Tensor):
        raise TypeError(
            message("targets", f"be a tensor for {name}", describe(targets))
        )
    if outputs.shape != targets.shape:
        contract = f"have the outputs' shape {tuple(outputs.shape)} for {name}"
        remedy = "Reshape or one-hot encode them; nothing is broadcast."
        raise ValueError(message("targets", contract, tuple(targets.shape), remedy))
    if not targets.is_floating_point():
        remedy = "Convert the targets with `.float()`."
        raise TypeError(
            message("targets", f"be floating point for {name}", targets.dtype, remedy)
        )
