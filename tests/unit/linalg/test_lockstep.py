"""The bases of probes that go in lockstep: as orthogonal as rounding lets them be."""

import numpy as np
import pytest
import torch

from curvescope.linalg._lockstep import _orthogonalised

SPECTRA = {
    "a gap of eight orders": [1e8, 1e4, *np.linspace(0.0, 1.0, 498)],
    "twelve orders": [*np.logspace(0, -12, 60), *np.zeros(440)],
    "both signs": np.linspace(-1.0, 1.0, 500),
    "a cluster": [1.0, 1.0, 1.0, *np.linspace(0.0, 1e-3, 497)],
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SPECTRA)
def test_bases_are_orthonormal_up_to_rounding(name, dtype):
    eps = torch.finfo(dtype).eps
    values = torch.tensor(np.array(SPECTRA[name]), dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    Q = torch.randn(3, 1, len(values), generator=generator, dtype=dtype)
    Q /= torch.linalg.vector_norm(Q, dim=2, keepdim=True)

    for _ in range(79):
        W = (values * Q[:, -1]).contiguous()
        product = W.clone()
        coefficients = _orthogonalised(Q, W)
        beta = torch.linalg.vector_norm(W, dim=1)
        size = torch.linalg.vector_norm(product, dim=1)
        # What was subtracted is what the coefficients say.
        parts = (coefficients.mT.to(dtype) @ Q)[:, 0]
        off = torch.linalg.vector_norm(parts + W - product, dim=1)
        assert bool((off <= 50 * eps * size).all())
        if bool((beta < 1e3 * eps * values.abs().max()).any()):
            break  # the Krylov space ends
        Q = torch.cat([Q, (W / beta[:, None])[:, None]], dim=1)

    steps = Q.shape[1]
    gram = Q.double().numpy() @ Q.double().numpy().transpose(0, 2, 1)
    assert steps > 1
    assert np.abs(gram - np.eye(steps)).max() < 60 * eps


def test_a_row_that_loses_nearly_all_of_itself_is_orthogonalised_again():
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(20, 30, generator=generator, dtype=torch.float64)
    Q = torch.linalg.qr(wide.T).Q.T[None].contiguous()
    inside = Q[0, :5].sum(dim=0)  # not along the two newest
    W = (inside + 1e-12 * torch.ones(30, dtype=torch.float64))[None].contiguous()

    _orthogonalised(Q, W)

    left = W[0] / torch.linalg.vector_norm(W[0])
    assert float((Q[0] @ left).abs().max()) < 1e-14
