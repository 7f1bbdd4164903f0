r"""Dense networks as chains of matrices: products without autograd.

Where a model turns out to be linear layers with elementwise functions between them, the
tangents of its forward and backward pass are written down directly,

.. math:: \dot a_l = V_l x_l + W_l \dot x_l + \dot b_l, \qquad
    \dot x_{l+1} = \phi_l'(a_l) \dot a_l

and back

.. math:: \dot\delta_l = \phi_l' (W_{l+1}^\top \dot\delta_{l+1} +
    V_{l+1}^\top \delta_{l+1}) + \phi_l'' e_l \dot a_l, \qquad
    (Hv)_l = \dot\delta_l x_l^\top + \delta_l \dot x_l^\top

with as few matrix products as there can be, each for all columns, and no more memory than
activations and gradients. Inside, samples are the last dimension.

References:
    Pearlmutter (1994), doi:10.1162/neco.1994.6.1.147.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from curvescope.autodiff.graphs import BatchGraph
from curvescope.losses.base import Product

_MATRIX = 2  # dimensions; a stack has one more


@final
@dataclass(frozen=True)
class ChainLayer:
    """A linear layer and the elementwise functions behind it.

    Attributes:
        inputs: Of the layer, ``(in, n)``.
        weight: ``(out, in)``.
        weight_leaf: Which leaf it is; ``None`` for a constant.
        bias_leaf: As `weight_leaf`; also ``None`` without bias.
        slope: First derivative of what follows, ``(out, n)``; ``None`` for 1.
        bend: Second derivative; ``None`` for 0.
    """

    inputs: Tensor
    weight: Tensor
    weight_leaf: int | None
    bias_leaf: int | None
    slope: Tensor | None = None
    bend: Tensor | None = None


@dataclass(frozen=True)
class _Tangents:
    """What the forward pass leaves for the backward pass: one entry a layer.

    Attributes:
        inputs: Tangents of the layers' inputs, ``(k, in, n)``, where there are any;
            here and below without k where it is 1.
        sums: Tangents of their outputs before the function, where it bends.
        outputs: Tangent of the chain's outputs, ``(k, out, n)``.
    """

    inputs: list[Tensor | None]
    sums: list[Tensor | None]
    outputs: Tensor


@final
@dataclass(frozen=True)
class Chain:
    """A dense network at one batch.

    Attributes:
        layers: First to last, from the first that depends on a leaf.
        outputs: The model's, a constant.
        shapes: The leaves' shapes.
        places: Which leaves vectors are made of, in this order.
        sources: Tensors that are read in every product and are no leaves, with their
            versions.
    """

    layers: tuple[ChainLayer, ...]
    outputs: Tensor
    shapes: tuple[torch.Size, ...]
    places: tuple[int, ...]
    sources: tuple[tuple[Tensor, int], ...] = ()

    def check(self) -> None:
        """Raise, as autograd does, if the model overwrote what it had read before."""
        if any(tensor._version != version for tensor, version in self.sources):
            text = (
                "one of the variables needed for gradient computation has been modified "
                "by an inplace operation: the model writes into a tensor that it keeps "
                "from batch to batch"
            )
            raise RuntimeError(text)

    def rows(self, U: Tensor) -> Tensor:
        """Bring ``(k, *outputs.shape)`` to ``(k, out, n)``, or ``(out, n)`` if k is 1."""
        shape = (-1, self.layers[-1].weight.shape[0])
        return U.reshape(shape if U.shape[0] == 1 else (U.shape[0], *shape)).mT

    def stacked(self, U: Tensor) -> Tensor:
        """Undo `rows`."""
        k = 1 if U.ndim == _MATRIX else U.shape[0]
        return U.mT.reshape(k, *self.outputs.shape)

    def forward(self, vectors: Sequence[Tensor], *, bends: bool) -> _Tangents:
        """Return the tangents of all layers along each of k vectors.

        Args:
            vectors: Shape ``(k, *leaf.shape)`` each.
            bends: Whether the backward pass needs the sums where a function bends.
        """
        self.check()
        given = self._given(vectors)
        x: Tensor | None = None
        inputs, sums = [], []
        for layer in self.layers:
            V = _of(given, layer.weight_leaf)
            a = None if V is None else _product(V, layer.inputs)
            if x is not None:
                a = _product(layer.weight, x, add_to=a)
            b = _of(given, layer.bias_leaf)
            if b is not None:
                b, n = b[..., None], layer.inputs.shape[1]
                a = b.repeat_interleave(n, dim=-1) if a is None else a.add_(b)
            inputs.append(x)
            bent = bends and layer.bend is not None
            sums.append(a if bent else None)
            x = a
            if a is not None and layer.slope is not None:
                x = a * layer.slope if bent else a.mul_(layer.slope)
        if x is None:
            last = self.layers[-1]
            size, n = last.weight.shape[0], last.inputs.shape[1]
            k = vectors[0].shape[0]
            x = self.outputs.new_zeros((size, n) if k == 1 else (k, size, n))
        return _Tangents(inputs, sums, x)

    def backward(
        self,
        g: Tensor,
        vectors: Sequence[Tensor] = (),
        tangents: _Tangents | None = None,
        adjoints: "Sequence[Adjoint] | None" = None,
    ) -> list[Tensor]:
        """Return the leaves' gradients for gradients ``(k, out, n)`` by the outputs.

        With tangents and adjoints, of the gradient's own pass: its tangent.
        """
        self.check()
        given = self._given(vectors)
        found: dict[int, Tensor] = {}
        given_gradient = g
        lowest = min(
            (i for i, layer in enumerate(self.layers) if self._wanted(layer)),
            default=len(self.layers),
        )
        for i in reversed(range(lowest, len(self.layers))):
            layer = self.layers[i]
            x = None if tangents is None else tangents.inputs[i]
            a = None if tangents is None else tangents.sums[i]
            adjoint = None if adjoints is None else adjoints[i]
            if layer.slope is not None:
                g = g * layer.slope if g is given_gradient else g.mul_(layer.slope)
            if a is not None and adjoint is not None and adjoint.bend is not None:
                g = torch.addcmul(g, adjoint.bend, a)
            if layer.weight_leaf in self.places:
                W = _product(g, layer.inputs.t())
                if x is not None and adjoint is not None:
                    W = _product(adjoint.delta, x.mT, add_to=W)
                _put(found, layer.weight_leaf, W)
            if layer.bias_leaf in self.places:
                _put(found, layer.bias_leaf, g.sum(dim=-1))
            if i > lowest:
                V = _of(given, layer.weight_leaf)
                g = _product(layer.weight.t(), g)
                if V is not None and adjoint is not None:
                    g = _product(V.mT, adjoint.delta, add_to=g)
        k = 1 if g.ndim == _MATRIX else g.shape[0]
        return [
            found[leaf].reshape(k, *self.shapes[leaf])
            if leaf in found
            else self.outputs.new_zeros(k, *self.shapes[leaf])
            for leaf in self.places
        ]

    def _given(self, vectors: Sequence[Tensor]) -> dict[int, Tensor]:
        """Return the vectors by leaf, without k where it is 1."""
        if not vectors:
            return {}
        pairs = zip(self.places, vectors, strict=True)
        return {leaf: V[0] if V.shape[0] == 1 else V for leaf, V in pairs}

    def _wanted(self, layer: ChainLayer) -> bool:
        return layer.weight_leaf in self.places or layer.bias_leaf in self.places

    def restricted(self, places: Sequence[int]) -> "Chain":
        """Return the chain as a function of some of its leaves."""
        return replace(self, places=tuple(self.places[i] for i in places))

    def adjoints(self, gradient: Tensor) -> tuple["Adjoint", ...]:
        """Return what the backward pass of a gradient by the outputs makes."""
        e = self.rows(gradient[None])
        found = []
        for layer in reversed(self.layers):
            bend = None if layer.bend is None else layer.bend * e
            delta = e if layer.slope is None else layer.slope * e
            found.append(Adjoint(delta.contiguous(), bend))
            e = layer.weight.t() @ delta
        return tuple(reversed(found))


@final
@dataclass(frozen=True)
class Adjoint:
    """A layer in the backward pass of the loss.

    Attributes:
        delta: The gradient by the layer's sums, ``(out, n)``.
        bend: The gradient behind the function times the function's second derivative.
    """

    delta: Tensor
    bend: Tensor | None


@final
@dataclass(frozen=True)
class ChainHessian(BatchGraph):
    """The Hessian of a function of a chain's outputs.

    Attributes:
        chain: The network.
        adjoints: The layers in the function's backward pass.
        middle: The product with the function's Hessian by the outputs.
    """

    chain: Chain
    adjoints: tuple[Adjoint, ...]
    middle: Product

    def multiply(self, tangents: Sequence[Tensor], *, vectorised: bool) -> list[Tensor]:
        """Return the matrix times each of the k vectors, in any case all at once."""
        del vectorised
        chain = self.chain
        with torch.no_grad():
            along = chain.forward(tangents, bends=True)
            g = chain.rows(self.middle(chain.stacked(along.outputs)))
            return chain.backward(g, tangents, along, self.adjoints)

    def restricted(self, places: Sequence[int]) -> "ChainHessian":
        """Return the block of some of the leaves."""
        return replace(self, chain=self.chain.restricted(places))


@final
@dataclass(frozen=True)
class ChainLinearisation:
    """Both directions of a chain's Jacobian."""

    chain: Chain

    @property
    def outputs(self) -> Tensor:
        """The model's outputs."""
        return self.chain.outputs

    def roots(self) -> tuple[Tensor, ...]:
        """Return nothing: there is no graph of autograd's."""
        return ()

    def jacobian_product(
        self, tangents: Sequence[Tensor], *, vectorised: bool
    ) -> Tensor:
        """Return J v, shape ``(k, *outputs.shape)``."""
        del vectorised
        with torch.no_grad():
            along = self.chain.forward(tangents, bends=False)
            return self.chain.stacked(along.outputs)

    def adjoint_product(self, U: Tensor, *, vectorised: bool) -> list[Tensor]:
        """Return J' u for stacks of shape ``(k, *outputs.shape)``."""
        del vectorised
        with torch.no_grad():
            return self.chain.backward(self.chain.rows(U))

    def restricted(self, places: Sequence[int]) -> "ChainLinearisation":
        """Return the columns of some of the leaves."""
        return ChainLinearisation(self.chain.restricted(places))


