"""Files of eigenvalues: the published snippet, the published bugs, honest bounds."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curvescope.analysis.spectra_files import (
    effective_dimension_of_file,
    load_published_spectrum,
    read_spectrum,
    write_spectrum,
)
from curvescope.linalg import effective_dimension, eigsh


def matrix(n=60, negative=6, seed=0):
    rng = np.random.default_rng(seed)
    values = np.concatenate(
        [np.geomspace(40.0, 0.01, n - negative), -np.geomspace(5.0, 0.1, negative)]
    )
    q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    return values, (q * values) @ q.T


def published_snippet(path, z):
    """The paper's own way from its files to its numbers."""
    x = np.load(path)["pos_evals"]
    x = x[x != 1.0]
    return float(np.sum(x / (x + z)))


def lanczos(A, steps, seed=1):
    """Plain Lanczos with full reorthogonalisation: the tridiagonal matrix."""
    rng = np.random.default_rng(seed)
    Q = [rng.standard_normal(len(A))]
    Q[0] /= np.linalg.norm(Q[0])
    T = np.zeros((steps, steps))
    for j in range(steps):
        w = A @ Q[j]
        T[j, j] = w @ Q[j]
        for _ in range(2):
            for q in Q:
                w = w - (w @ q) * q
        if j + 1 < steps:
            T[j, j + 1] = T[j + 1, j] = np.linalg.norm(w)
            Q.append(w / np.linalg.norm(w))
    return T


def publish(path, A, steps, dtype=np.float32):
    """Write a file as the published code did: negatives become 1, T is called bases."""
    T = lanczos(A, steps)
    values = np.linalg.eigvalsh(T)
    np.savez(
        path,
        pos_evals=np.where(values >= 0, values, 1.0).astype(dtype),
        pos_bases=T.astype(dtype),
    )
    return values


@pytest.mark.parametrize("z", [0.01, 0.3, 10.0])
def test_the_published_snippet_is_right_on_our_files(tmp_path, z):
    values, A = matrix()
    path = write_spectrum(tmp_path / "e.npz", eigsh(torch.from_numpy(A), k=60))

    positive = values[values > 0]
    truth = float(np.sum(positive / (positive + z)))

    assert published_snippet(path, z) == pytest.approx(truth, rel=1e-10)
    (found,) = effective_dimension_of_file(path, z=z).values()
    assert found.value == pytest.approx(truth, rel=1e-10)
    assert found.method == "exact"
    assert found.band() == (found.values, found.values)


def test_an_eigenvalue_of_exactly_one_is_not_dropped_by_the_snippet(tmp_path):
    A = torch.diag(torch.tensor([3.0, 1.0, 1.0, -2.0]).double())

    path = write_spectrum(tmp_path / "e.npz", eigsh(A, k=4))

    assert published_snippet(path, 1.0) == pytest.approx(0.75 + 0.5 + 0.5)
    assert read_spectrum(path).eigenvalues.tolist() == [3.0, 1.0, 1.0, -2.0]


def test_eigenpairs_come_back_but_for_their_vectors(tmp_path):
    _, A = matrix()
    pairs = eigsh(torch.from_numpy(A), k=7, which="BE")

    back = read_spectrum(write_spectrum(tmp_path / "e.npz", pairs))

    for name in ("eigenvalues", "residual_norms", "converged"):
        assert torch.equal(getattr(back, name), getattr(pairs, name))
    for name in ("which", "tolerance", "norm"):
        assert getattr(back, name) == getattr(pairs, name)
    assert back.of.num_params == 60
    assert back.eigenvectors is None
    assert back.rows() == pairs.rows()


def test_files_hold_no_objects_and_are_the_same_bytes_twice(tmp_path):
    _, A = matrix()
    pairs = eigsh(torch.from_numpy(A), k=5)

    one, two = (write_spectrum(tmp_path / f"{i}.npz", pairs) for i in range(2))

    assert one.read_bytes() == two.read_bytes()
    with np.load(one, allow_pickle=False) as archive:
        assert all(archive[name].dtype != object for name in archive.files)


