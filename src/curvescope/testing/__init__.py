"""Public helpers for tests: known matrices, counted products, checks, the traps."""

from curvescope.testing import traps
from curvescope.testing.matrices import (
    CountingOperator,
    counting,
    matrix_with_spectrum,
)
from curvescope.testing.operators import (
    check_against_central_differences,
    check_operator,
)

__all__ = [
    "CountingOperator",
    "check_against_central_differences",
    "check_operator",
    "counting",
    "matrix_with_spectrum",
    "traps",
]
