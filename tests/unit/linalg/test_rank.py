import numpy as np
import pytest
import torch

from curvescope.linalg import estimate_rank, numerical_rank, rank_of_values, slq
from curvescope.linop import aslinearoperator
from curvescope.testing.matrices import matrix_with_spectrum


def _with_singular_values(values, rows, columns):
    generator = torch.Generator().manual_seed(3)
    k = len(values)
    U = torch.linalg.qr(
        torch.randn(rows, k, generator=generator, dtype=torch.float64)
    ).Q
    V = torch.linalg.qr(
        torch.randn(columns, k, generator=generator, dtype=torch.float64)
    ).Q
    return (U * torch.tensor(values, dtype=torch.float64)) @ V.T


@pytest.mark.parametrize(("rows", "columns"), [(30, 30), (20, 50), (50, 20)])
def test_a_clear_rank_is_certain_and_agrees_with_numpy(rows, columns):
    matrix = _with_singular_values([5.0, 1.0, 1e-3], rows, columns)

    result = numerical_rank(matrix)

    assert result.rank == np.linalg.matrix_rank(matrix.numpy()) == 3
    assert result.certain
    assert result.gap > 1e6


def test_a_smooth_decay_through_the_threshold_is_not_certain():
    matrix = _with_singular_values([10.0**-i for i in range(20)], 30, 30)

    assert not numerical_rank(matrix).certain


def test_symmetric_matrices_count_negative_eigenvalues_too():
    matrix = matrix_with_spectrum([4.0, -3.0, *[0.0] * 20])

    result = numerical_rank(matrix)

    assert (result.rank, result.certain) == (2, True)
    np.testing.assert_allclose(result.singular_values[:2], [4, 3])


def test_float32_is_promoted_with_a_note():
    result = numerical_rank(_with_singular_values([5.0, 1.0], 20, 20).float())

    assert result.rank == 2
    assert "promoted" in result.notes[0]
    assert result.singular_values.dtype == torch.float64


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_does_not_change_the_rank(scale):
    assert numerical_rank(scale * _with_singular_values([5.0, 1.0], 9, 9)).rank == 2


def test_zero_and_operators_have_ranks():
    assert numerical_rank(torch.zeros(4, 4)).rank == 0
    assert numerical_rank(aslinearoperator(torch.eye(5).double())).rank == 5
    assert numerical_rank(torch.eye(5), tolerance=2.0).rank == 0


def test_what_is_not_a_finite_matrix_is_refused():
    with pytest.raises(ValueError, match="be a real matrix"):
        numerical_rank(torch.ones(3))
    with pytest.raises(ValueError, match="be finite"):
        numerical_rank(torch.full((2, 2), torch.nan))


def test_a_value_kept_near_the_threshold_leaves_the_rank_undetermined():
    values = torch.tensor([1.0, 1e-2, 1e-12], dtype=torch.float64)

    assert rank_of_values(values, tolerance=1e-16).certain
    assert not rank_of_values(values, tolerance=5e-13).certain


def test_an_estimated_rank_lies_within_three_standard_errors_of_the_count():
    generator = torch.Generator().manual_seed(0)
    kept = (0.5 + torch.rand(60, generator=generator)).tolist()
    matrix = matrix_with_spectrum([*kept, *[0.0] * 140])

    for seed in range(3):
        estimate = estimate_rank(
            matrix, num_probes=8, generator=torch.Generator().manual_seed(seed)
        )

        assert abs(estimate.rank - 60) <= 3 * estimate.standard_error + 0.5
        assert not estimate.certain
        assert estimate.cost.num_matvecs == 8 * 64


@pytest.mark.parametrize("steps", [16, 40])
def test_the_change_over_the_last_steps_is_that_of_fewer_steps_run_apart(steps):
    matrix = matrix_with_spectrum(torch.logspace(0, -6, 200).double())

    estimate = estimate_rank(matrix, relative_tolerance=1e-3, num_steps=steps)

    many, few = (
        slq(matrix, num_probes=8, num_steps=s) for s in (steps, 3 * steps // 4)
    )
    bound = 1e-3 * float(many.nodes.abs().max())
    counts, before = (
        200 * (q.weights * (q.nodes.abs() > bound)).sum(dim=1).numpy()
        for q in (many, few)
    )
    spread = counts.std(ddof=1) / np.sqrt(8)
    expected = np.hypot(spread, counts.mean() - before.mean())
    assert estimate.standard_error == pytest.approx(expected, rel=1e-9)
    assert estimate.cost.num_matvecs == 8 * steps


def test_too_few_steps_widen_the_error_until_it_holds_the_count():
    # A spectrum of both signs down to 1e-3: four steps put no Ritz value at zero.
    kept = torch.logspace(-3, 0, 50).tolist() + (-torch.logspace(-3, 0, 50)).tolist()
    matrix = matrix_with_spectrum([*kept, *[0.0] * 100])

    estimate = estimate_rank(matrix, num_steps=4)

    assert abs(estimate.rank - 100) <= estimate.standard_error
    assert "do not resolve zero" in " ".join(estimate.notes)


def test_a_small_matrix_is_counted_and_not_estimated():
    assert estimate_rank(matrix_with_spectrum([3.0, -1.0, 0.0, 0.0])).rank == 2
