"""Own blocks of any parameters whatever, formed by products: for small ones."""

import warnings

from torch import Tensor

from curvescope._core.errors import AccuracyWarning
from curvescope.curvature import GGN, FunctionalHessian
from curvescope.curvature.matrices import CurvatureOperator
from curvescope.exact.chain_rule.blocks import DenseBlock, OwnBlock
from curvescope.exact.chain_rule.parts import MATRICES
from curvescope.problem import Problem


def formed_block(part: Problem, name: str) -> OwnBlock:
    """Form the two parts of the Hessian of a few parameters, column by column.

    Args:
        part: Of these parameters alone; promoted to float64.
        name: What the block is called.

    Returns:
        The block, right for whatever the parameters do.

    Cost:
        ``P`` products with the GGN and ``P`` with the functional Hessian; ``16 P^2``
        bytes.
    """
    part = part.promoted()
    with warnings.catch_warnings():
        # That the loss is linear in the outputs is no news: the GGN is zero here.
        warnings.simplefilter("ignore", AccuracyWarning)
        linearisation = _dense(GGN(part))
        curvature = _dense(FunctionalHessian(part))
    if part.weight_decay:
        linearisation.diagonal().sub_(part.weight_decay)
    return DenseBlock(
        name,
        info={key: part.provenance(text) for key, text in MATRICES.items()},
        weight_decay=part.weight_decay,
        linearisation=linearisation,
        curvature=curvature if bool((curvature != 0).any()) else None,
    )


def _dense(operator: CurvatureOperator) -> Tensor:
    matrix = operator.to_dense()
    operator.release()
    return (matrix + matrix.T) / 2
