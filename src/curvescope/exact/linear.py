"""H, GGN and functional Hessian of linear nets, without autodiff and without samples.

All matrices are those of the loss SUM over the data, float64, without weight decay.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from curvescope.exact.linear_flags import Corner, corner
from curvescope.exact.linear_inputs import standardised
from curvescope.exact.linear_kronecker import kronecker_matrices
from curvescope.exact.linear_maps import (
    DataSums,
    LinearMaps,
    chunk_size,
    data_sums,
    extend,
    linear_maps,
    output_directions,
    row_space,
    stacked_rows,
    starts,
)
from curvescope.exact.network import FeedForward

__all__ = ["CompressedMatrices", "compress", "kronecker_matrices", "standardised"]


@final
@dataclass(frozen=True, kw_only=True)
class CompressedMatrices:
    """``Q'HQ``, ``Q' GGN Q`` and ``Q' H_F Q`` for one Q whose span holds all three ranges.

    Attributes:
        hessian: ``(D, D)``.
        ggn: ``(D, D)``.
        functional: ``(D, D)``.
        ggn_factor: F with ``F'F`` the GGN, D columns; ``None`` where the output Hessian
            has none.
        ggn_support: The coordinates in which the GGN lives; all else of it is zero.
        functional_support: The same of the functional Hessian.
        dimension: D; never below the rank of H, and equal to it for generic weights and
            data.
        sizes: How many of the D coordinates belong to each layer, in order.
        num_params: P, of the net as it was given.
        standardised: Whether the inputs were, so that ranks and inertia are those of
            the net and eigenvalues are not.
    """

    hessian: Tensor
    ggn: Tensor
    functional: Tensor
    ggn_factor: Tensor | None
    ggn_support: Tensor
    functional_support: Tensor
    dimension: int
    sizes: tuple[int, ...]
    num_params: int
    standardised: bool

    def core(self, matrix: str) -> Tensor:
        """Return one matrix on its support alone: the same non-zero spectrum, smaller.

        Args:
            matrix: ``"hessian"``, ``"ggn"`` or ``"functional"``.
        """
        if matrix == "hessian":
            return self.hessian
        support = self.ggn_support if matrix == "ggn" else self.functional_support
        return getattr(self, matrix)[support][:, support]


def compress(net: FeedForward, *, standardise: bool = False) -> CompressedMatrices:
    r"""Return small matrices with exactly the non-zero spectra of H, GGN and H_F.

    Every weight matrix is turned by orthogonal matrices on both sides, chosen by QR so
    that :math:`\operatorname{col}(A_l^\top)`, :math:`\operatorname{col}(B_l X^\top)` and
    their products with :math:`\Omega = \sum_i \delta_i x_i^\top` are leading coordinates;
    the corner of each layer where nothing can be is left out, and the P x P matrices are
    never formed. The corner's size is bounded by the structure (widths, r, K), not by a
    threshold on the weights; of the inputs, directions at rounding level are dropped.

    Args:
        net: A linear net, with biases on all, some or no layers.
        standardise: First give the inputs an orthonormal basis (`standardised`), and take
            the constant part off what every layer with a bias sees: ranks and inertia
            stay, eigenvalues do not. For inputs of very different scales.

    Returns:
        The matrices in one common basis, with D near the rank of H.

    Raises:
        ValueError: If an activation is not the identity.

    Cost:
        Two passes over the data (one for a constant output Hessian) in ``O(n (d^2 +
        K^3))``, ``O(sum m^3)`` for the bases and ``O(D^2)`` for the matrices. An output
        Hessian that varies adds a QR of ``(n K, k r)``.

    References:
        Singh, Bachmann and Hofmann (2021), arXiv:2106.16225, for the structure of the
        two parts; the common basis is derived here.
    """
    num_params = net.num_params
    if standardise:
        net = standardised(net)
    maps = linear_maps(net)
    if standardise:
        maps = _centred(maps)
    sums = data_sums(net, extended=maps.extended)
    inputs, _ = row_space(sums.inputs)
    outputs = output_directions(sums)
    maps = replace(maps, to_output=tuple(outputs.T @ a for a in maps.to_output))
    residual = outputs.T @ sums.residual @ inputs
    corners = [
        corner(maps, layer, inputs=inputs, residual=residual)
        for layer in range(maps.num_layers)
    ]
    functional = _functional(maps, corners, inputs, residual)
    support = torch.cat([c.ggn for c in corners])
    ggn, factor = _ggn(net, maps, sums, corners, inputs, outputs)
    hessian = functional.clone()
    index = support.nonzero()[:, 0]
    hessian[index[:, None], index] += ggn
    whole = torch.zeros_like(functional)
    whole[index[:, None], index] = ggn
    if factor is not None:
        columns = factor.new_zeros(len(factor), len(support))
        columns[:, index] = factor
        factor = columns
    return CompressedMatrices(
        hessian=hessian,
        ggn=whole,
        functional=functional,
        ggn_factor=factor,
        ggn_support=index,
        functional_support=torch.cat([c.functional for c in corners]).nonzero()[:, 0],
        dimension=len(support),
        sizes=tuple(c.dimension for c in corners),
        num_params=num_params,
        standardised=standardise,
    )


def _centred(maps: LinearMaps) -> LinearMaps:
    """Let every bias take over what its layer's weight makes of a constant.

    ``W (h - c) + (b + W c)`` with c fixed is linear in W and the new bias, so that the
    matrices in the new parameters are congruent to the old ones.
    """
    from_input = []
    for seen, has_bias in zip(maps.from_input, maps.has_bias, strict=True):
        moved = seen.clone()
        if has_bias:
            moved[:-1, -1] = 0.0
        from_input.append(moved)
    return replace(maps, from_input=tuple(from_input))


def _functional(
    maps: LinearMaps, corners: Sequence[Corner], inputs: Tensor, residual: Tensor
) -> Tensor:
    """Return H_F at the kept entries: the product of two small matrices, entry by entry."""
    first = starts([c.dimension for c in corners])
    matrix = residual.new_zeros(first[-1], first[-1])
    for late, one in enumerate(corners):
        toward = (maps.to_output[late] @ one.output_basis).T @ residual
        width = maps.weights[late].shape[1]
        for early, other in enumerate(corners[:late]):
            sees = other.input_basis.T @ maps.from_input[early] @ inputs
            reached = one.input_basis[:width].T @ maps.between(late, early)
            passed = (toward @ sees.T)[one.rows][:, other.columns]
            block = passed.mul_(
                (reached @ other.output_basis)[one.columns][:, other.rows]
            )
            here = slice(first[late], first[late + 1])
            there = slice(first[early], first[early + 1])
            matrix[here, there] = block
            matrix[there, here] = block.T
    return matrix


def _ggn(
    net: FeedForward,
    maps: LinearMaps,
    sums: DataSums,
    corners: Sequence[Corner],
    inputs: Tensor,
    outputs: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """Return the GGN on its support, and its factor where there is one."""
    sides = []
    for layer, place in enumerate(corners):
        u, v = place.ggn_shape
        toward = maps.to_output[layer] @ place.output_basis[:, :u]
        sides.append(
            (toward, place.input_basis[:, :v].T @ maps.from_input[layer] @ inputs)
        )
    if sums.constant is not None:
        root = torch.linalg.qr(sums.constant @ outputs, mode="r").R
        factor = _products(sides, root, sums.inputs @ inputs)
        return factor.T @ factor, factor
    if sums.has_factor:
        rows = stacked_rows(net, extended=maps.extended, inputs=inputs, outputs=outputs)
        parts = [(a.T @ (rows @ b.T)).flatten(1) for a, b in sides]
        factor = torch.cat(parts, 1)
        return factor.T @ factor, factor
    size = sum(place.ggn_shape[0] * place.ggn_shape[1] for place in corners)
    ggn = inputs.new_zeros(size, size)
    unit = torch.eye(outputs.shape[1]).to(outputs)
    for part in net.samples(most=chunk_size(outputs.shape[1] * size)):
        jacobian = _products(
            sides, unit, extend(part.inputs, extended=maps.extended) @ inputs
        )
        middle = outputs.T @ net.output_hessians(part) @ outputs
        weighted = middle @ jacobian.view(len(part), len(unit), size)
        ggn += jacobian.T @ weighted.flatten(0, 1)
    return (ggn + ggn.T) / 2, None


def _products(
    sides: Sequence[tuple[Tensor, Tensor]], root: Tensor, seen: Tensor
) -> Tensor:
    """Return ``(n c, D)``: each sample's Jacobian times one root ``(c, k)`` for all."""
    parts = [
        ((root @ a)[None, :, :, None] * (seen @ b.T)[:, None, None, :])
        .flatten(2)
        .flatten(0, 1)
        for a, b in sides
    ]
    return torch.cat(parts, 1)
