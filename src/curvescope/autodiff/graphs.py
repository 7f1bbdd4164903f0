"""The kept graphs of one batch, each multiplied by many vectors.

Building a graph costs one gradient; a product through a kept one costs what the
backward passes imply: 6 forward passes' work for the Hessian, 4 for the GGN, against
3 for a gradient. All sums are over the batch, never means.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from curvescope._core.nodes import nodes
from curvescope.autodiff.columns import pullback
from curvescope.autodiff.lazy import import_before_backward
from curvescope.losses.base import Product


class BatchGraph(ABC):
    """One batch's products; vectors are stacks of shape ``(k, *parameter.shape)``."""

    @abstractmethod
    def multiply(self, tangents: Sequence[Tensor], *, vectorised: bool) -> list[Tensor]:
        """Return the batch's matrix times each of the k vectors."""

    def roots(self) -> tuple[Tensor, ...]:
        """Return where autograd's graph of it begins, if it has one."""
        return ()

    def restricted(self, places: Sequence[int]) -> "BatchGraph | None":
        """Return the block of some of the leaves; ``None`` where there is no shortcut."""
        del places
        return None


class Linearised(Protocol):
    """A batch's outputs with both directions of their Jacobian J."""

    @property
    def outputs(self) -> Tensor:
        """The model's outputs."""
        ...

    def roots(self) -> tuple[Tensor, ...]:
        """Return where autograd's graph of it begins, if it has one."""
        ...

    def jacobian_product(
        self, tangents: Sequence[Tensor], *, vectorised: bool
    ) -> Tensor:
        """Return J v, shape ``(k, *outputs.shape)``."""
        ...

    def adjoint_product(self, U: Tensor, *, vectorised: bool) -> list[Tensor]:
        """Return J' u for stacks of shape ``(k, *outputs.shape)``."""
        ...

    def restricted(self, places: Sequence[int]) -> "Linearised":
        """Return the columns of some of the leaves."""
        ...


class Run(Protocol):
    """A model that ran on a batch, ready to be differentiated."""

    @property
    def outputs(self) -> Tensor:
        """The model's outputs."""
        ...

    def linearised(self) -> Linearised:
        """Return the outputs' Jacobian."""
        ...

    def second_derivative(
        self, function: Callable[[Tensor], Tensor], middle: Callable[[], Product]
    ) -> BatchGraph:
        """Return the Hessian of a scalar function of the outputs.

        Args:
            function: Of the outputs.
            middle: Gives the product with its Hessian by the outputs.
        """
        ...


@final
@dataclass(frozen=True)
class AutogradRun:
    """A model whose outputs have autograd's graph.

    Attributes:
        outputs: With their graph.
        parameters: The leaves.
    """

    outputs: Tensor
    parameters: tuple[Tensor, ...]

    def linearised(self) -> "Linearisation":
        """Build the graph of the outputs' Jacobian."""
        return Linearisation.of(self.outputs, self.parameters)

    def second_derivative(
        self, function: Callable[[Tensor], Tensor], middle: Callable[[], Product]
    ) -> "SecondDerivative":
        """Build the graph of ``function(outputs)``'s gradient."""
        del middle  # differentiating the gradient contains it
        return SecondDerivative.of(function(self.outputs), self.parameters)


@final
@dataclass(frozen=True)
class SecondDerivative(BatchGraph):
    """Hessian of a scalar, by differentiating its kept gradient once more.

    Attributes:
        parameters: The leaves.
        gradients: The scalar's gradient at the leaves, with its graph.
    """

    parameters: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]

    @staticmethod
    def of(scalar: Tensor, parameters: tuple[Tensor, ...]) -> "SecondDerivative":
        """Build the graph of ``scalar``'s gradient."""
        return SecondDerivative(parameters, _gradient(scalar, parameters))

    def multiply(self, tangents: Sequence[Tensor], *, vectorised: bool) -> list[Tensor]:
        """Return ``(d2 scalar / d parameters2) v``; the matrix is symmetric."""
        return pullback(
            self.gradients, self.parameters, tangents, vectorised=vectorised
        )

    def roots(self) -> tuple[Tensor, ...]:
        """Return the gradients."""
        return self.gradients

    def restricted(self, places: Sequence[int]) -> "SecondDerivative":
        """Return the block of some of the leaves; autograd leaves the others out."""
        return SecondDerivative(
            tuple(self.parameters[i] for i in places),
            tuple(self.gradients[i] for i in places),
        )


