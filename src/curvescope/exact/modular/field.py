"""Exact arithmetic modulo a prime, on float64 arrays and at the speed of BLAS.

A residue is kept as the integer next to zero, ``|x| <= p / 2 + 1``. With ``p < 2^22`` a
product of two is below ``2^42``, so a thousand of them add up below ``2^52``: every sum
that BLAS forms is an integer that float64 holds exactly, in whatever order it adds.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from curvescope._core.checks import message

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

PRIMES = (4194301, 4194287, 4194277)  # the largest three below 2^22
MOST_TERMS = 1000  # products that may be added before a reduction
_TILE = 1 << 16  # entries that are worked on together: half a megabyte


@final
@dataclass(frozen=True)
class PrimeField:
    """The integers modulo a prime between 3 and ``2^22``.

    Attributes:
        prime: The prime ``p``. That it is one is the caller's promise.

    Raises:
        ValueError: If ``prime`` is even or out of range.
    """

    prime: int

    def __post_init__(self) -> None:
        if not 3 <= self.prime < 1 << 22 or self.prime % 2 == 0:
            contract = "be an odd prime below 2^22"
            raise ValueError(message("prime", contract, self.prime))

    def reduce_(self, x: Array) -> Array:
        """Replace entries ``|x| <= 2^52`` by residues, in place; return the array.

        The quotient is off by less than ``2^-21``, so a multiple of the prime becomes
        exactly zero: residues are zero if and only if the float is.
        """
        for tile in _tiles(x):
            quotient = np.multiply(tile, 1.0 / self.prime)
            np.rint(quotient, out=quotient)
            quotient *= self.prime
            tile -= quotient
        return x

    def product(self, a: Array, b: Array) -> Array:
        """Return the entrywise product of residues."""
        return self.reduce_(a * b)

    def matmul(self, a: Array, b: Array) -> Array:
        """Return the matrix product of residues; leading dimensions are broadcast."""
        inner = a.shape[-1]
        if inner <= MOST_TERMS:
            return self.reduce_(np.matmul(a, b))
        total = self.matmul(a[..., :MOST_TERMS], b[..., :MOST_TERMS, :])
        for start in range(MOST_TERMS, inner, MOST_TERMS):
            stop = start + MOST_TERMS
            total += np.matmul(a[..., start:stop], b[..., start:stop, :])
            self.reduce_(total)
        return total

    def kron(self, a: Array, b: Array) -> Array:
        """Return the Kronecker product of two matrices of residues."""
        blocks = self.product(a[:, None, :, None], b[None, :, None, :])
        return blocks.reshape(len(a) * len(b), a.shape[1] * b.shape[1])

    def subtract_product_(self, c: Array, a: Array, b: Array) -> Array:
        """Replace ``c`` by ``c - a @ b``; all are matrices of residues."""
        for start in range(0, a.shape[1], MOST_TERMS):
            left, right = (
                a[:, start : start + MOST_TERMS],
                b[start : start + MOST_TERMS],
            )
            # Tiles are high enough for BLAS to reach its speed, and fit the cache.
            height = max(256, _TILE // max(1, c.shape[1]))
            for top in range(0, c.shape[0], height):
                part = c[top : top + height]
                part -= left[top : top + height] @ right
                self.reduce_(part)
        return c

    def inverse(self, value: float) -> int:
        """Return the inverse of a residue that is not zero."""
        return pow(int(value) % self.prime, self.prime - 2, self.prime)

    def integers(self, values: NDArray) -> Array:
        """Return the residues of integers, of any size if the dtype is ``object``."""
        return self.reduce_(np.asarray(np.mod(values, self.prime), dtype=np.float64))

    def dyadic(self, values: NDArray[np.float64]) -> Array:
        """Return the residues of floats, which are integers times powers of two.

        Raises:
            ValueError: If an entry is not finite.
        """
        floats = np.asarray(values, dtype=np.float64)
        if not np.isfinite(floats).all():
            raise ValueError(message("values", "be finite", "NaN or infinity"))
        if floats.size == 0:
            return floats.copy()
        fractions, exponents = np.frexp(floats)
        mantissas = np.ldexp(fractions, 53).astype(np.int64) % self.prime
        exponents = exponents.astype(np.int64) - 53
        lowest, highest = int(exponents.min()), int(exponents.max())
        powers = np.array(
            [self.power_of_two(e) for e in range(lowest, highest + 1)], dtype=np.int64
        )
        return self.integers(mantissas * powers[exponents - lowest])

    def power_of_two(self, exponent: int) -> int:
        """Return ``2^exponent`` in ``[0, p)``; the exponent may be negative."""
        return pow(2, exponent % (self.prime - 1), self.prime)

    def random(self, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
        """Return residues drawn uniformly."""
        return self.integers(generator.integers(0, self.prime, shape))


def _tiles(x: Array) -> list[Array]:
    """Cut an array along its first dimension into views that fit the cache."""
    if x.size <= _TILE or x.ndim == 0:
        return [x]
    if x.flags.c_contiguous:
        x = x.reshape(-1)
    height = max(1, _TILE * len(x) // x.size)
    return [x[start : start + height] for start in range(0, len(x), height)]