@pytest.mark.filterwarnings("ignore:the sum over:RuntimeWarning")
@settings(max_examples=40)
@given(
    st.sampled_from(["LM", "LA", "BE", "SA"]),
    st.sampled_from(["clip", "abs"]),
    st.integers(1, 20),
    st.lists(st.floats(-10.0, 10.0), min_size=21, max_size=40),
    st.floats(1e-3, 10.0),
)
def test_the_truth_lies_between_the_bounds(which, negative, k, values, z):
    A = torch.diag(torch.tensor(values, dtype=torch.float64))
    pairs = eigsh(A, k=k, which=which)

    found = effective_dimension(pairs, z=z, negative=negative)

    true = np.array(values)
    true = np.abs(true) if negative == "abs" else np.maximum(true, 0.0)
    truth = float(np.sum(true / (true + z)))
    low, high = (float(side) for side in found.band())
    assert low <= truth + 1e-6
    assert truth <= high + 1e-6
    assert found.method == "lower_bound"
    assert high <= low + len(values) - k + 1e-9


def test_some_eigenvalues_without_their_end_are_bounded_by_their_number():
    found = effective_dimension(torch.tensor([4.0, 2.0]), z=2.0, dimension=10)

    assert found.value == pytest.approx(4 / 6 + 2 / 4)
    assert float(found.upper_bounds) == pytest.approx(found.value + 8)
    assert found.rows()[0]["high_95"] == pytest.approx(found.value + 8)


def test_published_files_are_told_apart_from_what_they_were_taken_for(tmp_path):
    _, A = matrix()
    path = tmp_path / "width_64.npz"
    values = publish(path, A, 20)

    found = load_published_spectrum(path, dimension=60)

    negative = int((values < 0).sum())
    assert negative > 0
    assert found.num_sentinels == found.num_negative == negative
    np.testing.assert_allclose(found.ritz_values, values[::-1], rtol=1e-4, atol=1e-4)
    assert float(found.weights.sum()) == pytest.approx(1.0)
    text = " ".join(found.notes)
    assert f"{negative} of 20 stored values are exactly 1" in text
    assert "not of one that did not converge" in text
    assert found.quadrature().nodes.shape == (1, 20)


def test_weights_are_those_of_the_start_vector(tmp_path):
    _, A = matrix(n=12, negative=2)
    path = tmp_path / "e.npz"
    publish(path, A, 12, dtype=np.float64)
    start = np.random.default_rng(1).standard_normal(12)
    start /= np.linalg.norm(start)

    found = load_published_spectrum(path)

    values, vectors = np.linalg.eigh(A)
    np.testing.assert_allclose(found.ritz_values, values[::-1], atol=1e-9)
    np.testing.assert_allclose(
        found.weights, ((vectors.T @ start) ** 2)[::-1], atol=1e-9
    )


@pytest.mark.filterwarnings("ignore:the sum over:RuntimeWarning")
@pytest.mark.parametrize("z", [0.01, 1.0])
def test_the_sum_over_ritz_values_is_below_the_truth_and_called_so(tmp_path, z):
    values, A = matrix(n=300, negative=30)
    path = tmp_path / "e.npz"
    publish(path, A, 40, dtype=np.float64)
    positive = np.maximum(values, 0.0)
    truth = float(np.sum(positive / (positive + z)))

    found = effective_dimension_of_file(path, z=z, dimension=300)

    bound, estimate = found["effective_dimension"], found["quadrature"]
    assert bound.method == "lower_bound"
    assert bound.value == pytest.approx(published_snippet(path, z), rel=1e-6)
    low, high = (float(side) for side in bound.band())
    assert low < truth < high
    low, high = (float(side) for side in estimate.band(level=0.999))
    assert low < truth < high


def test_a_sum_that_is_near_the_number_of_ritz_values_warns(tmp_path):
    _, A = matrix()
    path = tmp_path / "e.npz"
    publish(path, A, 10)

    with pytest.warns(RuntimeWarning, match="is saturated"):
        (found,) = effective_dimension_of_file(path, z=1e-4).values()

    assert any("saturated" in note for note in found.notes)


def test_without_the_dimension_nothing_bounds_from_above(tmp_path):
    _, A = matrix()
    path = tmp_path / "e.npz"
    publish(path, A, 10)

    (found,) = effective_dimension_of_file(path, z=1.0).values()

    assert found.method == "lower_bound"
    assert math.isinf(float(found.band()[1]))
    assert "cannot exceed their number" in found.notes[0]


