"""Public helpers for tests: matrices with a given spectrum, counted products."""

from curvescope.testing.matrices import (
    CountingOperator,
    counting,
    matrix_with_spectrum,
)

__all__ = ["CountingOperator", "counting", "matrix_with_spectrum"]
