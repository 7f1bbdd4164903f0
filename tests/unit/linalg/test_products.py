import torch

from curvescope.linalg import _products


def _error(n):
    generator = torch.Generator().manual_seed(0)
    X = torch.rand(2, n, generator=generator)
    exact = X.double() @ X.double().T
    return float(((_products.row_products(X, X) - exact) / exact).abs().max())


def test_sums_of_long_float32_products_keep_their_digits():
    assert _error(4_000_000) < 1e-6


def test_the_plain_product_would_not_keep_them(monkeypatch):
    monkeypatch.setattr(_products, "piece_length", lambda device: 1 << 40)

    assert _error(4_000_000) > 1e-6


def test_row_products_of_a_batch_agree_with_einsum():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(3, 2, 40_000, generator=generator)
    Y = torch.randn(3, 4, 40_000, generator=generator)

    expected = torch.einsum("pan,pbn->pab", X.double(), Y.double())

    torch.testing.assert_close(
        _products.row_products(X, Y), expected, rtol=1e-4, atol=1e-2
    )
