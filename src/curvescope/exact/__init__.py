"""Exact matrices in float64: closed forms, autodiff for the rest, exact arithmetic."""

from curvescope.exact.assembly import (
    ExactMatrices,
    functional_hessian,
    ggn,
    hessian,
    matrices,
)
from curvescope.exact.blocks import block_picture, layer_blocks
from curvescope.exact.chain_rule import (
    OwnBlock,
    OwnBlocks,
    Parts,
    formed_block,
    own_blocks,
    own_blocks_in_turn,
)
from curvescope.exact.factor import factor_triangle, ggn_factor, has_factor
from curvescope.exact.facts import facts
from curvescope.exact.linear import (
    CompressedMatrices,
    compress,
    kronecker_matrices,
    standardised,
)
from curvescope.exact.linear_structure import (
    functional_eigenvalues,
    ggn_eigenvalues,
    plateaus,
)
from curvescope.exact.network import FeedForward, feed_forward

__all__ = [
    "CompressedMatrices",
    "ExactMatrices",
    "FeedForward",
    "OwnBlock",
    "OwnBlocks",
    "Parts",
    "block_picture",
    "compress",
    "factor_triangle",
    "facts",
    "feed_forward",
    "formed_block",
    "functional_eigenvalues",
    "functional_hessian",
    "ggn",
    "ggn_eigenvalues",
    "ggn_factor",
    "has_factor",
    "hessian",
    "kronecker_matrices",
    "layer_blocks",
    "matrices",
    "own_blocks",
    "own_blocks_in_turn",
    "plateaus",
    "standardised",
]
