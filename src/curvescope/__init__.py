"""Trustworthy curvature analysis of PyTorch models.

One noun goes in (`Problem`), one interface stands in the middle (`LinearOperator`),
frozen results come out, each with its error, its cost and its unit.
"""

from curvescope import distributed, losses
from curvescope._core.progress import showing_progress
from curvescope.analysis import (
    all_layers,
    analyze,
    balance_,
    block_norms,
    homogeneity,
    initialisation_report,
    laplace,
    laplace_predict,
    layer_curvature,
    loss_surface,
    rank_report,
    start_vectors,
    step_size,
    track,
)
from curvescope.curvature import (
    GGN,
    NTK,
    EmpiricalFisher,
    FunctionalHessian,
    Hessian,
    Jacobian,
    MonteCarloFisher,
)
from curvescope.linalg import (
    diagonal,
    effective_dimension,
    eigsh,
    frobenius_norm,
    lanczos,
    logdet,
    numerical_rank,
    slq,
    spectral_density,
    trace,
)
from curvescope.linop import aslinearoperator
from curvescope.losses import Loss
from curvescope.problem import Problem
from curvescope.report import report

__all__ = [
    "GGN",
    "NTK",
    "EmpiricalFisher",
    "FunctionalHessian",
    "Hessian",
    "Jacobian",
    "Loss",
    "MonteCarloFisher",
    "Problem",
    "all_layers",
    "analyze",
    "aslinearoperator",
    "balance_",
    "block_norms",
    "diagonal",
    "distributed",
    "effective_dimension",
    "eigsh",
    "frobenius_norm",
    "homogeneity",
    "initialisation_report",
    "lanczos",
    "laplace",
    "laplace_predict",
    "layer_curvature",
    "logdet",
    "loss_surface",
    "losses",
    "numerical_rank",
    "rank_report",
    "report",
    "showing_progress",
    "slq",
    "spectral_density",
    "start_vectors",
    "step_size",
    "trace",
    "track",
]
