"""Linear algebra without networks: operators, their algebra, dense and SciPy forms."""

from curvescope.linop.base import LinearOperator, SymmetricOperator

__all__ = ["LinearOperator", "SymmetricOperator"]
