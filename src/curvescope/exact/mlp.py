r"""Hessian, GGN and functional Hessian of a feed-forward net, without autodiff.

With pre-activations ``z_l = W_l x_l + b_l``, slopes ``D_l = s'(z_l)``, gradients
``g_l = d loss / d z_l`` and the loss's second derivatives by them,

.. math:: Q_L = \Lambda, \qquad Q_l = D_l W_{l+1}^\top Q_{l+1} W_{l+1} D_l
   + \operatorname{diag}(s''(z_l) \odot W_{l+1}^\top g_{l+1}),

the block of the layers ``k <= l`` is, with ``E_lk = d x_l / d z_k`` and ``S_lk = Q_l W_l
E_lk`` (``S_ll = Q_l``), a sum over the samples of two outer products:

.. math:: H^{lk}_{(a,b),(c,e)} = \sum_n S_{ac} x_{l,b} x_{k,e}
   + [k < l] \sum_n g_{l,a} E_{bc} x_{k,e}.

The GGN leaves out the diagonal term of ``Q`` and the second sum; the functional Hessian
starts at ``Q_L = 0``. Every sum is a matrix product over the samples. Indices count
layers from 0 in the code; a, b belong to layer l, c, e to layer k; ``x`` has an entry 1
where a bias is asked for. Only rows of the lower triangle are computed, then mirrored.
Samples are the last dimension everywhere: picking pairs of units copies whole rows, and
the contractions of Q, S and E are matrix products over all samples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from curvescope.autodiff.layout import Layout
from curvescope.exact.network import FeedForward

# Temporaries of one chunk of samples, and of one tile of a product, both in bytes.
# Smaller tiles scatter faster and multiply slower (measured).
_CHUNK_BYTES = 256 * 2**20
_TILE_BYTES = 32 * 2**20
_MOST_SAMPLES = 8192
_MIRROR = 256


@final
@dataclass(frozen=True)
class Piece:
    """One selected parameter of a layer: columns of x, and its place in the vector."""

    columns: slice
    width: int
    start: int


@final
@dataclass(frozen=True)
class Block:
    """One layer of which something is selected."""

    index: int
    outputs: int
    pieces: tuple[Piece, ...]
    has_weight: bool

    @property
    def width(self) -> int:
        """Columns of x: the inputs if the weight is asked for, 1 for the bias."""
        return sum(piece.width for piece in self.pieces)

    def extended(self, hidden: Tensor) -> Tensor:
        """Return x, shape ``(width, n)``."""
        inputs, n = hidden.shape
        has_bias = self.width > (inputs if self.has_weight else 0)
        parts = [hidden] if self.has_weight else []
        if has_bias:
            parts.append(hidden.new_ones(1, n))
        return torch.cat(parts) if len(parts) > 1 else parts[0]


@final
@dataclass(frozen=True)
class _State:
    """One chunk of samples: everything that does not depend on the matrix."""

    hidden: list[Tensor]
    slopes: list[Tensor]
    bends: list[Tensor | None]
    gradients: list[Tensor]
    backward: list[Tensor]
    output_hessian: Tensor


def mlp_matrices(
    net: FeedForward, layout: Layout, parts: Sequence[str], *, scale: float = 1.0
) -> dict[str, Tensor]:
    """Assemble matrices of the loss sum, times ``scale``, of whole parameters.

    Args:
        net: The net.
        layout: The selected parameters; its ``entries`` are not looked at.
        parts: Any of ``"hessian"``, ``"ggn"``, ``"functional"``; each is its own
            computation.
        scale: Factor of all entries.

    Returns:
        Float64 matrices of size ``layout.full_size``, exactly symmetric.

    Cost:
        About ``n P^2`` multiplications a matrix in matrix products, whatever the number
        of outputs; ``8 P^2`` bytes a matrix and some hundred megabytes.
    """
    blocks = selected_blocks(net, layout)
    size = layout.full_size
    like = net.layers[0].weight
    matrices: dict[str, Tensor] = {}
    for part in parts:
        # Blocks of the functional Hessian may be zero; the others are written wholly.
        make = torch.zeros if part == "functional" else torch.empty
        matrices[part] = make(size, size, dtype=like.dtype, device=like.device)
    most = samples_at_once(net, layout)
    with torch.no_grad():
        for number, chunk in enumerate(_chunks(net, most)):
            state = _state(net, *(t * scale if i else t for i, t in enumerate(chunk)))
            for part, matrix in matrices.items():
                _accumulate(matrix, net, blocks, state, part, add=number > 0)
        for matrix in matrices.values():
            mirror(matrix)
    return matrices


def temporary_bytes(net: FeedForward, layout: Layout) -> int:
    """Return what `mlp_matrices` needs besides its matrices."""
    needed = samples_at_once(net, layout) * _bytes_per_sample(net, layout)
    return needed + 4 * min(_TILE_BYTES, 8 * layout.full_size**2)


def samples_at_once(net: FeedForward, layout: Layout) -> int:
    """Return how many samples' temporaries fit what a chunk may take."""
    limit = max(_CHUNK_BYTES, min(2 * layout.full_size**2, 4 * _CHUNK_BYTES))
    fitting = limit // _bytes_per_sample(net, layout)
    return int(max(1, min(fitting, net.problem.num_samples, _MOST_SAMPLES)))


