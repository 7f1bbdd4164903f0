"""Dense matrices of any module, by autodiff in float64: slow, and right."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from curvescope._core.errors import AccuracyWarning
from curvescope.curvature import GGN, FunctionalHessian, Hessian
from curvescope.curvature.matrices import CurvatureOperator
from curvescope.exact.factor import factor_rows, has_factor
from curvescope.exact.mlp import mirror
from curvescope.problem import Problem

_OPERATORS: dict[str, type[CurvatureOperator]] = {
    "hessian": Hessian,
    "ggn": GGN,
    "functional": FunctionalHessian,
}
# Products are symmetric up to the roundings of a forward and a backward pass.
_ASYMMETRY_EPS = 1e4
_ROWS_BYTES = 64 * 2**20


def autodiff_matrices(
    problem: Problem, parts: Sequence[str]
) -> tuple[dict[str, Tensor], int]:
    """Assemble matrices by products with the identity, the GGN from its factor.

    Scale is included, weight decay not. Where a product's asymmetry is more than
    rounding, some layer's second derivative is wrong, and a warning says so.

    Args:
        problem: In float64.
        parts: Any of ``"hessian"``, ``"ggn"``, ``"functional"``.

    Returns:
        The matrices, exactly symmetric, and the number of products that they took.

    Cost:
        ``P`` products for H and for the functional Hessian; for the GGN a backward pass
        through a few samples for every sample and output, or ``P`` products where the
        loss is not convex in the outputs.
    """
    found: dict[str, Tensor] = {}
    num_matvecs = 0
    for part in parts:
        if part == "ggn" and has_factor(problem):
            found[part] = _gram(problem)
            continue
        with warnings.catch_warnings():
            # That the loss is linear in the outputs is no news: the GGN is zero here.
            warnings.simplefilter("ignore", AccuracyWarning)
            operator = _OPERATORS[part](problem)
        dense = operator.to_dense()
        operator.release()
        decay = problem.weight_decay if part in ("hessian", "ggn") else 0.0
        if decay:
            dense.diagonal().sub_(decay)
        num_matvecs += operator.shape[1]
        found[part] = _symmetrised(dense, part)
    return found, num_matvecs


def _gram(problem: Problem) -> Tensor:
    """Accumulate ``F' F``; exactly symmetric."""
    total: Tensor | None = None
    held: list[Tensor] = []
    count = 0

    def add(total: Tensor | None, rows: list[Tensor]) -> Tensor:
        block = torch.cat(rows)
        return block.T @ block if total is None else total.addmm_(block.T, block)

    for rows in factor_rows(problem, most_bytes=_ROWS_BYTES):
        held.append(rows)
        count += 8 * rows.numel()
        if count >= _ROWS_BYTES:
            total, held, count = add(total, held), [], 0
    if held or total is None:
        total = add(total, held)
    return _symmetrised(total, "ggn")


def _symmetrised(matrix: Tensor, part: str) -> Tensor:
    """Return the symmetric part; warn where the rest is more than rounding."""
    # A copy in any case: a single entry is its own transpose, and contiguous.
    other = matrix.T.clone(memory_format=torch.contiguous_format)
    largest = float(matrix.abs().max())
    other -= matrix
    asymmetry = float(other.abs().max())
    if asymmetry > _ASYMMETRY_EPS * torch.finfo(torch.float64).eps * largest:
        text = (
            f"the {part} matrix by autodiff is asymmetric by {asymmetry / largest:.1e} of "
            "its largest entry; some layer's second derivative is not exact in float64"
        )
        warnings.warn(text, AccuracyWarning, stacklevel=4)
    # The two halves may still differ in the last bit.
    matrix.add_(other, alpha=0.5)
    mirror(matrix)
    return matrix
