"""Which corner of a linear net's layer can hold curvature, and a rotation that shows it.

A layer's block of parameters is a matrix, output side by input side. H, GGN and
functional Hessian live in a union of rectangles of nested subspaces of the two sides
(derived here; the widths are those of the published rank formulas). Orthogonal matrices
adapted to both chains turn that union into a staircase of entries; all others are zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from curvescope.exact.linear_maps import LinearMaps


@final
@dataclass(frozen=True, kw_only=True)
class Corner:
    """One layer in adapted coordinates.

    Attributes:
        output_basis: Orthogonal, ``(m_{l+1}, m_{l+1})``.
        input_basis: Orthogonal, ``(m_l + bias, m_l + bias)``.
        rows: Of every kept entry its row in those coordinates.
        columns: Its column.
        ggn_shape: The GGN lives in the leading rectangle of this shape.
        functional: Whether the functional Hessian can be non-zero at the kept entry.
    """

    output_basis: Tensor
    input_basis: Tensor
    rows: Tensor
    columns: Tensor
    ggn_shape: tuple[int, int]
    functional: Tensor

    @property
    def dimension(self) -> int:
        """Number of kept entries."""
        return len(self.rows)

    @property
    def ggn(self) -> Tensor:
        """Whether the GGN can be non-zero at the kept entry."""
        return (self.rows < self.ggn_shape[0]) & (self.columns < self.ggn_shape[1])


def corner(maps: LinearMaps, layer: int, *, inputs: Tensor, residual: Tensor) -> Corner:
    r"""Return the coordinates in which one layer's curvature is a staircase.

    With :math:`\Omega` the sum of :math:`\delta x^\top`, columns of the functional
    Hessian in this layer lie in :math:`A_l^\top \Omega B_k^\top \otimes C_{lk}` for an
    earlier layer k and in :math:`C_{tl}^\top \otimes B_l \Omega^\top A_t` for a later
    one t; those of the GGN in :math:`A_l^\top \otimes B_l X^\top`.

    Args:
        maps: The net's maps, outputs restricted to the directions that matter.
        layer: Which one.
        inputs: Orthonormal basis of the extended inputs' row space, ``(d, r)``.
        residual: Omega in that basis, ``(k, r)``.

    Returns:
        The layer's coordinates.
    """
    last = maps.num_layers - 1
    out, seen = maps.weights[layer].shape[0], maps.from_input[layer].shape[0]
    width = maps.weights[layer].shape[1]
    later, earlier = range(last, layer, -1), range(layer)
    unit = torch.eye(len(residual)).to(residual)
    toward, sees = maps.to_output[layer], maps.from_input[layer] @ inputs

    # Output side, from the largest space to the smallest.
    chain = [maps.between(t, layer).T for t in reversed(later)]
    chain.append(toward.T)
    chain += [toward.T @ _passed_on(maps, k, inputs, residual) for k in earlier]
    output_basis, sizes = _adapted(out, chain)
    row_sizes = dict(zip(reversed(later), sizes[: len(later)], strict=True))
    toward_size = sizes[len(later)]
    early_rows = dict(zip(earlier, sizes[len(later) + 1 :], strict=True))

    # Input side; a constant is seen by C_lk's layers too, hence the last column.
    chain = []
    for k in reversed(earlier):
        reached = maps.between(layer, k)
        if maps.extended:
            reached = torch.cat([reached, maps.hidden(layer)[:, -1:]], 1)
        reached = torch.nn.functional.pad(reached, (0, 0, 0, seen - width))
        if seen > width:
            reached[-1, -1] = 1.0
        chain.append(reached)
    chain.append(sees)
    # To the last layer all of Omega comes back: its own map has columns to spare.
    chain += [
        sees @ residual.T @ (maps.to_output[t] if t < last else unit) for t in later
    ]
    input_basis, sizes = _adapted(seen, chain)
    column_sizes = dict(zip(reversed(earlier), sizes[: len(earlier)], strict=True))
    seen_size = sizes[len(earlier)]
    late_columns = dict(zip(later, sizes[len(earlier) + 1 :], strict=True))

    functional = torch.zeros(out, seen, dtype=torch.bool, device=toward.device)
    for k in earlier:
        functional[: early_rows[k], : column_sizes[k]] = True
    for t in later:
        functional[: row_sizes[t], : late_columns[t]] = True
    kept = functional.clone()
    kept[:toward_size, :seen_size] = True
    rows, columns = kept.nonzero(as_tuple=True)
    return Corner(
        output_basis=output_basis,
        input_basis=input_basis,
        rows=rows,
        columns=columns,
        ggn_shape=(toward_size, seen_size),
        functional=functional[rows, columns],
    )


def _passed_on(
    maps: LinearMaps, layer: int, inputs: Tensor, residual: Tensor
) -> Tensor:
    """Return Omega as an early layer sees it, and the constant wherever there is one.

    With the constant these are nested in the layer also where only some have a bias.
    """
    if layer == 0:
        return residual
    hidden = maps.hidden(layer) @ inputs
    if maps.extended:
        hidden = torch.cat([hidden, inputs[-1:]])
    return residual @ hidden.T


def _adapted(size: int, chain: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """Return an orthogonal matrix whose leading columns hold each of nested spaces.

    Args:
        size: Of the whole space.
        chain: Generators, ``(size, any)``, from the largest space to the smallest.

    Returns:
        The matrix, and how many leading columns hold each space: as many as the
        structure allows, never fewer, whatever the numbers are.
    """
    like = chain[0]
    basis = torch.eye(size).to(like)
    sizes, inner = [], size
    for generators in chain:
        coordinates = basis[:, :inner].T @ generators
        if coordinates.shape[1] < inner:
            rotation = torch.linalg.qr(coordinates, mode="complete").Q
            basis[:, :inner] = basis[:, :inner] @ rotation
            inner = coordinates.shape[1]
        sizes.append(inner)
    return basis, sizes
