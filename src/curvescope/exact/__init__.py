"""Exact matrices in float64: closed forms, autodiff for the rest, exact arithmetic."""

from curvescope.exact.assembly import (
    ExactMatrices,
    functional_hessian,
    ggn,
    hessian,
    matrices,
)
from curvescope.exact.blocks import block_picture, layer_blocks
from curvescope.exact.factor import factor_triangle, ggn_factor, has_factor

__all__ = [
    "ExactMatrices",
    "block_picture",
    "factor_triangle",
    "functional_hessian",
    "ggn",
    "ggn_factor",
    "has_factor",
    "hessian",
    "layer_blocks",
    "matrices",
]
