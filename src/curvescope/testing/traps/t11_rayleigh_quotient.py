"""Trap 11: a Rayleigh quotient of another matrix than the one that is asked for.

Power iteration with momentum multiplies by ``A`` and subtracts a multiple of an older
vector; the quotient taken after that subtraction is not ``v' A v``.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from curvescope.testing.traps.common import attempt, planted

# matrix -> its dominant eigenvalue and the eigenvector
TopPair = Callable[[Tensor], tuple[float, Tensor]]


def check(top_pair: TopPair) -> None:
    """Check that the value is the returned vector's quotient, and the right one.

    Raises:
        AssertionError: If it is not.
    """
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        spectrum = torch.randn(40, generator=generator, dtype=torch.float64)
        spectrum[0] = 5.0 + seed
        A = planted(spectrum, seed=seed)
        value, vector = attempt(top_pair, A)
        v = vector.double().reshape(-1)
        quotient = float(v @ A @ v / (v @ v))
        assert abs(value - quotient) <= 1e-6 * abs(quotient), (
            f"the value {value:.8g} is not the vector's quotient {quotient:.8g}"
        )
        assert abs(value - float(spectrum[0])) <= 1e-5 * abs(value), (
            f"the value {value:.8g} is not the eigenvalue {float(spectrum[0]):.8g}"
        )


def foil(matrix: Tensor) -> tuple[float, Tensor]:
    """Take the quotient after the momentum term, which is wrong."""
    v = torch.ones(len(matrix), dtype=torch.float64) / len(matrix) ** 0.5
    old = torch.zeros_like(v)
    value = 0.0
    for _ in range(500):
        w = matrix @ v - 0.1 * old
        value = float(v @ w)
        old, v = v / w.norm(), w / w.norm()
    return value, v
