"""A single Lanczos run."""

import numpy as np
import pytest
import torch

from curvescope.linalg import lanczos
from curvescope.testing.matrices import matrix_with_spectrum


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_lanczos_recovers_every_eigenvalue_of_a_full_run():
    A = matrix_with_spectrum(1.0 / torch.arange(1.0, 121.0))

    result = lanczos(A, 120)

    np.testing.assert_allclose(
        result.eigenvalues.flip(0), np.linalg.eigvalsh(A.numpy()), atol=1e-13
    )
    V = result.basis
    torch.testing.assert_close(V.T @ V, torch.eye(120).double(), atol=1e-13, rtol=0)
    T = torch.diag(result.diagonal)
    T = T + torch.diag(result.off_diagonal, 1) + torch.diag(result.off_diagonal, -1)
    torch.testing.assert_close(V.T @ A @ V, T, atol=1e-13, rtol=0)


def test_lanczos_stops_where_its_space_is_invariant():
    result = lanczos(torch.diag(torch.tensor([3.0, 3.0, 1.0, 1.0])), 4)

    assert len(result.diagonal) == 2
    assert result.residual_norm == 0.0
    assert "invariant" in result.notes[0]


def test_lanczos_refuses_wrong_input():
    with pytest.raises(ValueError, match="be at most 3"):
        lanczos(torch.eye(3), 4)
    with pytest.raises(ValueError, match="not be zero"):
        lanczos(torch.eye(3), 2, start=torch.zeros(3))
    with pytest.raises(ValueError, match="of shape"):
        lanczos(torch.eye(3), 2, start=torch.zeros(4))
