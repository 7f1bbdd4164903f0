"""Blocks of dense matrices, one for every pair of layers."""

import math
import time
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from curvescope._core import memory
from curvescope._core.checks import message, positive_int
from curvescope.exact.assembly import ExactMatrices
from curvescope.linop.convert import DenseOperator
from curvescope.results import BlockPicture, Cost


def layer_slices(matrix: DenseOperator) -> dict[str, slice]:
    """Return each layer's rows: those of the parameters that one module owns.

    Args:
        matrix: Of a problem; its ``info`` names the parameters.

    Returns:
        By the module's name, ``"(top)"`` for the model's own parameters.

    Raises:
        ValueError: If the matrix does not know its parameters.
    """
    found: dict[str, slice] = {}
    for place in matrix.info.slices:
        owner = place.name.rpartition(".")[0] or "(top)"
        start = found[owner].start if owner in found else place.start
        found[owner] = slice(start, place.stop)
    filled = {name: rows for name, rows in found.items() if rows.stop > rows.start}
    if not filled:
        remedy = "Take one of `curvescope.exact.matrices(problem)`."
        got = f"a matrix of {matrix.info.description}"
        raise ValueError(message("matrix", "name its parameters", got, remedy))
    return filled


def layer_blocks(matrix: DenseOperator) -> dict[tuple[str, str], Tensor]:
    """Return the blocks of a dense matrix by pairs of layers.

    Args:
        matrix: Of a problem, as `curvescope.exact.hessian` returns it.

    Returns:
        Views of the matrix: ``(row layer, column layer)`` to its block, for all pairs.

    Raises:
        ValueError: If the matrix does not know its parameters.

    Cost:
        None: nothing is copied.

    Example:
        >>> from curvescope.exact.assembly import hessian
        >>> from curvescope.problem import Problem
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        >>> data = (torch.ones(5, 3), torch.zeros(5, dtype=torch.long))
        >>> layer_blocks(hessian(Problem(net, "cross_entropy", data)))["1", "0"].shape
        torch.Size([10, 16])
    """
    layers = layer_slices(matrix)
    return {
        (row, column): matrix.matrix[layers[row], layers[column]]
        for row in layers
        for column in layers
    }


def block_picture(
    matrices: ExactMatrices, *, side: int = 256, ranks: bool = True
) -> BlockPicture:
    r"""Reduce the matrices to pictures, and every block to its norm and rank.

    All ranks count the singular values above one tolerance, that of the whole,
    :math:`P\, \varepsilon\, \|H\|_2` with H the largest of the matrices, so that a block
    of rounding errors has rank 0.

    Args:
        matrices: At least one matrix.
        side: Pixels of a picture's side, at most.
        ranks: Whether to compute ranks, which costs more than all the rest.

    Returns:
        Pictures of magnitudes, borders, norms and ranks.

    Raises:
        ValueError: If there is no matrix.

    Cost:
        With ranks the singular values of all blocks, ``O(P^3)``; else ``O(P^2)``.

    Example:
        >>> from curvescope.exact.assembly import matrices
        >>> from curvescope.problem import Problem
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        >>> data = (torch.ones(5, 3), torch.zeros(5, dtype=torch.long))
        >>> picture = block_picture(matrices(Problem(net, "cross_entropy", data)))
        >>> picture.ranks["functional"].tolist()
        [[0, 4], [4, 0]]
    """
    side = positive_int("side", side)
    computed = matrices.computed
    if not computed:
        raise ValueError(message("matrices", "hold a matrix", "none"))
    began = time.perf_counter()
    first = next(iter(computed.values()))
    layers = layer_slices(first)
    size = first.shape[0]
    tolerance = _tolerance(computed) if ranks else 0.0
    reduced, norms, counted = {}, {}, {}
    for name, operator in computed.items():
        reduced[name] = _picture(operator.matrix, min(side, size)).cpu()
        norms[name] = torch.zeros(len(layers), len(layers), dtype=torch.float64)
        counted[name] = torch.zeros(len(layers), len(layers), dtype=torch.int64)
        for i, j, block in _lower_blocks(operator):
            norms[name][i, j] = norms[name][j, i] = torch.linalg.norm(block)
            if ranks:
                count = _rank(block, tolerance)
                counted[name][i, j] = counted[name][j, i] = count
    starts = [rows.start / size for rows in layers.values()]
    return BlockPicture(
        of=first.info,
        cost=matrices.cost
        + Cost(
            seconds=time.perf_counter() - began,
            peak_memory=memory.peak_memory(first.device),
        ),
        settings={"side": side, "tolerance": tolerance},
        notes=matrices.notes,
        pictures=reduced,
        borders=(*starts, 1.0),
        layers=tuple(layers),
        norms=norms,
        ranks=counted if ranks else {},
    )


def _lower_blocks(matrix: DenseOperator) -> Iterator[tuple[int, int, Tensor]]:
    rows = list(layer_slices(matrix).values())
    for i, row in enumerate(rows):
        for j, column in enumerate(rows[: i + 1]):
            yield i, j, matrix.matrix[row, column]


def _tolerance(computed: dict[str, DenseOperator]) -> float:
    norm = max(_spectral_norm(operator.matrix) for operator in computed.values())
    size = len(next(iter(computed.values())).matrix)
    return size * torch.finfo(torch.float64).eps * norm


def _spectral_norm(matrix: Tensor) -> float:
    return float(torch.linalg.eigvalsh(matrix).abs().max())


def _rank(block: Tensor, tolerance: float) -> int:
    # No singular value exceeds the Frobenius norm.
    if float(torch.linalg.norm(block)) <= tolerance:
        return 0
    return int((torch.linalg.svdvals(block) > tolerance).sum())


def _picture(matrix: Tensor, side: int) -> Tensor:
    """Return the maximum of the magnitudes over each pixel."""
    edges = [math.ceil(i * len(matrix) / side) for i in range(side + 1)]
    spans = [slice(a, b) for a, b in pairwise(edges)]
    bands = torch.stack([matrix[rows].abs().amax(0) for rows in spans])
    return torch.stack([bands[:, columns].amax(1) for columns in spans], dim=1)
