import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch

from curvescope.linop import (
    DenseOperator,
    FunctionOperator,
    LinearOperator,
    aslinearoperator,
)
from curvescope.results import ParamSlice, Provenance


def _random(rows, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def _symmetric(n, seed=0):
    X = _random(n, n, seed)
    return X + X.T


A, B = _symmetric(6, 1), _symmetric(6, 2)
J = _random(4, 6, 3)
ALGEBRA = {
    "sum": (lambda a, b, j: a + b, A + B),
    "difference": (lambda a, b, j: a - b, A - B),
    "scaled": (lambda a, b, j: 2.5 * a, 2.5 * A),
    "scaled from the right": (lambda a, b, j: a * -3, -3 * A),
    "divided": (lambda a, b, j: a / 4, A / 4),
    "negated": (lambda a, b, j: -a, -A),
    "shifted": (lambda a, b, j: a.shift(0.7), A + 0.7 * torch.eye(6).double()),
    "composed": (lambda a, b, j: a @ b, A @ B),
    "gram": (lambda a, b, j: j.adjoint() @ j, J.T @ J),
    "outer gram": (lambda a, b, j: j @ j.adjoint(), J @ J.T),
    "adjoint": (lambda a, b, j: j.adjoint(), J.T),
    "block by slice": (lambda a, b, j: a.submatrix(slice(1, 4)), A[1:4, 1:4]),
    "block by positions": (lambda a, b, j: a.submatrix([4, 0]), A[[4, 0]][:, [4, 0]]),
    "block by mask": (lambda a, b, j: a.submatrix(torch.arange(6) > 2), A[3:, 3:]),
}


@pytest.mark.parametrize("name", ALGEBRA)
def test_algebra_agrees_with_dense_arithmetic_in_both_directions(name):
    make, expected = ALGEBRA[name]
    operator = make(*(aslinearoperator(X) for X in (A, B, J)))
    V = _random(expected.shape[1], 3, 4)
    U = _random(expected.shape[0], 3, 5)

    assert operator.shape == tuple(expected.shape)
    torch.testing.assert_close(operator @ V, expected @ V)
    torch.testing.assert_close(operator @ V[:, 0], expected @ V[:, 0])
    torch.testing.assert_close(operator.adjoint_product(U), expected.T @ U)
    torch.testing.assert_close(operator.to_dense(), expected)
    if operator.symmetric:
        torch.testing.assert_close(expected, expected.T)


def test_tags_follow_the_algebra():
    a = aslinearoperator(A @ A, positive_semidefinite=True)
    j = aslinearoperator(J)

    assert (a + a).positive_semidefinite
    assert (2 * a).positive_semidefinite
    assert (-a).symmetric
    assert not (-a).positive_semidefinite
    assert not (a - a).positive_semidefinite
    assert a.shift(1.0).positive_semidefinite
    assert not a.shift(-1.0).positive_semidefinite
    assert (j.adjoint() @ j).positive_semidefinite
    assert (j @ j.adjoint()).positive_semidefinite
    assert not (a @ aslinearoperator(B)).symmetric
    assert a.submatrix([0, 2]).positive_semidefinite
    assert a.adjoint() is a
    assert j.adjoint().adjoint() is j


def test_what_a_matrix_is_of_is_carried_on():
    slices = (
        ParamSlice(name="w", start=0, stop=4, shape=(2, 2)),
        ParamSlice(name="b", start=4, stop=6, shape=(2,)),
    )
    info = Provenance(
        matrix="Hessian",
        unit="loss",
        num_params=6,
        num_samples=10,
        slices=slices,
        fingerprint="f",
    )
    a, b = DenseOperator(A, symmetric=True, info=info), aslinearoperator(B)

    assert (a + a).info.num_samples == 10
    assert (a + a).info.slices == slices
    assert (a + a).info.fingerprint == "f"
    assert (a + b).info.num_samples is None
    assert "2 x loss" in (2 * a).info.unit
    assert "scaled by 2" in (2 * a).info.description
    assert (a - b).info.matrix == "Hessian - matrix"
    inner = a.submatrix(slice(4, 6)).info.slices
    assert [(s.name, s.start, s.stop) for s in inner] == [("b", 0, 2)]


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda a, j: a + j, ValueError, "have shape"),
        (lambda a, j: j @ a.submatrix([0]), ValueError, "rows to follow"),
        (lambda a, j: j.shift(1.0), ValueError, "be square"),
        (lambda a, j: j.submatrix([0]), ValueError, "be square"),
        (lambda a, j: a.submatrix([0, 0]), ValueError, "no repetition"),
        (lambda a, j: a.submatrix([9]), ValueError, "lie within 0 to 5"),
        (
            lambda a, j: a.submatrix(slice(3, 3)),
            ValueError,
            "slice, positions, or a mask",
        ),
        (lambda a, j: a / 0, ValueError, "not be 0"),
        (lambda a, j: a * float("nan"), ValueError, "be finite"),
        (lambda a, j: a @ torch.ones(6), TypeError, "be torch.float64"),
        (lambda a, j: a @ torch.ones(5).double(), ValueError, "have shape"),
        (lambda a, j: a @ np.ones(6), TypeError, "be a tensor"),
        (lambda a, j: a + aslinearoperator(A.float()), TypeError, "to be added"),
    ],
)
def test_operators_that_cannot_meet_say_why(make, error, match):
    with pytest.raises(error, match=match):
        make(aslinearoperator(A), aslinearoperator(J))


