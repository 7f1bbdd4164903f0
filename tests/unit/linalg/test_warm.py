"""Eigenpairs from vectors of a matrix nearby, against dense diagonalisation."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curvescope._core.errors import AccuracyWarning
from curvescope.linalg import eigsh, eigsh_from
from curvescope.linop import aslinearoperator

N = 200


def spectrum(
    dtype=torch.float64, *, top=(50.0, 31.0, 20.0, -26.0, 12.0, -40.0, -18.0, -12.0)
):
    """Return eigenvalues with a few outliers over a bulk of both signs."""
    bulk = torch.linspace(-1.0, 3.0, N - len(top), dtype=dtype)
    return torch.cat([torch.tensor(top, dtype=dtype), bulk])


def matrix(values, seed=0):
    """Return a dense matrix with these eigenvalues, and its eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(values), len(values), generator=generator).double()
    vectors = torch.linalg.qr(noise).Q.to(values)
    return vectors @ torch.diag(values) @ vectors.T, vectors


def disturbed(vectors, size, seed=1):
    """Return unit vectors that are off by about `size`."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(vectors.shape, generator=generator).to(vectors)
    moved = vectors + size * noise / noise.norm(dim=0)
    return moved / moved.norm(dim=0)


@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
@pytest.mark.parametrize("size", [0.0, 0.05, 0.5, 5.0])
def test_pairs_are_those_of_the_dense_matrix(which, size, dtype):
    A, vectors = matrix(spectrum(dtype))
    tol = 1e-4 if dtype == torch.float32 else 1e-9

    pairs = eigsh_from(A, disturbed(vectors[:, :4], size), k=4, which=which, tol=tol)

    exact = np.linalg.eigvalsh(A.double().numpy())
    best = {
        "LM": sorted(exact, key=abs)[-4:],
        "LA": exact[-4:],
        "SA": exact[:4],
        "BE": [*exact[:2], *exact[-2:]],
    }[which]
    expected = torch.tensor(sorted(best, reverse=True), dtype=torch.float64)
    torch.testing.assert_close(pairs.eigenvalues, expected, rtol=5e-6, atol=1e-5)
    assert bool(pairs.converged.all())


def test_residuals_are_true_ones(dtype):
    A, vectors = matrix(spectrum(dtype))

    pairs = eigsh_from(A, disturbed(vectors[:, :3], 0.1), k=3, which="LA", tol=1e-2)

    V = pairs.eigenvectors.double()
    true = torch.linalg.vector_norm(A.double() @ V - V * pairs.eigenvalues, dim=0)
    slack = 50 * torch.finfo(dtype).eps * 50.0
    torch.testing.assert_close(pairs.residual_norms, true, rtol=1e-3, atol=slack)
    assert bool((true <= 1e-2 * pairs.eigenvalues + slack).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.0, 0.01, 0.1])
def test_near_vectors_save_products(dtype, size):
    values = 1.0 / torch.arange(1, 401, dtype=dtype)
    saved, cold = 0, 0
    for seed in range(4):
        A, vectors = matrix(values, seed)
        generator = torch.Generator().manual_seed(seed)
        alone = eigsh(A, k=6, tol=1e-3, check_multiplicity=False, generator=generator)
        near = disturbed(vectors[:, :6], size)
        warm = eigsh_from(A, near, k=6, tol=1e-3, generator=generator)
        cold += alone.cost.num_matvecs
        saved += alone.cost.num_matvecs - warm.cost.num_matvecs
        torch.testing.assert_close(
            warm.eigenvalues, values[:6].double(), rtol=1e-4, atol=0
        )

    assert saved >= 0.15 * cold


@pytest.mark.parametrize("kind", ["noise", "the other end", "one vector", "opposites"])
def test_bad_vectors_cost_hardly_more_than_none(kind):
    values = spectrum(top=(50.0, 31.0, 20.0, 17.0, 12.0, -40.0, -18.0))
    bad, cold = 0, 0
    for seed in range(6):
        A, vectors = matrix(values, seed)
        noise = torch.randn(N, 4, generator=torch.Generator().manual_seed(seed))
        start = {
            "noise": noise.double(),
            "the other end": vectors[:, [5, 6, 7, 8]],
            "one vector": vectors[:, :1],
            "opposites": torch.stack([vectors[:, 0], -vectors[:, 0]], dim=1),
        }[kind]
        arguments = {
            "k": 4,
            "which": "LA",
            "generator": torch.Generator().manual_seed(seed),
        }
        alone = eigsh(A, check_multiplicity=False, tol=1e-4, **arguments)
        warm = eigsh(A, check_multiplicity=False, tol=1e-4, start=start, **arguments)
        bad += warm.cost.num_matvecs
        cold += alone.cost.num_matvecs
        expected = torch.tensor([50.0, 31.0, 20.0, 17.0], dtype=torch.float64)
        torch.testing.assert_close(warm.eigenvalues, expected, rtol=1e-6, atol=0)

    assert bad <= 1.1 * cold + 6


def test_earlier_pairs_are_a_start_and_those_without_vectors_are_not():
    A, _ = matrix(1.0 / torch.arange(1, 201, dtype=torch.float64))
    earlier = eigsh(A, k=5, tol=1e-3, check_multiplicity=False)
    numbers = eigsh(A, k=5, tol=1e-3, eigenvectors=False)

    again = eigsh(A, k=5, tol=1e-3, start=earlier, check_multiplicity=False)

    assert again.cost.num_matvecs <= earlier.cost.num_matvecs - 3
    assert again.settings["start"] == "5 given vectors"
    with pytest.raises(ValueError, match="`start` must have eigenvectors"):
        eigsh(A, k=5, start=numbers)
    with pytest.raises(TypeError, match="`start` must be a Tensor"):
        eigsh(A, k=5, start=[1.0] * 200)


def test_class_means_around_their_mean_add_up_to_zero_and_still_start():
    A, vectors = matrix(spectrum())
    means = vectors[:, :5] - vectors[:, :5].mean(dim=1, keepdim=True)

    pairs = eigsh(A, k=3, which="LA", start=means)

    assert float(means.sum(dim=1).norm()) < 1e-12
    assert bool(pairs.converged.all())
    assert pairs.eigenvalues.tolist() == pytest.approx([50.0, 31.0, 20.0])


def test_a_larger_eigenvalue_that_came_up_beside_the_given_vectors_is_found():
    values = spectrum(top=(50.0, 31.0, 20.0, 35.0, 12.0))
    A, vectors = matrix(values)

    pairs = eigsh_from(A, vectors[:, [0, 1, 2]], k=3, which="LA", tol=1e-2)

    assert pairs.eigenvalues.tolist() == pytest.approx([50, 35, 31], rel=1e-3)


def test_products_are_counted():
    A, vectors = matrix(spectrum())
    columns = []

    def multiply(V):
        columns.append(V.shape[1])
        return A @ V

    function = (multiply, (N, N), torch.float64)
    operator = aslinearoperator(function, symmetric=True)

    pairs = eigsh_from(operator, disturbed(vectors[:, :3], 0.1), k=3, which="LA")

    assert sum(columns) == pairs.cost.num_matvecs


def test_a_full_basis_hands_over_to_restarts():
    values = torch.linspace(0.0, 1.0, N, dtype=torch.float64).sqrt()
    A, vectors = matrix(values)

    pairs = eigsh_from(A, vectors[:, :2], k=2, which="LA", tol=1e-6, basis_size=8)

    assert pairs.eigenvalues.tolist() == pytest.approx(values[-2:].flip(0).tolist())
    assert pairs.cost.num_matvecs > 8


def test_a_chain_that_closes_goes_on_with_another_vector():
    A = torch.diag(torch.tensor([3.0] * 10 + [1.0] * 90))

    pairs = eigsh_from(A, torch.eye(100)[:, :1], k=4, which="LA")

    # Two eigenvalues make chains of two vectors; repeated ones are not looked for.
    assert pairs.eigenvalues[0].item() == pytest.approx(3.0)
    assert bool(pairs.converged.all())
    V = pairs.eigenvectors
    torch.testing.assert_close(V.T @ V, torch.eye(4), rtol=0, atol=1e-5)


def test_too_few_products_are_said():
    values = torch.linspace(0.0, 1.0, N, dtype=torch.float64)
    A, vectors = matrix(values)

    with pytest.warns(AccuracyWarning, match="did not reach the relative residual"):
        pairs = eigsh_from(A, vectors[:, :3], k=3, tol=1e-8, max_matvecs=8)

    assert not bool(pairs.converged.all())
    assert pairs.cost.num_matvecs <= 8


def test_the_scale_of_the_matrix_changes_nothing():
    A, vectors = matrix(spectrum(torch.float32))
    start = disturbed(vectors[:, :3], 0.2)

    one = eigsh_from(A, start, k=3, which="LA")
    other = eigsh_from(A * 2.0**-90, start, k=3, which="LA")

    assert torch.equal(one.eigenvalues * 2.0**-90, other.eigenvalues)
    assert one.cost.num_matvecs == other.cost.num_matvecs


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), n=st.integers(5, 40), k=st.integers(1, 5))
def test_any_small_matrix_and_any_vectors(seed, n, k):
    generator = torch.Generator().manual_seed(seed)
    B = torch.randn(n, n, generator=generator, dtype=torch.float64)
    A = B + B.T
    vectors = torch.randn(n, k, generator=generator, dtype=torch.float64)

    pairs = eigsh_from(A, vectors, k=k, which="LA", tol=1e-9)

    expected = np.linalg.eigvalsh(A.numpy())[::-1][:k].copy()
    np.testing.assert_allclose(pairs.eigenvalues.numpy(), expected, atol=1e-7)


@pytest.mark.parametrize(
    ("vectors", "text"),
    [
        (torch.ones(N), "`vectors` must have shape (200, b)"),
        (torch.ones(3, 2), "`vectors` must have shape (200, b)"),
        (torch.full((N, 1), torch.nan), "`vectors` must be finite"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(vectors, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        eigsh_from(torch.eye(N), vectors, k=1)
