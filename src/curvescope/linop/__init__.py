"""Linear algebra without networks: operators, their algebra, dense and SciPy forms."""

from curvescope.linop.base import LinearOperator, SymmetricOperator
from curvescope.linop.convert import (
    DenseOperator,
    FunctionOperator,
    aslinearoperator,
)

__all__ = [
    "DenseOperator",
    "FunctionOperator",
    "LinearOperator",
    "SymmetricOperator",
    "aslinearoperator",
]
