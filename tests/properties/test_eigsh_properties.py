import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curvescope.linalg import eigsh, lanczos, slq
from curvescope.testing.matrices import counting, matrix_with_spectrum


@st.composite
def _matrices(draw):
    """Random spectra with repetitions, zeros, decays and any scale."""
    n = draw(st.integers(1, 90))
    seed = draw(st.integers(0, 2**31))
    kind = draw(st.sampled_from(["uniform", "power", "plateaus", "low rank", "gap"]))
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(n, generator=generator, dtype=torch.float64)
    spectrum = {
        "uniform": 2 * u - 1,
        "power": (1 + torch.arange(n)) ** -2.0 * (u - 0.5).sign(),
        "plateaus": (5 * u).floor() - 1,
        "low rank": torch.where(u < 0.1, 1 + u, 0.0),
        "gap": torch.where(u < 0.1, 10 + u, 0.1 * u),
    }[kind]
    scale = 10.0 ** draw(st.integers(-12, 12))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return matrix_with_spectrum(scale * spectrum, generator=generator, dtype=dtype)


@settings(deadline=None, max_examples=60)
@given(
    matrix=_matrices(),
    fraction=st.floats(0, 1),
    which=st.sampled_from(["LM", "LA", "SA", "BE"]),
    block_size=st.integers(1, 3),
)
def test_eigsh_agrees_with_numpy_whatever_the_matrix(
    matrix, fraction, which, block_size
):
    n = len(matrix)
    k = max(1, round(fraction * min(n, 12)))
    counted = counting(matrix)

    result = eigsh(counted, k=k, which=which, block_size=block_size)

    D = matrix.double().numpy()
    truth = np.linalg.eigvalsh(D)
    norm = np.abs(truth).max()
    values, V = result.eigenvalues.numpy(), result.eigenvectors.double().numpy()
    eps = torch.finfo(matrix.dtype).eps
    key = {"LM": np.abs, "LA": np.array, "SA": np.negative}.get(which)
    if key is None:
        wanted = np.concatenate([truth[: k // 2], truth[n - k + k // 2 :]])
        np.testing.assert_allclose(
            np.sort(values), np.sort(wanted), atol=result.tolerance * norm
        )
    else:
        best = np.sort(key(truth))[::-1][:k]
        np.testing.assert_allclose(
            np.sort(key(values))[::-1], best, atol=result.tolerance * norm
        )
    residuals = np.linalg.norm(D @ V - V * values, axis=0)
    allowed = np.maximum(1.01 * result.tolerance * np.abs(values), 64 * eps * norm)
    assert result.converged.all()
    assert (residuals <= allowed).all()
    np.testing.assert_allclose(V.T @ V, np.eye(k), atol=8 * eps)
    assert counted.num_matvecs == result.cost.num_matvecs


@settings(deadline=None, max_examples=30)
@given(matrix=_matrices(), fraction=st.floats(0, 1))
def test_ritz_values_lie_within_the_spectrum_and_the_basis_is_orthonormal(
    matrix, fraction
):
    n = len(matrix)

    result = lanczos(matrix, max(1, round(fraction * n)))

    truth = np.linalg.eigvalsh(matrix.double().numpy())
    slack = 100 * torch.finfo(matrix.dtype).eps * np.abs(truth).max()
    V = result.basis.double()
    m = V.shape[1]
    assert float(result.eigenvalues.max()) <= truth.max() + slack
    assert float(result.eigenvalues.min()) >= truth.min() - slack
    eps = torch.finfo(matrix.dtype).eps
    np.testing.assert_allclose(V.T @ V, np.eye(m), atol=50 * eps)


@settings(deadline=None, max_examples=30)
@given(matrix=_matrices(), num_steps=st.integers(1, 20))
def test_quadratures_are_probability_measures_within_the_spectrum(matrix, num_steps):
    result = slq(matrix, num_probes=2, num_steps=num_steps)

    used = result.weights > 0
    truth = np.linalg.eigvalsh(matrix.double().numpy())
    slack = 100 * torch.finfo(matrix.dtype).eps * np.abs(truth).max()
    np.testing.assert_allclose(result.weights.sum(dim=1), 1.0)
    assert (result.weights >= 0).all()
    assert float(result.nodes[used].max()) <= truth.max() + slack
    assert float(result.nodes[used].min()) >= truth.min() - slack
