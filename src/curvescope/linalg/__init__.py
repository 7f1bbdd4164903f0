"""Algorithms without networks: they see a `LinearOperator` and nothing else."""

from curvescope.linalg.density import density_from_nodes, merge, spectral_density
from curvescope.linalg.dimension_bounds import dimension_bounds, with_bounds
from curvescope.linalg.eigsh import eigsh
from curvescope.linalg.functions import (
    effective_dimension,
    effective_dimension_from_density,
    logdet,
)
from curvescope.linalg.lanczos import LanczosDecomposition, lanczos
from curvescope.linalg.rank import estimate_rank, numerical_rank, rank_of_values
from curvescope.linalg.slq import Quadrature, slq
from curvescope.linalg.trace import diagonal, frobenius_norm, trace
from curvescope.linalg.warm import eigsh_from

__all__ = [
    "LanczosDecomposition",
    "Quadrature",
    "density_from_nodes",
    "diagonal",
    "dimension_bounds",
    "effective_dimension",
    "effective_dimension_from_density",
    "eigsh",
    "eigsh_from",
    "estimate_rank",
    "frobenius_norm",
    "lanczos",
    "logdet",
    "merge",
    "numerical_rank",
    "rank_of_values",
    "slq",
    "spectral_density",
    "trace",
    "with_bounds",
]
