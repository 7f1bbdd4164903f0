"""What a chain excludes, against eigenpairs that numpy has."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import curvescope as cs
from curvescope.linalg._hidden import largest_share

SIZES = st.integers(8, 25)
SEEDS = st.integers(0, 10_000)


def chain(
    A: np.ndarray, start: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of a block Krylov space, and T and R on them."""
    blocks = [np.linalg.qr(start)[0]]
    for _ in range(steps):
        W = A @ blocks[-1]
        for _ in range(2):
            for block in blocks:
                W = W - block @ (block.T @ W)
        # What depends on earlier rows up to rounding is left out, as in the chain itself.
        U, sizes, _ = np.linalg.svd(W, full_matrices=False)
        blocks.append(U[:, sizes > 1e-10 * np.abs(A).max()])
    Q, P = np.hstack(blocks[:-1]), blocks[-1]
    return Q, Q.T @ A @ Q, P.T @ A @ Q


def problem(n: int, width: int, steps: int, seed: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, n))
    A = A + A.T
    Q, T, R = chain(A, rng.standard_normal((n, width)), steps)
    return A, Q, T, R


def share(T: np.ndarray, R: np.ndarray, width: int, value: float) -> float:
    return largest_share(torch.from_numpy(T), torch.from_numpy(R), width, value)


@given(SIZES, st.integers(1, 3), st.integers(1, 2), SEEDS)
def test_no_eigenvector_has_a_larger_share_of_the_start_than_the_bound(
    n: int, width: int, steps: int, seed: int
) -> None:
    A, Q, T, R = problem(n, width, steps, seed)
    values, vectors = np.linalg.eigh(A)
    for value, vector in zip(values, vectors.T, strict=True):
        there = np.square(Q[:, :width].T @ vector).sum()
        assert there <= share(T, R, width, value) * (1 + 1e-6) + 1e-12


@given(SIZES, st.integers(2, 5), SEEDS)
def test_the_bound_is_the_christoffel_function_of_the_chains_polynomials(
    n: int, steps: int, seed: int
) -> None:
    _, _, T, R = problem(n, 1, steps, seed)
    value = float(np.abs(np.linalg.eigvalsh(T)).max()) + 1.0
    # beta_i p_i+1 = (x - alpha_i) p_i - beta_i-1 p_i-1; the signs of beta do not matter.
    betas = [*np.diagonal(T, 1), R[0, -1]]
    polynomials = [0.0, 1.0]
    for i, beta in enumerate(betas):
        before = betas[i - 1] * polynomials[-2] if i else 0.0
        polynomials.append(((value - T[i, i]) * polynomials[-1] - before) / beta)
    expected = 1.0 / np.square(polynomials).sum()
    assert share(T, R, 1, value) == pytest.approx(expected, rel=1e-6)


@given(SIZES, st.integers(1, 3), SEEDS)
def test_the_bound_falls_with_the_distance_from_the_ritz_values(
    n: int, width: int, seed: int
) -> None:
    _, _, T, R = problem(n, width, 2, seed)
    top = float(np.linalg.eigvalsh(T).max())
    shares = [share(T, R, width, top + d) for d in (0.1, 0.5, 1.0, 3.0, 30.0)]
    assert shares == sorted(shares, reverse=True)


def test_a_repeated_eigenvalue_is_found_in_as_many_of_200_runs_as_promised() -> None:
    n = 400
    values = torch.cat(
        [torch.tensor([5.0, 5.0, 4.0]), torch.linspace(-1.0, 1.0, n - 3)]
    )
    A = torch.diag(values.double())
    found = 0
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        top = cs.eigsh(A, k=2, tol=1e-6, generator=generator).eigenvalues
        found += bool(torch.allclose(top, torch.full_like(top, 5.0)))
    # The bound is pessimistic: a value that is near already shows in the chain.
    assert found >= 190


def test_the_check_takes_few_products_where_the_rest_of_the_spectrum_is_small() -> None:
    n = 20_000
    i = torch.arange(1, n + 1, dtype=torch.float64)
    A = cs.aslinearoperator((lambda V: (40 / i)[:, None] * V, (n, n)), symmetric=True)
    with_check = cs.eigsh(A, k=5, tol=1e-3).cost.num_matvecs
    without = cs.eigsh(A, k=5, tol=1e-3, check_multiplicity=False).cost.num_matvecs
    assert 0 < with_check - without <= 8
