"""How many products `eigsh` takes, and what its residuals are worth."""

import numpy as np
import pytest
import torch

from curvescope._core.errors import AccuracyWarning
from curvescope._core.random import gaussian
from curvescope.linalg import eigsh
from curvescope.linop import FunctionOperator
from curvescope.testing.matrices import counting, matrix_with_spectrum

N = 3000
PLACES = np.arange(1, N + 1)
NOISE = np.random.default_rng(0)
# name: eigenvalues, k, which. Values are apart by more than the tolerance, so that all
# who are converged have the same ones.
SPECTRA = {
    "ten outliers": (
        [285.4, 128, 26.5, 22.7, 14.8, 13.5, 9.2, 6.0, 4.74, 4.12],
        0.5,
        10,
        "LM",
    ),
    "one outlier": ([10.0], 1.0, 1, "LA"),
    "both ends": ([9.0, 5.0, 3.0, -4.0, -7.0, -9.5], 0.5, 6, "BE"),
    "a cluster": (1.0 + 0.01 * np.arange(10), 0.5, 10, "LA"),
    "plateau": (5.0 + 0.3 * NOISE.standard_normal(9), 0.5, 9, "LA"),
    "weak outliers": (1.1 + 0.03 * np.arange(6), 1.0, 6, "LM"),
    "harmonic": (1 / PLACES, 0.0, 10, "LM"),
    "harmonic square": (1 / PLACES**2, 0.0, 10, "LM"),
    "harmonic root": (PLACES**-0.5, 0.0, 10, "LM"),
    "geometric": (np.exp(-PLACES / 3), 0.0, 8, "LM"),
    "slow geometric": (np.exp(-PLACES / 10), 0.0, 10, "LM"),
    "alternating": ((-1.0) ** PLACES / PLACES, 0.0, 10, "LM"),
    "cauchy": (NOISE.standard_cauchy(N), 0.0, 8, "LM"),
    "squared exponential": (NOISE.exponential(size=N) ** 2, 0.0, 6, "LA"),
    "normal": (NOISE.standard_normal(N), 0.0, 3, "LA"),
    "few and noise": (3 * NOISE.exponential(size=40), 1e-4, 10, "LA"),
    "logarithmic": (np.logspace(-8, 0, N), 0.0, 5, "LA"),
    "low": ([-9.0, -5.0, -3.0, -2.0], 1.0, 4, "SA"),
    "rank 30": (np.linspace(1, 10, 30), 0.0, 5, "LA"),
    "cubic": (np.linspace(0, 1, N) ** 3 * 10, 0.0, 1, "LA"),
}


def eigenvalues(name):
    """Return eigenvalues, filled up by a flat bulk, and what is asked of them."""
    given, bulk, k, which = SPECTRA[name]
    given = np.asarray(given, dtype=float)
    rest = np.linspace(-bulk, bulk, N - len(given))
    return np.concatenate([given, rest]).astype(np.float32), k, which


def diagonal_operator(values):
    """Return a counted operator with these eigenvalues, and their tensor."""
    d = torch.tensor(values)
    A = FunctionOperator(
        lambda V: d[:, None] * V, len(d), dtype=d.dtype, symmetric=True
    )
    return counting(A), d


def scipy_products(values, k, which, tol, start):
    """Return how many products SciPy takes from this start."""
    from scipy.sparse.linalg import LinearOperator
    from scipy.sparse.linalg import eigsh as scipy_eigsh

    n, calls = len(values), [0]

    def multiply(x):
        calls[0] += 1
        return values * x.ravel()

    A = LinearOperator((n, n), multiply, dtype=values.dtype)
    scipy_eigsh(A, k=k, which=which, tol=tol, v0=start.astype(values.dtype))
    return calls[0]


@pytest.mark.parametrize("name", SPECTRA)
def test_scipy_takes_no_fewer_products_from_the_same_start(name):
    values, k, which = eigenvalues(name)
    ours, theirs = 0, 0

    for seed in range(3):
        counted, _ = diagonal_operator(values)
        result = eigsh(
            counted,
            k=k,
            which=which,
            tol=1e-3,
            residuals="estimated",
            check_multiplicity=False,
            generator=torch.Generator().manual_seed(seed),
        )
        start = gaussian(
            (1, N),
            torch.Generator().manual_seed(seed),
            dtype=torch.float64,
            device=torch.device("cpu"),
        )[0].numpy()
        theirs += scipy_products(values, k, which, 1e-3, start)
        ours += counted.num_matvecs
        assert result.converged.all()
        assert counted.num_matvecs == result.cost.num_matvecs

    assert ours <= theirs


