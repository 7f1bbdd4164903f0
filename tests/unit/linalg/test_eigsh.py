import numpy as np
import pytest
import torch

from curvescope._core import memory
from curvescope._core.checkpoint import Checkpoint
from curvescope._core.errors import (
    AccuracyWarning,
    ChangedDuringComputationError,
    ConvergenceError,
)
from curvescope.linalg import eigsh
from curvescope.linop import FunctionOperator
from curvescope.linop.base import SymmetricOperator
from curvescope.testing.matrices import counting, matrix_with_spectrum


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _outliers(n, *values, bulk=0.1):
    rest = torch.linspace(-bulk, bulk, n - len(values), dtype=torch.float64)
    return torch.cat([torch.tensor(values, dtype=torch.float64), rest])


def _wanted(matrix, k, which):
    values = np.linalg.eigvalsh(matrix.double().numpy())
    if which == "LM":
        chosen = values[np.argsort(-np.abs(values), kind="stable")][:k]
    elif which == "LA":
        chosen = values[-k:]
    elif which == "SA":
        chosen = values[:k]
    else:
        chosen = np.concatenate([values[: k // 2], values[len(values) - k + k // 2 :]])
    return np.sort(chosen)[::-1]


def _assert_certified(matrix, result, *, orthonormal=1e-12):
    """Recompute everything that is claimed, in float64, by another library."""
    D = matrix.double().numpy()
    V = result.eigenvectors.double().numpy()
    k = V.shape[1]
    norm = np.abs(np.linalg.eigvalsh(D)).max()
    eps = torch.finfo(matrix.dtype).eps
    residuals = np.linalg.norm(D @ V - V * result.eigenvalues.numpy(), axis=0)
    allowed = np.maximum(
        result.tolerance * np.abs(result.eigenvalues.numpy()), 64 * eps * norm
    )
    np.testing.assert_allclose(V.T @ V, np.eye(k), atol=max(orthonormal, 4 * eps))
    assert (residuals <= 1.01 * allowed)[result.converged.numpy()].all()
    assert (np.diff(result.eigenvalues.numpy()) <= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
@pytest.mark.parametrize("block_size", [1, 3])
def test_eigsh_agrees_with_numpy_at_every_end(dtype, which, block_size):
    spectrum = _outliers(200, 9.0, 5.0, 3.0, 1.0, -1.5, -4.0, -7.0)
    matrix = matrix_with_spectrum(spectrum, generator=_generator(), dtype=dtype)

    result = eigsh(matrix, k=5, which=which, block_size=block_size)

    tolerance = 2e-5 if dtype == torch.float32 else 1e-10
    expected = _wanted(matrix, 5, which)
    np.testing.assert_allclose(result.eigenvalues, expected, atol=tolerance)
    assert result.converged.all()
    _assert_certified(matrix, result)


def test_a_dominant_negative_eigenvalue_is_found_by_magnitude():
    matrix = matrix_with_spectrum(_outliers(150, -10.0, 4.0, 2.0))

    result = eigsh(matrix, k=2)

    np.testing.assert_allclose(result.eigenvalues, [4.0, -10.0], atol=1e-7)


def test_planted_outliers_come_exactly_once_after_many_steps():
    matrix = matrix_with_spectrum(_outliers(400, 50.0, 20.0, 10.0))

    result = eigsh(matrix, k=12, basis_size=140, tol=1e-10, max_matvecs=400)

    values = result.eigenvalues
    for planted in (50.0, 20.0, 10.0):
        assert int(((values - planted).abs() < 1e-3).sum()) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("block_size", [1, 4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tenfold_eigenvalues_are_found_tenfold(dtype, block_size, seed):
    plateaus = [v for v in (5.0, 4.0, 3.0, 2.0) for _ in range(10)]
    spectrum = _outliers(220, *plateaus, bulk=0.2)
    matrix = matrix_with_spectrum(spectrum, generator=_generator(seed), dtype=dtype)

    result = eigsh(matrix, k=25, block_size=block_size, generator=_generator(seed))

    expected = [5.0] * 10 + [4.0] * 10 + [3.0] * 5
    np.testing.assert_allclose(result.eigenvalues, expected, rtol=1e-4)
    assert result.converged.all()
    _assert_certified(matrix, result)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
def test_a_matrix_of_five_plateaus_only_is_answered_right(seed, which):
    u = torch.rand(80, generator=_generator(seed), dtype=torch.float64)
    matrix = matrix_with_spectrum((5 * u).floor() - 1.25, dtype=torch.float32)

    result = eigsh(matrix, k=12, which=which)

    np.testing.assert_allclose(
        result.eigenvalues, _wanted(matrix, 12, which), atol=1e-4
    )


def test_without_the_check_a_single_chain_misses_a_repeated_eigenvalue():
    diagonal = torch.cat([torch.tensor([5.0, 5.0, 3.0]), torch.full((97,), 0.1)])
    A = FunctionOperator(lambda V: diagonal[:, None] * V, 100, symmetric=True)

    alone = eigsh(A, k=2, check_multiplicity=False)
    checked = eigsh(A, k=2)

    np.testing.assert_allclose(alone.eigenvalues, [5.0, 3.0], rtol=1e-5)
    np.testing.assert_allclose(checked.eigenvalues, [5.0, 5.0], rtol=1e-5)
    assert checked.cost.num_matvecs > alone.cost.num_matvecs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rank_deficient_matrix_gives_its_zeros(dtype):
    spectrum = torch.zeros(150, dtype=torch.float64)
    spectrum[:3] = torch.tensor([4.0, -3.0, 1.0])
    matrix = matrix_with_spectrum(spectrum, dtype=dtype)

    result = eigsh(matrix, k=8)

    expected = [4.0, 1.0, 0, 0, 0, 0, 0, -3.0]
    np.testing.assert_allclose(result.eigenvalues, expected, atol=1e-5)
    assert result.converged.all()
    _assert_certified(matrix, result)


def test_the_zero_operator_has_zero_eigenvalues_and_orthonormal_vectors():
    matrix = torch.zeros(300, 300)

    result = eigsh(matrix, k=4)

    assert (result.eigenvalues == 0).all()
    assert result.converged.all()
    _assert_certified(matrix, result)


def test_the_identity_needs_few_products():
    result = eigsh(torch.eye(500), k=6)

    np.testing.assert_allclose(result.eigenvalues, np.ones(6), rtol=1e-6)
    assert result.cost.num_matvecs <= 2 * 6 + 2


@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (10, 10), (64, 3), (100, 100)])
def test_small_matrices_and_full_spectra_are_diagonalised(n, k):
    matrix = matrix_with_spectrum(torch.linspace(-2, 3, n) if n > 1 else [2.5])
    counted = counting(matrix)

    result = eigsh(counted, k=k)

    np.testing.assert_allclose(result.eigenvalues, _wanted(matrix, k, "LM"), atol=1e-12)
    assert counted.num_matvecs == result.cost.num_matvecs == n
    _assert_certified(matrix, result)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_scale_of_the_matrix_changes_nothing(scale, dtype):
    spectrum = _outliers(200, 9.0, 5.0, -3.0)
    matrix = matrix_with_spectrum(spectrum, dtype=dtype)
    factor = 2.0 ** round(np.log2(scale))

    one, other = eigsh(matrix, k=3), eigsh(matrix * factor, k=3)

    np.testing.assert_allclose(
        other.eigenvalues / factor, one.eigenvalues, rtol=1e-6, atol=0
    )
    assert other.cost.num_matvecs == one.cost.num_matvecs
    assert other.converged.all()
    np.testing.assert_allclose(
        other.relative_residuals, one.relative_residuals, rtol=0.5, atol=1e-14
    )


@pytest.mark.parametrize("block_size", [1, 2])
def test_reported_products_are_those_that_were_made(block_size):
    counted = counting(matrix_with_spectrum(_outliers(300, 5.0, 4.0, 3.0)))

    result = eigsh(counted, k=3, block_size=block_size, basis_size=12)

    assert counted.num_matvecs == result.cost.num_matvecs


def test_wide_blocks_are_split_to_the_operators_width():
    matrix = matrix_with_spectrum(_outliers(200, 5.0, 4.0, 3.0))
    widths = []

    def product(V):
        widths.append(V.shape[1])
        return matrix @ V

    A = FunctionOperator(
        product, 200, dtype=torch.float64, symmetric=True, block_size=2
    )
    result = eigsh(A, k=3, block_size=5)

    assert max(widths) == 2
    assert sum(widths) == result.cost.num_matvecs


def test_isolated_outliers_take_no_more_products_than_scipy():
    from scipy.sparse.linalg import LinearOperator
    from scipy.sparse.linalg import eigsh as scipy_eigsh

    outliers = (285.4, 128.0, 26.5, 22.7, 14.8, 13.5, 9.2, 6.0, 4.74, 4.12)
    diagonal = _outliers(20_000, *outliers, bulk=0.5).float()
    calls = [0]

    def matvec(x):
        calls[0] += 1
        return diagonal.numpy() * x.ravel()

    n = len(diagonal)
    scipy_eigsh(LinearOperator((n, n), matvec, dtype=np.float32), k=10, tol=1e-3)
    A = FunctionOperator(lambda V: diagonal[:, None] * V, n, symmetric=True)
    alone = eigsh(A, k=10, check_multiplicity=False)
    checked = eigsh(A, k=10)

    assert alone.cost.num_matvecs - 10 <= calls[0]
    assert checked.cost.num_matvecs <= 2 * (alone.cost.num_matvecs - 10) + 10
    np.testing.assert_allclose(checked.eigenvalues, outliers, rtol=1e-5)


def test_long_float32_vectors_reach_a_tight_tolerance():
    n = 600_000
    diagonal = torch.rand(n, generator=_generator())
    diagonal[:3] = torch.tensor([9.0, 6.0, 4.0])
    A = FunctionOperator(lambda V: diagonal[:, None] * V, n, symmetric=True)

    result = eigsh(A, k=3, tol=2e-5, basis_size=20, check_multiplicity=False)

    assert result.converged.all()
    np.testing.assert_allclose(result.eigenvalues, [9.0, 6.0, 4.0], rtol=1e-6)
    gram = result.eigenvectors.double().T @ result.eigenvectors.double()
    np.testing.assert_allclose(gram, np.eye(3), atol=1e-6)


def test_a_restarted_run_agrees_with_a_long_one():
    matrix = matrix_with_spectrum(torch.linspace(0, 1, 300).double() ** 2)

    result = eigsh(matrix, k=4, which="LA", basis_size=14, tol=1e-9)

    np.testing.assert_allclose(result.eigenvalues, _wanted(matrix, 4, "LA"), atol=1e-12)
    assert result.settings["basis_size"] == 14
    _assert_certified(matrix, result)


def test_a_matrix_that_lanczos_cannot_finish_in_n_products_is_diagonalised():
    matrix = matrix_with_spectrum(1.0 / torch.arange(1, 201))

    result = eigsh(matrix, k=6, which="SA", tol=1e-12)

    np.testing.assert_allclose(result.eigenvalues, _wanted(matrix, 6, "SA"), atol=1e-12)
    assert result.settings["method"] == "dense"
    assert result.cost.num_matvecs <= 2 * 200 + 2 * 6 + 1


def test_a_run_out_of_products_is_flagged_and_warned_about():
    matrix = matrix_with_spectrum(torch.linspace(0, 1, 400))

    with pytest.warns(AccuracyWarning, match="did not reach the relative residual"):
        result = eigsh(matrix, k=5, max_matvecs=20)

    assert not result.converged.all()
    assert result.cost.num_matvecs <= 20
    assert any("max_matvecs" in note for note in result.notes)
    _assert_certified(matrix, result)


def test_strict_raises_instead():
    matrix = matrix_with_spectrum(torch.linspace(0, 1, 400))

    with pytest.raises(ConvergenceError, match="did not reach"):
        eigsh(matrix, k=5, max_matvecs=20, strict=True)


def test_a_noisy_operator_never_counts_as_converged():
    matrix = matrix_with_spectrum(_outliers(200, 9.0, 5.0, 3.0))
    noise = _generator(5)

    def product(V):
        kick = torch.randn(V.shape, generator=noise, dtype=V.dtype)
        return matrix @ V + 0.01 * kick / kick.norm()

    A = FunctionOperator(product, 200, dtype=torch.float64, symmetric=True)
    with pytest.warns(AccuracyWarning):
        result = eigsh(A, k=3, max_matvecs=150)

    assert not result.converged.any()


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"k": 0}, ValueError, "`k` must be at least 1"),
        ({"k": 101}, ValueError, "`k` must be at most 100"),
        ({"k": 2.5}, TypeError, "`k` must be an integer"),
        ({"which": "LR"}, ValueError, "`which` must be one of"),
        ({"tol": -1.0}, ValueError, "`tol` must be at least 0"),
        ({"block_size": 0}, ValueError, "`block_size` must be at least 1"),
        ({"basis_size": 3}, ValueError, "`basis_size` must be at least"),
        ({"max_matvecs": 5}, ValueError, "`max_matvecs` must be at least"),
        ({"start": torch.zeros(100)}, ValueError, "`start` must be finite and not"),
        ({"start": torch.ones(7)}, ValueError, "`start` must have shape"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, match):
    matrix = matrix_with_spectrum(_outliers(100, 5.0, 4.0, 3.0))

    with pytest.raises(error, match=match):
        eigsh(matrix, **{"k": 3, **arguments})


def test_matrices_that_eigsh_cannot_answer_for_are_refused():
    generator = _generator()
    X = torch.randn(100, 100, generator=generator)
    broken = torch.eye(100)
    broken[3, 3] = torch.nan
    pretended = FunctionOperator(lambda V: X @ V, 100, symmetric=True)

    with pytest.raises(ValueError, match="`A` must be symmetric"):
        eigsh(X, k=2)
    with pytest.raises(ValueError, match="`A` must be square"):
        eigsh(X[:50], k=2)
    with pytest.raises(ValueError, match="finite products"):
        eigsh(broken, k=2)
    with pytest.raises(ValueError, match="symmetric and deterministic"):
        eigsh(pretended, k=2, max_matvecs=60)


class _Changing(SymmetricOperator):
    """A matrix whose fingerprint moves after a number of products."""

    def __init__(self, matrix, after):
        n = len(matrix)
        super().__init__(
            (n, n), dtype=matrix.dtype, device=matrix.device, symmetric=True
        )
        self.matrix, self.left = matrix, after

    def _matmat(self, V):
        self.left -= V.shape[1]
        return self.matrix @ V

    def refresh(self):
        return "before" if self.left > 0 else "after"


def test_a_matrix_that_changes_meanwhile_is_an_error():
    matrix = matrix_with_spectrum(_outliers(200, 5.0, 4.0, 3.0))

    with pytest.raises(ChangedDuringComputationError, match="stay the same"):
        eigsh(_Changing(matrix, after=10), k=3)


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_stream_alone():
    matrix = matrix_with_spectrum(_outliers(200, 5.0, 4.0, 3.0))
    before = torch.get_rng_state()

    one = eigsh(matrix, k=3, generator=_generator(7))
    other = eigsh(matrix, k=3, generator=_generator(7))

    assert torch.equal(one.eigenvectors, other.eigenvectors)
    assert torch.equal(before, torch.get_rng_state())
    assert one.settings["seed"] == 7


def test_a_start_vector_in_an_eigenspace_does_not_hide_the_others():
    matrix = torch.diag(torch.tensor([5.0, 4.0, 3.0, *[0.1] * 100]))
    start = torch.zeros(103)
    start[2] = 1.0

    result = eigsh(matrix, k=2, start=start)

    np.testing.assert_allclose(result.eigenvalues, [5.0, 4.0], rtol=1e-5)


def test_a_basis_that_does_not_fit_is_made_smaller_and_said(monkeypatch):
    matrix = matrix_with_spectrum(_outliers(300, 5.0, 4.0, 3.0))
    vector = 300 * 8
    monkeypatch.setattr(memory, "available_memory", lambda device: 50 * vector)

    result = eigsh(matrix, k=3)

    assert result.settings["basis_size"] < 40
    assert any("basis holds" in note for note in result.notes)
    np.testing.assert_allclose(result.eigenvalues, [5.0, 4.0, 3.0], atol=1e-7)


def test_a_basis_that_cannot_fit_at_all_is_refused(monkeypatch):
    matrix = matrix_with_spectrum(_outliers(300, 5.0, 4.0, 3.0))
    monkeypatch.setattr(memory, "available_memory", lambda device: 9 * 300 * 8)

    with pytest.raises(ValueError, match="leave room for the basis"):
        eigsh(matrix, k=3)


def test_half_precision_operators_are_iterated_in_float32():
    matrix = torch.diag(torch.tensor([8.0, 4.0, *[0.125] * 98])).to(torch.bfloat16)

    result = eigsh(matrix, k=2, tol=1e-2)

    np.testing.assert_allclose(result.eigenvalues, [8.0, 4.0], rtol=1e-2)


class _KilledError(Exception):
    pass


CASES = {
    "restarts": (
        torch.linspace(0, 1, 120).double() ** 3,
        {"k": 3, "which": "LA", "basis_size": 12, "tol": 1e-6},
        1,
        13,
    ),
    "chains": (
        _outliers(120, 5.0, 5.0, 5.0, 4.0, 3.0),
        {"k": 4, "basis_size": 20},
        64,
        5,
    ),
    "blocks": (_outliers(120, 5.0, 5.0, 4.0, 3.0), {"k": 4, "block_size": 2}, 2, 6),
    "residuals": (_outliers(120, 5.0, 4.0, 3.0, 2.0, 1.0), {"k": 5}, 2, 3),
}


@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_goes_on_to_the_same_bits_and_the_same_products(name, tmp_path):
    spectrum, arguments, width, stride = CASES[name]
    matrix = matrix_with_spectrum(spectrum)
    done = [0, None]

    def product(V):
        if done[1] is not None and done[0] + V.shape[1] > done[1]:
            raise _KilledError
        done[0] += V.shape[1]
        return matrix @ V

    A = FunctionOperator(
        product, 120, dtype=torch.float64, symmetric=True, block_size=width
    )
    whole = eigsh(A, **arguments)
    assert done[0] == whole.cost.num_matvecs

    for killed_after in range(1, whole.cost.num_matvecs, stride):
        folder = tmp_path / str(killed_after)
        done[:] = [0, killed_after]
        with pytest.raises(_KilledError):
            eigsh(A, checkpoint=Checkpoint(folder, "key", budget=np.inf), **arguments)
        done[1] = None
        resumed = eigsh(
            A, checkpoint=Checkpoint(folder, "key", budget=np.inf), **arguments
        )

        assert torch.equal(resumed.eigenvalues, whole.eigenvalues)
        assert torch.equal(resumed.eigenvectors, whole.eigenvectors)
        assert torch.equal(resumed.residual_norms, whole.residual_norms)
        assert resumed.cost.num_matvecs == done[0] == whole.cost.num_matvecs


def test_a_state_of_other_arguments_is_not_resumed(tmp_path):
    matrix = matrix_with_spectrum(_outliers(120, 5.0, 4.0, 3.0))
    counted = counting(matrix)
    eigsh(matrix, k=3, checkpoint=Checkpoint(tmp_path, "key", budget=np.inf))

    result = eigsh(counted, k=2, checkpoint=Checkpoint(tmp_path, "key", budget=np.inf))

    assert counted.num_matvecs == result.cost.num_matvecs
    np.testing.assert_allclose(result.eigenvalues, [5.0, 4.0], atol=1e-7)


@pytest.mark.parametrize(("seed", "which"), [(2, "SA"), (4, "BE")])
def test_a_symmetric_matrix_is_not_refused_where_a_later_chain_restarts(seed, which):
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(300, 300, dtype=torch.float64, generator=generator)
    A = (A + A.T).div(2).float()

    pairs = eigsh(A, k=12, which=which, block_size=3)

    exact = torch.linalg.eigvalsh(A.double())
    wanted = exact[:12] if which == "SA" else torch.cat([exact[:6], exact[-6:]])
    torch.testing.assert_close(pairs.eigenvalues.flip(0), wanted, rtol=1e-5, atol=1e-5)
