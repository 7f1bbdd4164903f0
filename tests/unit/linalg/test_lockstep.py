"""The bases of probes that go in lockstep: as orthogonal as rounding lets them be."""

import numpy as np
import pytest
import torch

from curvescope.linalg import _basis, _lockstep, _products
from curvescope.linalg._basis import make_basis
from curvescope.linalg._lockstep import ProbeBases, _orthogonalised
from curvescope.linalg._session import Session, symmetric_operator

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


def _recorded(monkeypatch, bases, name):
    """Record the bytes of what is read at once, with pieces as long as on a GPU."""
    for module in (_products, _lockstep, _basis):
        monkeypatch.setattr(module, "piece_length", lambda _: 1 << 20, raising=False)
    read, sizes = getattr(bases, name), []

    def recording(*arguments):
        part = read(*arguments)
        sizes.append(part.numel() * part.dtype.itemsize)
        return part

    monkeypatch.setattr(bases, name, recording)
    return sizes


def test_copies_of_rounded_bases_stay_small_and_orthogonalise(monkeypatch):
    p, m, n = 8, 32, 100_000
    generator = torch.Generator().manual_seed(0)
    session = Session(symmetric_operator(torch.eye(2)), "test", total=None)
    session.n = n
    bases = ProbeBases("bfloat16", p, m, session)
    for j in range(m):
        bases.write(j, torch.randn(p, n, generator=generator) / n**0.5)
    W = torch.randn(p, n, generator=generator)
    # By NumPy, the same two sweeps over rows that are nearly orthonormal.
    Q = bases._part(m, slice(None)).double().numpy()
    first = np.einsum("pmn,pn->pm", Q, W.double().numpy())
    left = W.double().numpy() - np.einsum("pm,pmn->pn", first, Q)
    second = np.einsum("pmn,pn->pm", Q, left)
    left -= np.einsum("pm,pmn->pn", second, Q)
    sizes = _recorded(monkeypatch, bases, "_part")

    found = bases.project_out(W, m)

    assert 0 < max(sizes) <= 64 << 20
    np.testing.assert_allclose(found.numpy(), first + second, atol=2e-5)
    np.testing.assert_allclose(W.numpy(), left, atol=2e-5)


def test_copies_of_one_rounded_basis_stay_small(monkeypatch):
    m, n = 200, 100_000
    generator = torch.Generator().manual_seed(0)
    kinds = {"dtype": torch.float32, "device": torch.device("cpu")}
    basis = make_basis("bfloat16", m, n, **kinds)
    basis.write(0, torch.randn(m, n, generator=generator) / n**0.5)
    coefficients = torch.randn(m, 2, generator=generator, dtype=torch.float64)
    expected = coefficients.T @ basis.rows(0, m).double()
    sizes = _recorded(monkeypatch, basis, "part")

    found = basis.combine(coefficients)

    assert 0 < max(sizes) <= 64 << 20
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
