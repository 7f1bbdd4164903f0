"""Dense matrices of linear nets from their Kronecker form."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from curvescope._core.checks import message
from curvescope.exact.linear_maps import (
    DataSums,
    LinearMaps,
    chunk_size,
    data_sums,
    extend,
    linear_maps,
    stacked_rows,
)
from curvescope.exact.network import FeedForward
from curvescope.results.ranks import MATRICES


def kronecker_matrices(
    net: FeedForward, parts: Sequence[str] = MATRICES
) -> dict[str, Tensor]:
    r"""Return the dense P x P matrices of a linear net from their Kronecker form.

    .. math::
        H_o^{lk} = (A_l \otimes B_l^\top)^\top \Big(\sum_i \Lambda_i \otimes x_i
        x_i^\top\Big) (A_k \otimes B_k^\top), \qquad
        H_F^{lk} = (A_l^\top \Omega B_k^\top) \star C_{lk}

    with :math:`\Omega = \sum_i \delta_i x_i^\top` and the entry at ((a, b), (c, e)) of
    the second the product of entries (a, e) and (b, c). Diagonal blocks of
    :math:`H_F` are zero.

    Args:
        net: A linear net, with biases on all, some or no layers.
        parts: Any of ``"hessian"``, ``"ggn"``, ``"functional"``.

    Returns:
        The matrices by name; parameters in the order of the layers, each weight
        row-major and then its bias.

    Raises:
        ValueError: If an activation is not the identity, or a part is unknown.

    Cost:
        ``O(P^2)`` time and memory after a pass over the data for a constant output
        Hessian; ``O(min(n, d) K P^2)`` where it varies.

    References:
        Singh, Bachmann and Hofmann (2021), arXiv:2106.16225.
    """
    unknown = [part for part in parts if part not in MATRICES]
    if unknown:
        raise ValueError(message("parts", f"be among {MATRICES}", repr(unknown[0])))
    maps = linear_maps(net)
    sums = data_sums(net, extended=maps.extended)
    found: dict[str, Tensor] = {}
    if {"functional", "hessian"} & set(parts):
        found["functional"] = _dense_functional(maps, sums.residual)
    if {"ggn", "hessian"} & set(parts):
        found["ggn"] = _dense_ggn(net, maps, sums)
    if "hessian" in parts:
        # In place where the summand is not asked for: the matrices fill the memory.
        spare = next((part for part in ("ggn", "functional") if part not in parts), "")
        if spare:
            rest = "functional" if spare == "ggn" else "ggn"
            found["hessian"] = found[spare].add_(found[rest])
        else:
            found["hessian"] = found["ggn"] + found["functional"]
    return {part: found[part] for part in parts}


@final
@dataclass(frozen=True)
class _Piece:
    """A weight or a bias: where it stands, and which of the layer's inputs it takes."""

    layer: int
    place: slice
    inputs: slice

    @property
    def shape(self) -> tuple[int, int]:
        columns = self.inputs.stop - self.inputs.start
        return ((self.place.stop - self.place.start) // columns, columns)


def _pieces(maps: LinearMaps) -> Iterator[_Piece]:
    start = 0
    for layer, weight in enumerate(maps.weights):
        stop = start + weight.numel()
        width = weight.shape[1]
        yield _Piece(layer, slice(start, stop), slice(0, width))
        start = stop
        if maps.has_bias[layer]:
            stop = start + weight.shape[0]
            yield _Piece(layer, slice(start, stop), slice(width, width + 1))
            start = stop


def _view(matrix: Tensor, one: _Piece, other: _Piece) -> Tensor:
    """Return a block of the matrix as ``(out, in, out, in)``, without a copy."""
    block = matrix[one.place, other.place]
    return block.unflatten(1, other.shape).unflatten(0, one.shape)


def _dense_functional(maps: LinearMaps, residual: Tensor) -> Tensor:
    pieces = list(_pieces(maps))
    size = pieces[-1].place.stop
    matrix = residual.new_zeros(size, size)
    for one in pieces:
        if one.inputs.start:
            continue  # no layer before changes the constant that a bias sees
        toward = maps.to_output[one.layer].T @ residual
        for other in pieces:
            if other.layer >= one.layer:
                break
            passed = toward @ maps.from_input[other.layer][other.inputs].T
            reached = maps.between(one.layer, other.layer)
            left, right = passed[:, None, None, :], reached[None, :, :, None]
            torch.mul(left, right, out=_view(matrix, one, other))
            matrix[other.place, one.place] = matrix[one.place, other.place].T
    return matrix


def _dense_ggn(net: FeedForward, maps: LinearMaps, sums: DataSums) -> Tensor:
    pieces = list(_pieces(maps))
    if sums.constant is None:
        return _summed_ggn(net, maps, sums, pieces)
    size = pieces[-1].place.stop
    matrix = sums.residual.new_empty(size, size)
    for one in pieces:
        for other in pieces:
            if other.place.start > one.place.start:
                break
            left = sums.constant @ maps.to_output[one.layer]
            right = sums.constant @ maps.to_output[other.layer]
            seen = sums.inputs @ maps.from_input[one.layer][one.inputs].T
            also = sums.inputs @ maps.from_input[other.layer][other.inputs].T
            outer = (left.T @ right)[:, None, :, None]
            inner = (seen.T @ also)[None, :, None, :]
            torch.mul(outer, inner, out=_view(matrix, one, other))
            if other is not one:
                matrix[other.place, one.place] = matrix[one.place, other.place].T
    return matrix


def _summed_ggn(
    net: FeedForward, maps: LinearMaps, sums: DataSums, pieces: Sequence[_Piece]
) -> Tensor:
    """Return the GGN where the output Hessian varies, through at most ``2 K d`` rows."""
    num_outputs, width = sums.residual.shape
    unit = torch.eye(width).to(sums.residual)

    def columns(rows: Tensor) -> Tensor:
        """Map rows over outputs and inputs to rows over parameters."""
        apart = rows.view(-1, num_outputs, width)
        return torch.cat(
            [
                (
                    maps.to_output[p.layer].T
                    @ (apart @ maps.from_input[p.layer][p.inputs].T)
                ).flatten(1)
                for p in pieces
            ],
            1,
        )

    if sums.has_factor:
        outputs = torch.eye(num_outputs).to(unit)
        factor = columns(
            stacked_rows(net, extended=maps.extended, inputs=unit, outputs=outputs)
        )
        return factor.T @ factor
    middle = unit.new_zeros(num_outputs**2, width**2)
    for part in net.samples(most=chunk_size(num_outputs**2 + width**2)):
        seen = extend(part.inputs, extended=maps.extended)
        squares = (seen[:, :, None] * seen[:, None, :]).flatten(1)
        middle += net.output_hessians(part).flatten(1).T @ squares
    shape = (num_outputs, num_outputs, width, width)
    middle = middle.view(shape).transpose(1, 2).reshape(num_outputs * width, -1)
    jacobian = columns(torch.eye(num_outputs * width).to(unit))
    return jacobian.T @ (middle @ jacobian)