@final
@dataclass(frozen=True)
class ChainRun:
    """A model that ran, and was a chain."""

    chain: Chain

    @property
    def outputs(self) -> Tensor:
        """The model's outputs, constants."""
        return self.chain.outputs

    def linearised(self) -> ChainLinearisation:
        """Return the outputs' Jacobian."""
        return ChainLinearisation(self.chain)

    def second_derivative(
        self, function: Callable[[Tensor], Tensor], middle: Callable[[], Product]
    ) -> ChainHessian:
        """Return the Hessian of ``function(outputs)``."""
        leaf = self.outputs.detach().requires_grad_()
        with torch.enable_grad():
            value = function(leaf)
        if not value.requires_grad:
            gradient = torch.zeros_like(leaf)
        else:
            (gradient,) = torch.autograd.grad(
                value, leaf, allow_unused=True, materialize_grads=True
            )
        return ChainHessian(self.chain, self.chain.adjoints(gradient), middle())


def _product(A: Tensor, B: Tensor, *, add_to: Tensor | None = None) -> Tensor:
    """Multiply matrices or stacks of k matrices, one of either or two of a kind."""
    if A.ndim == B.ndim == _MATRIX:
        return torch.mm(A, B) if add_to is None else add_to.addmm_(A, B)
    k = (B if A.ndim == _MATRIX else A).shape[0]
    A, B = A.expand(k, -1, -1), B.expand(k, -1, -1)
    return torch.bmm(A, B) if add_to is None else add_to.baddbmm_(A, B)


def _of(given: Mapping[int, Tensor], leaf: int | None) -> Tensor | None:
    return None if leaf is None else given.get(leaf)


def _put(found: dict[int, Tensor], leaf: int | None, value: Tensor) -> None:
    """Add a gradient; a leaf that is used twice has two."""
    if leaf is not None:
        found[leaf] = found[leaf] + value if leaf in found else value
