"""The GGN's spectrum from inner products of rows: that of the dense matrix."""

import pytest
import torch

from curvescope import Problem
from curvescope.exact.gram import ggn_spectrum
from curvescope.models import build


def dense_ggn(model, inputs, targets):
    """Return the mean cross-entropy's GGN, from the Jacobian and its definition."""
    names = [name for name, _ in model.named_parameters()]
    theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    shapes = [p.shape for p in model.parameters()]

    def outputs(vector):
        parts = vector.split([s.numel() for s in shapes])
        state = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return torch.func.functional_call(model, state, (inputs,))

    J = torch.func.jacrev(outputs)(theta)
    p = outputs(theta).softmax(1)
    second = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.einsum("nkp,nkl,nlq->pq", J, second, J) / len(targets)


@pytest.mark.parametrize("num_samples", [2, 40], ids=["few rows", "many rows"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("hidden", [(6,), (5, 4), ()])
def test_the_spectrum_is_that_of_the_dense_matrix(num_samples, bias, hidden):
    draw = torch.Generator().manual_seed(0)
    model = build(
        "mlp",
        generator=draw,
        in_features=7,
        hidden=hidden,
        num_classes=3,
        activation="tanh",
        bias=bias,
    ).double()
    X = torch.randn(num_samples, 7, generator=draw, dtype=torch.float64)
    y = torch.randint(3, (num_samples,), generator=draw)

    found = ggn_spectrum(Problem(model, "cross_entropy", (X, y)))

    expected = torch.linalg.eigvalsh(dense_ggn(model, X, y)).flip(0)
    assert found.shape == expected.shape
    assert (found >= 0).all()
    scale = float(expected[0])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-13 * scale)


def test_batches_and_networks_that_are_no_chain_give_the_same():
    draw = torch.Generator().manual_seed(1)
    model = build(
        "mlp", generator=draw, in_features=5, hidden=(9,), num_classes=3
    ).double()
    X = torch.randn(6, 5, generator=draw, dtype=torch.float64)
    y = torch.randint(3, (6,), generator=draw)

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, inputs):
            return self.inner(inputs) * 1.0

    whole = ggn_spectrum(Problem(model, "cross_entropy", (X, y)))
    parts = ggn_spectrum(Problem(model, "cross_entropy", (X, y), batch_size=4))
    other = ggn_spectrum(Problem(Hidden(), "cross_entropy", (X, y)))

    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(other, whole)