class _Duck:
    def __init__(self, matrix):
        self.matrix = matrix
        self.shape, self.dtype = matrix.shape, matrix.dtype
        self.T = matrix.T

    def __matmul__(self, V):
        return self.matrix @ V


SOURCES = {
    "tensor": lambda X: X,
    "array": lambda X: X.numpy(),
    "nested list": lambda X: X.tolist(),
    "sparse tensor": lambda X: X.to_sparse_coo(),
    "scipy sparse": lambda X: scipy.sparse.csr_matrix(X.numpy()),
    "scipy operator": lambda X: scipy.sparse.linalg.aslinearoperator(X.numpy()),
    "duck": _Duck,
}


@pytest.mark.parametrize("name", SOURCES)
def test_what_people_have_becomes_an_operator(name):
    operator = aslinearoperator(SOURCES[name](J))
    V, U = _random(6, 2).to(operator.dtype), _random(4, 2).to(operator.dtype)

    torch.testing.assert_close(operator @ V, J.to(V.dtype) @ V)
    torch.testing.assert_close(operator.adjoint_product(U), J.T.to(U.dtype) @ U)
    assert not operator.symmetric


@pytest.mark.parametrize("name", ["tensor", "array", "sparse tensor", "scipy sparse"])
def test_symmetry_of_a_matrix_is_read_from_its_entries_up_to_rounding(name):
    rounded = A * (1 + 1e-16 * _random(6, 6))
    tilted = A.clone()
    tilted[0, 1] *= 1 + 1e-9

    assert aslinearoperator(SOURCES[name](rounded)).symmetric
    assert not aslinearoperator(SOURCES[name](tilted)).symmetric


def test_functions_and_tags_can_be_declared():
    operator = aslinearoperator((lambda V: A @ V, 6, torch.float64), symmetric=True)
    declared = aslinearoperator(operator, positive_semidefinite=True)

    torch.testing.assert_close(operator.to_dense(), A)
    assert operator.adjoint() is operator
    assert declared.positive_semidefinite
    assert not operator.positive_semidefinite
    assert aslinearoperator(operator) is operator


@pytest.mark.parametrize(
    ("source", "error", "match"),
    [
        (torch.ones(3), ValueError, "matrix with entries"),
        (torch.ones(0, 0), ValueError, "matrix with entries"),
        (torch.ones(2, 2, dtype=torch.complex64), TypeError, "be real"),
        ("text", TypeError, "be an operator"),
    ],
)
def test_what_is_no_matrix_is_refused(source, error, match):
    with pytest.raises(error, match=match):
        aslinearoperator(source)


def test_a_visibly_unsymmetric_matrix_cannot_be_declared_symmetric():
    with pytest.raises(ValueError, match="be symmetric"):
        aslinearoperator(J[:, :4], symmetric=True)


def test_integer_matrices_become_float64():
    assert aslinearoperator(torch.eye(2, dtype=torch.int64)).dtype == torch.float64
    assert aslinearoperator(np.eye(2, dtype=int)).dtype == torch.float64


def test_a_function_of_the_wrong_shape_is_refused():
    operator = FunctionOperator(lambda V: V[:2], 3, symmetric=True)

    with pytest.raises(ValueError, match="map shape"):
        operator @ torch.ones(3)


def test_a_function_without_adjoint_says_so():
    operator = FunctionOperator(lambda V: V[:2], (2, 3))

    with pytest.raises(TypeError, match="know its adjoint"):
        operator.adjoint_product(torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scipy_sees_the_same_matrix(dtype):
    operator = aslinearoperator(J.to(dtype))
    scipy_operator = operator.to_scipy()
    X = _random(6, 3).to(dtype).numpy()

    np.testing.assert_allclose(scipy_operator @ X, J.to(dtype).numpy() @ X, rtol=1e-5)
    np.testing.assert_allclose(
        scipy_operator.rmatmat(X[:4]), J.T.to(dtype).numpy() @ X[:4], rtol=1e-5
    )
    assert scipy_operator.dtype == X.dtype


def test_scipy_eigsh_runs_on_an_operator():
    values = scipy.sparse.linalg.eigsh(
        aslinearoperator(A).to_scipy(), k=2, return_eigenvectors=False
    )
    expected = np.linalg.eigvalsh(A.numpy())
    expected = np.sort(expected[np.argsort(-np.abs(expected))][:2])

    np.testing.assert_allclose(np.sort(values), expected)


def test_products_do_not_change_their_input_nor_record_a_graph():
    matrix = A.clone().requires_grad_()
    v = torch.ones(6, dtype=torch.float64, requires_grad=True)

    product = aslinearoperator(matrix) @ v

    assert not product.requires_grad
    assert isinstance(aslinearoperator(matrix), LinearOperator)