def _bytes_per_sample(net: FeedForward, layout: Layout) -> int:
    outputs = net.widths[1:]
    inputs = max(block.width for block in selected_blocks(net, layout))
    squares = sum(m * m for m in outputs) + 6 * max(outputs) ** 2
    return 8 * (6 * sum(net.widths) + squares + 2 * inputs * inputs)


def selected_blocks(net: FeedForward, layout: Layout) -> list[Block]:
    """Return the layers of which something is selected, first to last."""
    starts, start = {}, 0
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        starts[name] = start
        start += shape.numel()
    blocks = []
    for index, layer in enumerate(net.layers):
        outputs, inputs = layer.weight.shape
        pieces = []
        if layer.weight_name in starts:
            where = starts[layer.weight_name]
            pieces.append(Piece(slice(0, inputs), inputs, where))
        has_weight = bool(pieces)
        if layer.bias_name in starts:
            column = inputs if has_weight else 0
            where = starts[layer.bias_name]
            pieces.append(Piece(slice(column, column + 1), 1, where))
        if pieces:
            blocks.append(Block(index, outputs, tuple(pieces), has_weight))
    return blocks


def _chunks(net: FeedForward, most: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield inputs, gradients and Hessians by the outputs, batches joined."""
    held: list[tuple[Tensor, Tensor, Tensor]] = []
    count = 0
    for samples in net.samples(most=most):
        if held and count + len(samples) > most:
            yield _joined(held)
            held, count = [], 0
        hessians = net.output_hessians(samples)
        held.append((samples.inputs, samples.gradients, hessians))
        count += len(samples)
    yield _joined(held)


def _joined(
    held: list[tuple[Tensor, Tensor, Tensor]],
) -> tuple[Tensor, Tensor, Tensor]:
    if len(held) == 1:
        return held[0]
    inputs, gradients, hessians = zip(*held, strict=True)
    return torch.cat(inputs), torch.cat(gradients), torch.cat(hessians)


def _state(net: FeedForward, inputs: Tensor, delta: Tensor, second: Tensor) -> _State:
    pre = [z.T.contiguous() for z in net.forward(inputs)[:-1]]
    between = list(zip(net.activations, pre, strict=True))
    slopes = [activation.slope(z) for activation, z in between]
    bends = [a.bend(z) if a.bend is not None else None for a, z in between]
    gradients, backward = [delta.T.contiguous()], []
    for layer, slope in zip(reversed(net.layers[1:]), reversed(slopes), strict=True):
        backward.append(layer.weight.T @ gradients[-1])
        gradients.append(backward[-1] * slope)
    return _State(
        hidden=[
            inputs.T.contiguous(),
            *(activation.value(z) for activation, z in between),
        ],
        slopes=slopes,
        bends=bends,
        gradients=gradients[::-1],
        backward=backward[::-1],
        output_hessian=second.permute(1, 2, 0).contiguous(),
    )


def _pulled_back(stack: Tensor, weight: Tensor, slope: Tensor) -> Tensor:
    """Return ``stack W D`` of every sample, for a stack ``(a, units, n)``."""
    back = weight.T.expand(len(stack), -1, -1)
    return torch.bmm(back, stack).mul_(slope)


def _curvatures(net: FeedForward, state: _State, part: str) -> list[Tensor | None]:
    """Return Q of every layer, ``(m, m, n)``; ``None`` where it is zero."""
    top = None if part == "functional" else state.output_hessian
    found: list[Tensor | None] = [top]
    for index in range(len(net.layers) - 2, -1, -1):
        above, slope = found[-1], state.slopes[index]
        below = None
        if above is not None:
            weight = net.layers[index + 1].weight
            half = _pulled_back(above, weight, slope)
            below = (weight.T @ half.flatten(1)).view(-1, *half.shape[1:])
            below *= slope[:, None, :]
        bend = state.bends[index]
        if part != "ggn" and bend is not None:
            bent = state.backward[index] * bend
            if below is None:
                below = bent.new_zeros(len(bent), *bent.shape)
            below.diagonal().add_(bent.T)
        found.append(below)
    return found[::-1]


def _accumulate(
    matrix: Tensor,
    net: FeedForward,
    blocks: list[Block],
    state: _State,
    part: str,
    *,
    add: bool,
) -> None:
    """Write or add one chunk's rows of the lower triangle."""
    curvatures = _curvatures(net, state, part)
    inputs = {b.index: b.extended(state.hidden[b.index]) for b in blocks}
    by_index = {block.index: block for block in blocks}
    for row in blocks:
        lowest = blocks[0].index
        S, E = curvatures[row.index], None
        for index in range(row.index, lowest - 1, -1):
            if index < row.index:
                weight, slope = net.layers[index + 1].weight, state.slopes[index]
                if S is not None:
                    S = _pulled_back(S, weight, slope)
                if index == row.index - 2 and part != "ggn":
                    # E of adjacent layers is diagonal, and never made.
                    E = state.slopes[index + 1][:, None, :] * weight[:, :, None]
                    E *= slope
                elif E is not None:
                    E = _pulled_back(E, weight, slope)
            column = by_index.get(index)
            if column is None:
                continue
            x, y = inputs[row.index], inputs[index]
            if index == row.index:
                if S is not None:
                    _diagonal(matrix, row, S, x, add=add)
                continue
            if S is not None:
                _outer(matrix, row, column, S, x, y, add=add)
            if part == "ggn" or not row.has_weight:
                continue
            g = state.gradients[row.index]
            if E is None:
                _adjacent(matrix, row, column, g, state.slopes[index], y)
            else:
                _distant(matrix, row, column, E, g, y)


def _view(matrix: Tensor, row: Block, p: Piece, column: Block, q: Piece) -> Tensor:
    """Return the place of two parameters as a view ``(a, b, c, e)``."""
    rows = slice(p.start, p.start + row.outputs * p.width)
    columns = slice(q.start, q.start + column.outputs * q.width)
    return matrix[rows, columns].view(row.outputs, p.width, column.outputs, q.width)


def _put(place: Tensor, value: Tensor, *, add: bool) -> None:
    if add:
        place.add_(value)
    else:
        place.copy_(value)


def _step(entries_per_unit: int) -> int:
    return max(1, _TILE_BYTES // (8 * entries_per_unit))


def _diagonal(matrix: Tensor, row: Block, Q: Tensor, x: Tensor, *, add: bool) -> None:
    """One layer with itself: symmetric in (a, c) and in (b, e), so a quarter of it."""
    m, (width, n) = row.outputs, x.shape
    a, c = torch.tril_indices(m, m, device=x.device)
    b, e = torch.tril_indices(width, width, device=x.device)
    U = Q.view(-1, n).index_select(0, a * m + c)
    V = x.index_select(0, b).mul_(x.index_select(0, e))
    pair_of_units = _pairs(m, x.device)
    pair_of_inputs = _pairs(width, x.device)
    lower = [
        (p, q, pair_of_inputs[p.columns, q.columns].reshape(-1))
        for p in row.pieces
        for q in row.pieces
        if p.start >= q.start
    ]
    triangular = [(p, where) for p, q, where in lower if p is q and p.width > 1]
    whole = [
        piece for piece in lower if piece[0] is not piece[1] or piece[0].width == 1
    ]
    for first, last in _unit_groups(m, len(b)):
        begin, end = first * (first + 1) // 2, last * (last + 1) // 2
        product = U[begin:end] @ V.T
        for p, where in triangular:
            chosen = product.index_select(1, where)
            for unit in range(first, last):
                at = unit * (unit + 1) // 2 - begin
                rows = chosen[at : at + unit + 1]
                i = p.start + unit * p.width
                place = matrix[
                    i : i + p.width, p.start : p.start + (unit + 1) * p.width
                ]
                value = rows.view(unit + 1, p.width, p.width).transpose(0, 1)
                _put(place.view(p.width, unit + 1, p.width), value, add=add)
    # A bias's rows lie below all of the weight's, or the other way round, so that all
    # (a, c) are needed.
    for p, q, where in whole:
        rows = (U @ V.index_select(0, where).T).index_select(0, pair_of_units.view(-1))
        value = rows.view(m, m, p.width, q.width).transpose(1, 2)
        _put(_view(matrix, row, p, row, q), value, add=add)


def _pairs(size: int, device: torch.device) -> Tensor:
    """Return the number of each pair in the order of `torch.tril_indices`."""
    i = torch.arange(size, device=device)
    high, low = torch.maximum(i[:, None], i), torch.minimum(i[:, None], i)
    return high * (high + 1) // 2 + low


def _unit_groups(units: int, columns: int) -> Iterator[tuple[int, int]]:
    """Split units so that each group's pairs fit a tile."""
    limit, first = _step(columns), 0
    while first < units:
        last = first + 1
        while (
            last < units and (last + 1) * (last + 2) - first * (first + 1) <= 2 * limit
        ):
            last += 1
        yield first, last
        first = last


def _outer(
    matrix: Tensor,
    row: Block,
    column: Block,
    S: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    add: bool,
) -> None:
    """The first sum: ``(a, c)`` against ``(b, e)``."""
    units = column.outputs
    V = (x[:, None, :] * y).flatten(0, 1)
    step = _step(units * len(V))
    for first in range(0, row.outputs, step):
        U = S[first : first + step].flatten(0, 1)
        product = (U @ V.T).view(-1, units, len(x), len(y))
        for p in row.pieces:
            for q in column.pieces:
                place = _view(matrix, row, p, column, q)[first : first + step]
                value = product[:, :, p.columns, q.columns].transpose(1, 2)
                _put(place, value, add=add)


def _adjacent(
    matrix: Tensor, row: Block, column: Block, g: Tensor, slope: Tensor, y: Tensor
) -> None:
    """The second sum for neighbours, where E is diagonal: only ``b == c``."""
    U = (g[:, None, :] * slope).flatten(0, 1)
    product = (U @ y.T).view(row.outputs, column.outputs, len(y))
    p = row.pieces[0]
    for q in column.pieces:
        place = _view(matrix, row, p, column, q).diagonal(dim1=1, dim2=2)
        place.add_(product[:, :, q.columns].transpose(1, 2))


def _distant(
    matrix: Tensor,
    row: Block,
    column: Block,
    E: Tensor,
    g: Tensor,
    y: Tensor,
) -> None:
    """The second sum in general: ``(b, c)`` against ``(a, e)``."""
    inputs, units, _ = E.shape
    V = E.flatten(0, 1)
    step = _step(len(V) * len(y))
    p = row.pieces[0]
    for first in range(0, row.outputs, step):
        U = (g[first : first + step, None, :] * y).flatten(0, 1)
        product = (V @ U.T).view(inputs, units, -1, len(y))
        for q in column.pieces:
            place = _view(matrix, row, p, column, q)[first : first + step]
            place.add_(product[..., q.columns].permute(2, 0, 1, 3))


def mirror(matrix: Tensor) -> None:
    """Copy the lower triangle onto the upper one, tile by tile."""
    size = len(matrix)
    for first in range(0, size, _MIRROR):
        last = min(first + _MIRROR, size)
        tile = matrix[first:last, first:last]
        tile.copy_(tile.tril() + tile.tril(-1).T)
        for other in range(last, size, _MIRROR):
            rows = slice(other, min(other + _MIRROR, size))
            matrix[first:last, rows] = matrix[rows, first:last].T
