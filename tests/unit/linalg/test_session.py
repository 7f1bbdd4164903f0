"""What a session says of products that are not finite, where it looks at them late."""

import math

import pytest
import torch

from curvescope.linalg import eigsh, slq, spectral_density, trace
from curvescope.linalg._session import Session
from curvescope.linop import FunctionOperator, aslinearoperator


def _late(self, V, *, adjoint):
    """Multiply as on a device whose flags are not waited for."""
    product = (self.A._adjoint_matmat if adjoint else self.A._matmat)(V)
    finite = torch.isfinite(product).all()
    self._finite = finite if self._finite is None else self._finite & finite
    self.num_matvecs += V.shape[1]
    self.num_data_passes += 1
    if self.scale == 0.0:
        self.set_scale(float(product.abs().max()))
    return product / self.scale


def _broken_later(n, after):
    """Return an operator whose products hold a NaN after so many blocks."""
    d, done = torch.linspace(1.0, 2.0, n, dtype=torch.float64), [0]

    def product(V):
        done[0] += 1
        W = d[:, None] * V
        if done[0] > after:
            W[0] = math.nan
        return W

    return FunctionOperator(product, n, dtype=torch.float64, symmetric=True)


@pytest.mark.parametrize(
    "call",
    [
        lambda A: slq(A, num_probes=2, num_steps=12),
        lambda A: spectral_density(A, num_probes=2, num_steps=12),
        lambda A: spectral_density(A, error=0.01),
        lambda A: trace(A, error=0.001),
        lambda A: eigsh(A, k=3),
    ],
)
@pytest.mark.parametrize("after", [0, 1, 3])
def test_products_that_turn_out_not_finite_late_are_said(call, after, monkeypatch):
    monkeypatch.setattr(Session, "_block", _late)

    with pytest.raises(ValueError, match="must have finite products"):
        call(_broken_later(5000, after))


def _fail(error, finite):
    """Fail in a session whose products were, or were not, finite."""
    with Session(aslinearoperator(torch.eye(3)), "test", total=None) as session:
        session._finite = finite
        raise error


@pytest.mark.parametrize("kind", [torch.linalg.LinAlgError, ValueError, IndexError])
def test_an_error_that_nan_brings_about_gives_way_to_its_cause(kind):
    with pytest.raises(ValueError, match="must have finite products") as caught:
        _fail(kind("it did not converge"), torch.tensor(False))

    assert isinstance(caught.value.__cause__, kind)


@pytest.mark.parametrize("kind", [torch.linalg.LinAlgError, KeyError])
@pytest.mark.parametrize("finite", [None, torch.tensor(True)])
def test_an_error_of_finite_products_stays_what_it_is(kind, finite):
    with pytest.raises(kind, match="something else"):
        _fail(kind("something else"), finite)


def test_an_interrupt_is_never_replaced():
    with pytest.raises(KeyboardInterrupt):
        _fail(KeyboardInterrupt(), torch.tensor(False))
