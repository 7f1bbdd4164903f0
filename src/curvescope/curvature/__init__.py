"""Curvature matrices of a network, known by their products; no algorithms here."""

from curvescope.curvature.choices import ProductChoices
from curvescope.curvature.jacobian import NTK, Jacobian
from curvescope.curvature.matrices import (
    GGN,
    EmpiricalFisher,
    FunctionalHessian,
    Hessian,
    MonteCarloFisher,
)

__all__ = [
    "GGN",
    "NTK",
    "EmpiricalFisher",
    "FunctionalHessian",
    "Hessian",
    "Jacobian",
    "MonteCarloFisher",
    "ProductChoices",
]
