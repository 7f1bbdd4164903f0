"""Algorithms without networks: they see a `LinearOperator` and nothing else."""

from curvescope.linalg.eigsh import eigsh

__all__ = ["eigsh"]