def test_a_file_without_the_tridiagonal_matrix_drops_the_sentinels(tmp_path):
    path = tmp_path / "e.npz"
    np.savez(path, pos_evals=np.array([1.0, 5.0, 1.0, 10.0, 1.0]))

    found = load_published_spectrum(path)

    assert found.ritz_values.tolist() == [10.0, 5.0]
    assert found.num_sentinels == found.num_negative == 3
    assert "what was negative is lost" in " ".join(found.notes)
    with pytest.raises(ValueError, match="`dimension` must be known"):
        found.quadrature(dimension=7)
    (sums,) = effective_dimension_of_file(path, z=1.0).values()
    assert sums.value == pytest.approx(10 / 11 + 5 / 6)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"evals": np.ones(3)}, "hold an array pos_evals"),
        ({"pos_evals": np.array([np.nan])}, "hold finite values"),
        ({"pos_evals": np.ones(2), "pos_bases": np.ones((2, 3))}, "tridiagonal"),
        ({"pos_evals": np.ones(3), "pos_bases": np.ones((3, 3))}, "tridiagonal"),
        ({"pos_evals": np.array([3.0, -2.0, 1.0])}, "no negative value"),
        ({"pos_evals": np.array([])}, "one or more real numbers"),
        ({"pos_evals": np.array(3.0)}, "one or more real numbers"),
        ({"pos_evals": np.ones((4, 4))}, "one or more real numbers"),
        ({"pos_evals": np.array([3.0, 2.0j])}, "real numbers"),
        ({"pos_evals": np.array(["a"])}, "real numbers"),
        ({"pos_evals": np.ones(1), "pos_bases": np.array([["a"]])}, "real numbers"),
        ({"pos_evals": np.ones(1), "pos_bases": np.eye(1) * np.nan}, "finite real"),
        ({"pos_evals": np.arange(2.0, 5), "pos_bases": np.eye(2)}, "whose eigenvalues"),
        ({"pos_evals": [9.0, 5.0], "pos_bases": np.diag([7.0, 5.0])}, "another run"),
        ({"pos_evals": np.array([object()], dtype=object)}, "without objects"),
    ],
)
def test_other_files_are_refused(content, text, tmp_path):
    path = tmp_path / "e.npz"
    np.savez(path, **content)

    with pytest.raises(ValueError, match=text):
        effective_dimension_of_file(path, z=1.0)


@pytest.mark.parametrize("seed", range(6))
def test_files_of_one_run_are_taken_whatever_rounding_did(seed, tmp_path):
    """Dense near zero, and two eigenvalues that are the mark."""
    rng = np.random.default_rng(seed)
    values = np.concatenate(
        [np.geomspace(50.0, 1e-4, 70), -np.geomspace(1.0, 1e-6, 20), [1.0, 1.0]]
    )
    q, _ = np.linalg.qr(rng.standard_normal((92, 92)))
    publish(tmp_path / "e.npz", (q * values) @ q.T, 92)

    assert len(load_published_spectrum(tmp_path / "e.npz").pos_evals) == 92
    diagonal = np.diag([3.0, 1.0, -1.0])
    np.savez(tmp_path / "d.npz", pos_evals=[3.0, 1.0, 1.0], pos_bases=diagonal)
    assert load_published_spectrum(tmp_path / "d.npz").num_sentinels == 2


def test_a_tridiagonal_matrix_of_another_run_is_refused(tmp_path):
    _, A = matrix()
    publish(tmp_path / "a.npz", A, 20)
    publish(tmp_path / "b.npz", 1.3 * A, 20)
    first, second = (np.load(tmp_path / f"{name}.npz") for name in "ab")
    mixed = tmp_path / "mixed.npz"
    np.savez(mixed, pos_evals=first["pos_evals"], pos_bases=second["pos_bases"])

    with pytest.raises(ValueError, match="hold in pos_bases the matrix whose"):
        load_published_spectrum(mixed)


def test_a_file_that_is_one_array_is_named_once(tmp_path):
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(ValueError, match="a single array") as caught:
        read_spectrum(tmp_path / "one.npy")
    assert str(caught.value).count("must be") == 1
    assert not str(caught.value).endswith("..")


@pytest.mark.parametrize("z", ["x", ["a"], 1j])
def test_a_place_that_is_no_number_is_named(z, tmp_path):
    path = tmp_path / "e.npz"
    np.savez(path, pos_evals=np.array([3.0, 2.0]))
    with pytest.raises(TypeError, match="`z` must be a real number"):
        effective_dimension_of_file(path, z=z)


def test_what_is_no_file_of_arrays_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        read_spectrum(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(ValueError, match=r"be an \.npz file"):
        read_spectrum(tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(ValueError, match="a single array"):
        read_spectrum(tmp_path / "one.npy")
    np.savez(tmp_path / "published.npz", pos_evals=np.ones(3))
    with pytest.raises(ValueError, match="load_published_spectrum"):
        read_spectrum(tmp_path / "published.npz")
