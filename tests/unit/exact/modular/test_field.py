"""Arithmetic modulo a prime against Python's integers and fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.exact.modular.elementary import is_prime, residue

from curvescope.exact.modular import PRIMES, PrimeField

FIELD = PrimeField(PRIMES[0])


def values(residues):
    return [int(v) % FIELD.prime for v in np.ravel(residues)]


def test_the_primes_are_the_largest_three_below_two_to_the_22():
    below = [n for n in range(2**22 - 1, 2**22 - 40, -1) if is_prime(n)]

    assert list(PRIMES) == below[:3]


@pytest.mark.parametrize("prime", [2, 1, 4, 1 << 22, (1 << 22) + 15])
def test_a_modulus_out_of_range_is_refused(prime):
    with pytest.raises(ValueError, match="`prime` must be an odd prime below 2"):
        PrimeField(prime)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_every_float_becomes_the_residue_of_its_exact_value(floats):
    assert values(FIELD.dyadic(np.array(floats))) == [
        residue(x, FIELD.prime) for x in floats
    ]


def test_floats_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="must be finite"):
        FIELD.dyadic(np.array([1.0, np.nan]))


@given(st.lists(st.integers(-(2**52), 2**52), min_size=1))
def test_reduction_is_exact_up_to_two_to_the_52(integers):
    reduced = FIELD.reduce_(np.array(integers, dtype=np.float64))

    assert values(reduced) == [x % FIELD.prime for x in integers]
    assert (abs(reduced) <= FIELD.prime / 2 + 1).all()


@given(st.integers(-(2**30), 2**30), st.integers(-1, 1))
def test_a_residue_is_zero_if_and_only_if_the_float_is(quotient, offset):
    (reduced,) = FIELD.reduce_(np.array([float(quotient * FIELD.prime + offset)]))

    assert reduced == offset


def test_large_arrays_of_any_layout_are_reduced_as_small_ones():
    x = np.random.default_rng(0).integers(-(2**52), 2**52, (500, 3, 200)).astype(float)
    expected = np.mod(x.astype(np.int64), FIELD.prime)

    for layout in (x.copy(), np.asfortranarray(x), x.copy().transpose(2, 0, 1)):
        reduced = FIELD.reduce_(layout)
        if reduced.shape != x.shape:
            reduced = reduced.transpose(1, 2, 0)
        assert (np.mod(reduced.astype(np.int64), FIELD.prime) == expected).all()


@pytest.mark.parametrize("inner", [0, 1, 7, 1000, 2301])
def test_products_of_matrices_are_exact_for_the_largest_residues(inner):
    half = FIELD.prime // 2
    a, b = np.full((2, inner), float(half)), np.full((inner, 3), -float(half))

    exact = -half * half * inner % FIELD.prime
    assert values(FIELD.matmul(a, b)) == [exact] * 6
    subtracted = FIELD.subtract_product_(np.ones((2, 3)), a, b)
    assert values(subtracted) == [(1 - exact) % FIELD.prime] * 6


def test_stacks_of_matrices_are_multiplied_one_by_one():
    g = np.random.default_rng(1)
    a, b = FIELD.random((4, 2, 5), g), FIELD.random((4, 5, 3), g)

    exact = [x.astype(object) @ y.astype(object) for x, y in zip(a, b, strict=True)]
    assert values(FIELD.matmul(a, b)) == values(np.array(exact))


@settings(max_examples=30)
@given(st.integers(1, PRIMES[0] - 1))
def test_inverses_are_inverses(value):
    assert FIELD.inverse(float(value)) * value % FIELD.prime == 1


def test_integers_of_any_size_are_reduced():
    huge = np.array([10**40, -(10**40), 3], dtype=object)

    assert values(FIELD.integers(huge)) == [
        10**40 % FIELD.prime,
        -(10**40) % FIELD.prime,
        3,
    ]


def test_powers_of_two_have_negative_exponents_too():
    assert FIELD.power_of_two(-3) == residue(Fraction(1, 8), FIELD.prime)
