"""Ranks modulo a prime against elimination with fractions, and known ranks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.exact.modular.elementary import rank_of_rationals

from curvescope.exact.modular import PRIMES, PrimeField, rank_modulo
from curvescope.exact.modular.elimination import row_basis

PRIME = PRIMES[0]
FIELD = PrimeField(PRIME)


def low_rank(rows, columns, rank, seed=0):
    g = np.random.default_rng(seed)
    return FIELD.matmul(FIELD.random((rows, rank), g), FIELD.random((rank, columns), g))


@st.composite
def small_matrices(draw):
    rows, columns = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    entry = st.integers(-2, 2)
    row = st.lists(entry, min_size=columns, max_size=columns)
    return draw(st.lists(row, min_size=rows, max_size=rows))


@given(small_matrices())
def test_the_rank_of_small_integers_is_that_over_the_rationals(matrix):
    # Hadamard: minors are at most (2 sqrt 7)^7 < 2^17, so none is a multiple.
    assert rank_modulo(np.array(matrix, dtype=float), PRIME) == rank_of_rationals(
        matrix
    )


@pytest.mark.parametrize(
    "shape", [(40, 90), (90, 40), (300, 300), (530, 280), (1, 700)]
)
@pytest.mark.parametrize("rank", [0, 1, 17, 40, 257, 280])
def test_products_of_thin_matrices_have_their_rank(shape, rank):
    rank = min(rank, *shape)

    assert rank_modulo(low_rank(*shape, rank), PRIME) == rank


@given(st.integers(0, 10**6))
def test_any_pattern_of_zero_and_repeated_columns_is_seen_through(seed):
    g = np.random.default_rng(seed)
    rank = int(g.integers(0, 12))
    independent = low_rank(60, rank, rank, seed) if rank else np.zeros((60, 1))
    columns = g.integers(0, independent.shape[1], 80)
    copies = independent[:, columns] * g.integers(0, 2, 80)

    expected = len({c for c, kept in zip(columns, copies.any(0), strict=True) if kept})
    assert rank_modulo(copies, PRIME) == expected


def test_block_hollow_matrices_have_the_rank_of_their_blocks():
    a = low_rank(310, 290, 123)
    zeros = np.zeros((310, 310)), np.zeros((290, 290))

    assert rank_modulo(np.block([[zeros[0], a], [a.T, zeros[1]]]), PRIME) == 246


def test_generic_integers_have_numpys_rank():
    g = np.random.default_rng(3)
    matrix = g.integers(-9, 9, (70, 50)) @ g.integers(-9, 9, (50, 120))

    assert (
        rank_modulo(matrix.astype(float), PRIME) == np.linalg.matrix_rank(matrix) == 50
    )


def test_multiples_of_the_prime_are_zero_modulo_it():
    matrix = np.diag([1.0, PRIME, 2.0 * PRIME])

    assert rank_modulo(matrix, PRIME) == 1
    assert rank_modulo(matrix, PRIMES[1]) == 3


def test_unimodular_changes_of_basis_keep_the_rank():
    g = np.random.default_rng(4)
    lower = np.tril(FIELD.random((330, 330), g), -1) + np.eye(330)
    matrix = FIELD.matmul(lower, np.diag([1.0] * 150 + [0.0] * 180))

    assert rank_modulo(FIELD.matmul(matrix, lower.T)[::-1], PRIME) == 150


def test_empty_matrices_have_rank_zero():
    assert (
        rank_modulo(np.zeros((0, 5)), PRIME)
        == rank_modulo(np.zeros((3, 0)), PRIME)
        == 0
    )


def test_the_matrix_stays_as_it_is():
    matrix = low_rank(50, 50, 20)
    before = matrix.copy()

    rank_modulo(matrix, PRIME)

    assert (matrix == before).all()


@pytest.mark.parametrize("shape", [(30, 40, 12), (300, 80, 77), (5, 3, 0), (4, 0, 0)])
def test_a_row_basis_spans_all_rows(shape):
    rows, columns, rank = shape
    matrix = low_rank(rows, columns, rank)

    basis, T = row_basis(matrix, PRIME)

    assert len(basis) == rank
    assert (T[basis] == np.eye(rank)).all()
    assert not FIELD.reduce_(matrix - FIELD.matmul(T, matrix[basis])).any()