@final
@dataclass(frozen=True)
class Linearisation:
    """Outputs of a batch with both directions of their Jacobian J kept.

    The gradient of ``u . outputs`` is linear in u, so differentiating it by u gives
    J v: two backward passes and no forward-mode rules, which some layers lack.

    Attributes:
        parameters: The leaves.
        outputs: The model's outputs, with their graph.
        seed: The dummy u.
        gradients: The gradient of ``u . outputs``, with its graph.
    """

    parameters: tuple[Tensor, ...]
    outputs: Tensor
    seed: Tensor
    gradients: tuple[Tensor, ...]

    @staticmethod
    def of(outputs: Tensor, parameters: tuple[Tensor, ...]) -> "Linearisation":
        """Build the graph of the outputs' Jacobian."""
        seed = torch.zeros_like(outputs).requires_grad_()
        return Linearisation(
            parameters, outputs, seed, _gradient((outputs, seed), parameters)
        )

    def jacobian_product(
        self, tangents: Sequence[Tensor], *, vectorised: bool
    ) -> Tensor:
        """Return J v, shape ``(k, *outputs.shape)``."""
        (product,) = pullback(
            self.gradients, (self.seed,), tangents, vectorised=vectorised
        )
        return product

    def adjoint_product(self, U: Tensor, *, vectorised: bool) -> list[Tensor]:
        """Return J' u for stacks of shape ``(k, *outputs.shape)``."""
        return pullback((self.outputs,), self.parameters, (U,), vectorised=vectorised)

    def roots(self) -> tuple[Tensor, ...]:
        """Return the gradients."""
        return self.gradients

    def restricted(self, places: Sequence[int]) -> "Linearisation":
        """Return the columns of some of the leaves."""
        return Linearisation(
            tuple(self.parameters[i] for i in places),
            self.outputs,
            self.seed,
            tuple(self.gradients[i] for i in places),
        )


@final
@dataclass(frozen=True)
class OuterProduct(BatchGraph):
    """``J' C J`` with a matrix C that acts on the outputs.

    Attributes:
        linearisation: J, kept.
        middle: The product with C, on stacks of shape ``(k, *outputs.shape)``.
    """

    linearisation: Linearised
    middle: Product

    def roots(self) -> tuple[Tensor, ...]:
        """Return those of the linearisation."""
        return self.linearisation.roots()

    def multiply(self, tangents: Sequence[Tensor], *, vectorised: bool) -> list[Tensor]:
        """Return ``J' C J v``."""
        forward = self.linearisation.jacobian_product(tangents, vectorised=vectorised)
        return self.linearisation.adjoint_product(
            self.middle(forward), vectorised=vectorised
        )

    def restricted(self, places: Sequence[int]) -> "OuterProduct":
        """Return the block of some of the leaves."""
        return OuterProduct(self.linearisation.restricted(places), self.middle)


def _gradient(
    target: Tensor | tuple[Tensor, Tensor], parameters: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Differentiate a scalar, or the inner product of a pair, keeping the graph."""
    scalar, seeds = (target, None) if isinstance(target, Tensor) else target
    if not scalar.requires_grad:  # no selected parameter is used at all
        return tuple(torch.zeros_like(p) for p in parameters)
    import_before_backward()
    grads = torch.autograd.grad(
        scalar, parameters, seeds, create_graph=True, allow_unused=True
    )
    return tuple(
        torch.zeros_like(p) if g is None else g
        for p, g in zip(parameters, grads, strict=True)
    )


def custom_functions(gradients: Sequence[Tensor]) -> tuple[str, ...]:
    """Return the names of autograd functions in the graph that are not this package's."""
    found = {
        getattr(type(node), "_forward_cls")  # noqa: B009 - torch does not declare it
        for node in nodes(gradients)
        if isinstance(node, torch.autograd.function.BackwardCFunction)
    }
    foreign = (f for f in found if not f.__module__.startswith("curvescope."))
    return tuple(sorted(f.__name__ for f in foreign))


def per_sample_outer(gradients: Tensor) -> Product:
    """Return the product with ``mean_s g_ns g_ns'`` of every sample n.

    Args:
        gradients: Shape ``(S, N, ...)``: S gradients by each sample's outputs.
    """
    num = gradients.shape[0]
    flat = gradients.reshape(num, gradients.shape[1], -1)

    def product(U: Tensor) -> Tensor:
        V = U.reshape(U.shape[0], flat.shape[1], -1)
        inner = torch.einsum("sno,kno->skn", flat, V)
        return (torch.einsum("skn,sno->kno", inner, flat) / num).reshape(U.shape)

    return product
