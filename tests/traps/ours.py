"""curvescope behind the trap suite's call conventions."""

import warnings

import torch

import curvescope.linalg as la
from curvescope.curvature import (
    GGN,
    NTK,
    EmpiricalFisher,
    FunctionalHessian,
    Hessian,
    Jacobian,
    MonteCarloFisher,
)
from curvescope.linop import FunctionOperator, aslinearoperator
from curvescope.problem import Problem


def hessian(model, loss, batches):
    return Hessian(Problem(model, loss, batches)).to_dense()


def product(model, loss, batches):
    H = Hessian(Problem(model, loss, batches))
    return lambda v: H @ v


def symmetric(matrix):
    return aslinearoperator(matrix, symmetric=True)


def top_eigenvalues(matrix, k, which):
    return la.eigsh(symmetric(matrix), k=k, which=which).eigenvalues


def ritz_values(matrix, num_steps):
    return la.lanczos(symmetric(matrix), num_steps=num_steps).eigenvalues


def solve(multiply, n, k):
    A = FunctionOperator(multiply, n, dtype=torch.float64, symmetric=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pairs = la.eigsh(A, k=k, tol=1e-3)
    return pairs.eigenvalues, pairs.eigenvectors, pairs.converged


def trace(matrix, seed):
    generator = torch.Generator().manual_seed(seed)
    result = la.trace(symmetric(matrix), num_matvecs=24, generator=generator)
    low, high = result.interval()
    return (low + high) / 2, (high - low) / 2


def top_pair(matrix):
    pairs = la.eigsh(symmetric(matrix), k=1)
    return float(pairs.eigenvalues[0]), pairs.eigenvectors[:, 0]


def quadrature(matrix, num_probes, num_steps, seed):
    generator = torch.Generator().manual_seed(seed)
    result = la.slq(
        symmetric(matrix),
        num_probes=num_probes,
        num_steps=num_steps,
        generator=generator,
    )
    return result.nodes, result.weights


def density(matrix):
    result = la.spectral_density(symmetric(matrix), num_probes=12, num_steps=40)
    return result.grid, result.density


def rank(matrix):
    result = la.numerical_rank(matrix)
    return result.rank, result.certain


def every_operator(model, loss, batches):
    """Multiply by each operator once, and run a verb on the Hessian."""
    problem = Problem(model, loss, batches)
    problem.gradient()
    problem.evaluate()
    for kind in (
        Hessian,
        GGN,
        FunctionalHessian,
        EmpiricalFisher,
        MonteCarloFisher,
        Jacobian,
        NTK,
    ):
        A = kind(problem)
        A @ torch.ones(A.shape[1], 3, dtype=A.dtype)
        A @ torch.ones(A.shape[1], dtype=A.dtype)
        A.adjoint_product(torch.ones(A.shape[0], dtype=A.dtype))
    H = Hessian(problem)
    H.block("head").to_dense()
    la.eigsh(H, k=2)
    la.trace(H, num_matvecs=8)