@pytest.mark.parametrize("residuals", ["checked", "products", "estimated"])
@pytest.mark.parametrize("check_multiplicity", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_residuals_of_every_kind_bound_the_true_ones(
    residuals, check_multiplicity, dtype
):
    for name in ("ten outliers", "harmonic", "rank 30", "cauchy"):
        values, k, which = eigenvalues(name)
        counted, d = diagonal_operator(values.astype(str(dtype)[6:]))

        result = eigsh(
            counted,
            k=k,
            which=which,
            residuals=residuals,
            check_multiplicity=check_multiplicity,
        )

        V = result.eigenvectors.double()
        gaps = d.double()[:, None] * V - V * result.eigenvalues
        true = torch.linalg.vector_norm(gaps, dim=0)
        rounding = 4 * torch.finfo(dtype).eps * float(d.abs().max())
        assert result.residuals_from == residuals
        assert (true <= 1.01 * result.residual_norms + rounding).all()
        assert (result.residual_norms <= 2.0 * true + 4 * rounding).all()
        assert counted.num_matvecs == result.cost.num_matvecs


@pytest.mark.parametrize("name", ["ten outliers", "harmonic", "slow geometric"])
def test_a_proof_for_all_pairs_takes_one_product(name):
    values, k, which = eigenvalues(name)
    spent = {}

    for residuals in ("estimated", "checked", "products"):
        counted, _ = diagonal_operator(values)
        eigsh(counted, k=k, which=which, residuals=residuals, check_multiplicity=False)
        spent[residuals] = counted.num_matvecs

    assert spent["checked"] == spent["estimated"] + 1
    assert spent["products"] == spent["estimated"] + k


@pytest.mark.parametrize("size", [1e-4, 1e-2])
@pytest.mark.parametrize("k", [1, 6])
def test_noise_that_the_recurrence_cannot_see_is_seen_by_the_proof(size, k):
    values, _, _ = eigenvalues("ten outliers")
    d = torch.tensor(values).double()
    noise = torch.Generator().manual_seed(1)

    def product(V):
        kick = torch.randn(V.shape, generator=noise, dtype=V.dtype)
        return d[:, None] * V + size * 285.4 * kick / kick.norm(dim=0)

    A = FunctionOperator(product, N, dtype=torch.float64, symmetric=True)
    if k == 1:
        blind = eigsh(
            A, k=1, tol=size / 2, residuals="estimated", check_multiplicity=False
        )
        assert blind.converged.all()
    with pytest.warns(AccuracyWarning):
        checked = eigsh(A, k=k, tol=size / 2, max_matvecs=200)

    assert not checked.converged.any()
    assert checked.residual_norms.max() >= 0.3 * size * 285.4


def test_a_larger_copy_that_the_check_brings_is_iterated_on():
    """The first chain's pairs are converged, those of the check need more steps."""
    values = np.concatenate([[10.0], np.linspace(0, 1, N - 1)]).astype(np.float32)
    for seed in range(3):
        counted, d = diagonal_operator(values)

        result = eigsh(
            counted, k=5, which="LA", generator=torch.Generator().manual_seed(seed)
        )

        V = result.eigenvectors.double()
        gaps = d.double()[:, None] * V - V * result.eigenvalues
        allowed = (1e-3 * result.eigenvalues).clamp_min(64 * 1.2e-7 * 10)
        assert result.converged.all()
        assert (torch.linalg.vector_norm(gaps, dim=0) <= 1.01 * allowed).all()
        assert counted.num_matvecs < 400


def test_results_say_what_their_residuals_are_after_loading(tmp_path):
    from curvescope.results import load

    result = eigsh(matrix_with_spectrum(torch.linspace(1, 9, 90)), k=2)
    result.save(tmp_path, "pairs")

    assert result.residuals_from == "checked"
    assert load(tmp_path, "pairs").residuals_from == "checked"


def test_unknown_kinds_of_residuals_are_refused():
    with pytest.raises(ValueError, match="`residuals` must be one of"):
        eigsh(torch.eye(99), k=2, residuals="none")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("top", [[5.0] * 4 + [3.0] * 3, [9.0, 9, 7, 7, 5, 5, 3, 3]])
def test_copies_that_rounding_half_brought_are_found(top, dtype):
    """What rounding put of a copy into the first chain's last row is not lost."""
    values = np.concatenate([top, np.linspace(-0.2, 0.2, N - len(top))])
    wrong = 0

    for seed in range(10):
        counted, _ = diagonal_operator(values.astype(str(dtype)[6:]))
        result = eigsh(
            counted, k=6, which="LA", generator=torch.Generator().manual_seed(seed)
        )
        error = np.abs(result.eigenvalues.numpy() - np.array(top[:6])).max()
        wrong += error > 1e-3
        assert result.converged.all()

    # The look for more sees each with a probability of 97 %.
    assert wrong <= 1


@pytest.mark.parametrize("name", ["ten outliers", "harmonic", "rank 30", "both ends"])
@pytest.mark.parametrize("check_multiplicity", [True, False])
def test_a_host_that_looks_every_second_step_loses_hardly_a_product(
    name, check_multiplicity, monkeypatch
):
    """As on a GPU, whose coefficients are read while it computes the next step."""
    from curvescope.linalg import _krylov

    values, k, which = eigenvalues(name)
    arguments = {"k": k, "which": which, "check_multiplicity": check_multiplicity}
    counted, _ = diagonal_operator(values)
    plain = eigsh(counted, **arguments)
    begin = _krylov.KrylovSpace.__init__

    def lagging(self, *given, **options):
        begin(self, *given, **options)
        self._lag = _krylov._LAG

    monkeypatch.setattr(_krylov.KrylovSpace, "__init__", lagging)
    late = eigsh(counted, **arguments)

    torch.testing.assert_close(late.eigenvalues, plain.eigenvalues, rtol=1e-4, atol=0)
    assert late.converged.all()
    assert late.cost.num_matvecs <= plain.cost.num_matvecs + 4
