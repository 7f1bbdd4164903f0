"""Bases in bfloat16, on the CPU and on a disk, against those on the device."""

import os
import tempfile
import warnings
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from curvescope._core.checkpoint import Checkpoint
from curvescope.linalg import _basis, eigsh, lanczos, slq, spectral_density
from curvescope.linop import FunctionOperator
from curvescope.testing.matrices import matrix_with_spectrum

N = 20_000
OUTLIERS = (285.4, 128.0, 26.5, 22.7, 14.8, 13.5, 9.2, 6.0, 4.74, 4.12)
KINDS = ["device", "bfloat16", "cpu", "disk"]


def spread(V):
    """Return Hartley's transform: symmetric, orthogonal, its own inverse.

    Eigenvectors of diagonal matrices are single coordinates, which rounding treats in
    a way of its own; those of networks are spread over all of them.
    """
    F = torch.fft.fft(V, dim=0, norm="ortho")
    return F.real - F.imag


def outliers(dtype=torch.float32):
    """Return an operator with ten outliers over a bulk, and its eigenvalues."""
    rest = torch.linspace(-0.5, 0.5, N - len(OUTLIERS))
    d = torch.cat([torch.tensor(OUTLIERS), rest]).to(dtype)
    A = FunctionOperator(
        lambda V: spread(d[:, None] * spread(V)), N, dtype=dtype, symmetric=True
    )
    return A, d


def true_residuals(pairs, d, turn=lambda V: V):
    V = turn(pairs.eigenvectors.double())
    gaps = d.double()[:, None] * V - V * pairs.eigenvalues
    return torch.linalg.vector_norm(gaps, dim=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_basis_gives_the_same_eigenvalues_to_the_proven_error(kind, dtype):
    A, d = outliers(dtype)

    pairs = eigsh(A, k=8, tol=1e-3, basis=kind, check_multiplicity=False)

    errors = (pairs.eigenvalues - torch.tensor(OUTLIERS[:8]).double()).abs()
    assert pairs.converged.all()
    # Each eigenvalue lies within the residual of one of the matrix (Weinstein).
    assert (errors <= pairs.residual_norms + 1e-6 * 285.4).all()
    true = true_residuals(pairs, d, spread)
    rounding = 16 * torch.finfo(dtype).eps * 285.4
    assert (true <= 1.01 * pairs.residual_norms + rounding).all()
    assert pairs.settings["basis"] == kind


@pytest.mark.parametrize("k", [1, 6])
@pytest.mark.parametrize("basis_size", [None, 26])
@pytest.mark.parametrize("tol", [1e-3, 1e-4])
@pytest.mark.parametrize("spectrum", ["harmonic", "cluster", "weak"])
def test_bfloat16_never_calls_a_pair_converged_that_is_not(
    spectrum, tol, basis_size, k
):
    d = {
        "harmonic": 1.0 / torch.arange(1.0, 3001.0, dtype=torch.float64),
        "cluster": torch.cat(
            [1.0 + 0.01 * torch.arange(10), torch.linspace(-0.5, 0.5, 2990)]
        ).double(),
        "weak": torch.cat(
            [1.1 + 0.03 * torch.arange(6), torch.linspace(-1.0, 1.0, 2994)]
        ).double(),
    }[spectrum]
    A = FunctionOperator(lambda V: d[:, None] * V, 3000, dtype=d.dtype, symmetric=True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pairs = eigsh(
            A,
            k=k,
            tol=tol,
            basis="bfloat16",
            basis_size=basis_size,
            max_matvecs=600,
            check_multiplicity=False,
        )

    true = true_residuals(pairs, d)
    assert (true <= 1.05 * pairs.residual_norms + 1e-14).all()
    good = true <= 1.05 * tol * pairs.eigenvalues.abs() + 1e-13
    assert good[pairs.converged].all()
    assert any("kept in bfloat16" in note for note in pairs.notes)


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quadratures_of_every_basis_agree(kind, dtype):
    A, _ = outliers(dtype)

    one = slq(A, num_probes=3, num_steps=30)
    other = slq(A, num_probes=3, num_steps=30, basis=kind)

    # What is left of orthogonality enters eigenvalues times their range.
    off = 2.0**-7 / N**0.5 if kind == "bfloat16" else 200 * torch.finfo(dtype).eps
    torch.testing.assert_close(other.nodes, one.nodes, rtol=0, atol=off * 285.4)
    moments = [(q.weights * q.nodes.square()).sum() for q in (one, other)]
    torch.testing.assert_close(moments[0], moments[1], rtol=10 * off, atol=0)
    assert any("bfloat16" in note for note in other.notes) is (kind == "bfloat16")


def test_vectors_of_a_bfloat16_basis_are_as_orthogonal_as_is_said():
    A, _ = outliers(torch.float64)
    multiplied = []

    def product(V):
        multiplied.append(V.clone())
        return A @ V

    B = FunctionOperator(product, N, dtype=torch.float64, symmetric=True)
    found = slq(B, num_probes=1, num_steps=40, basis="bfloat16")

    Q = torch.cat(multiplied, dim=1)
    off = (Q.T @ Q - torch.eye(40).double()).abs().max()
    said = float(found.notes[0].rsplit(" ", 1)[1])
    assert 1e-3 * said < off <= said


def test_in_bfloat16_no_ghosts_appear_in_a_long_run():
    d = torch.cat([torch.tensor([50.0, 20.0, 10.0]), torch.linspace(-1, 1, 1997)])
    A = FunctionOperator(
        lambda V: d.double()[:, None] * V, 2000, dtype=torch.float64, symmetric=True
    )

    found = slq(A, num_probes=2, num_steps=140, basis="bfloat16")

    for planted in (50.0, 20.0, 10.0):
        assert ((found.nodes - planted).abs() < 1e-3).sum(dim=1).tolist() == [1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_lanczos_gives_its_basis_as_it_was_kept(kind):
    matrix = matrix_with_spectrum(torch.linspace(-1.0, 3.0, 300))

    found = lanczos(matrix, 25, basis=kind)

    V = found.basis.double()
    rounding = 5e-3 if kind == "bfloat16" else 1e-12
    torch.testing.assert_close(V.T @ V, torch.eye(25).double(), rtol=0, atol=rounding)
    T = torch.diag(found.diagonal) + torch.diag(found.off_diagonal, 1)
    T = T + torch.diag(found.off_diagonal, -1)
    inside = V.T @ matrix @ V
    torch.testing.assert_close(inside, T, rtol=0, atol=4 * rounding)
    assert (found.basis.dtype == torch.bfloat16) is (kind == "bfloat16")
    if kind == "bfloat16":
        exact = lanczos(matrix, 25)
        torch.testing.assert_close(found.diagonal, exact.diagonal, rtol=0, atol=1e-6)
        assert "orthonormal up to" in found.notes[0]


class _KilledError(BaseException):
    pass


def _files(folder):
    return sorted(p.name for p in Path(folder).iterdir())


@pytest.mark.parametrize("run", ["eigsh", "slq", "lanczos"])
@pytest.mark.parametrize("ends", ["well", "with an error", "interrupted"])
def test_nothing_is_left_on_the_disk(run, ends, tmp_path):
    d = torch.linspace(0, 1, 900)
    seen, count = [], [0]

    def product(V):
        count[0] += 1
        seen.append(_files(tmp_path))
        if count[0] == 6 and ends != "well":
            raise ValueError if ends == "with an error" else _KilledError
        return d[:, None] * V

    A = FunctionOperator(product, 900, symmetric=True)
    calls = {
        "eigsh": lambda: eigsh(A, k=2, basis=tmp_path),
        "slq": lambda: slq(A, num_probes=2, num_steps=9, basis=tmp_path),
        "lanczos": lambda: lanczos(A, 9, basis=tmp_path),
    }
    if ends == "well":
        kept = calls[run]()
        assert kept.settings["basis"] == "disk"
    else:
        with pytest.raises((ValueError, _KilledError)):
            calls[run]()

    assert _files(tmp_path) == []
    # The file has no name while it is used: a kill leaves nothing either.
    assert all(names == [] for names in seen)


def test_rows_on_a_disk_are_in_a_file_and_not_in_memory(tmp_path):
    rows = _basis.mapped_rows(4, 1000, torch.float32, tmp_path)
    rows.fill_(3.0)

    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system has no /proc")
    mapped = [line for line in maps.read_text().splitlines() if str(tmp_path) in line]
    assert any(line.endswith("(deleted)") for line in mapped)
    assert float(rows.sum()) == 12_000.0


def test_a_disk_without_room_is_an_error_beforehand(monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(
        _basis.shutil, "disk_usage", lambda folder: usage(10**6, 10**6 - 100, 100)
    )

    with pytest.raises(OSError, match="`basis` must hold the basis of"):
        _basis.mapped_rows(10, 1000, torch.float32, tmp_path)
    with pytest.raises(ValueError, match="leave room for the basis"):
        eigsh(torch.diag(torch.linspace(0, 1, 900)), k=3, basis=tmp_path)
    assert _files(tmp_path) == []


@pytest.mark.parametrize("kind", ["bfloat16", "disk"])
def test_a_smaller_memory_holds_more_vectors_in_another_basis(kind, monkeypatch):
    from curvescope._core import memory

    A, _ = outliers()
    vector = N * 4
    monkeypatch.setattr(memory, "available_memory", lambda device: 100 * vector)

    plain = eigsh(A, k=3)
    other = eigsh(A, k=3, basis=kind)

    assert plain.settings["basis_size"] < other.settings["basis_size"] <= 60
    torch.testing.assert_close(plain.eigenvalues, other.eigenvalues, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("device", {torch.float32: 64}),
        # Of 64 rows 4 are exact in front, and the 9 newest beside.
        ("bfloat16", {torch.bfloat16: 60, torch.float32: 13}),
    ],
)
def test_vectors_are_counted_in_each_dtype(kind, expected):
    basis = _basis.make_basis(
        kind,
        64,
        N,
        dtype=torch.float32,
        device=torch.device("cpu"),
        head=4,
        tail=9,
    )

    found = {}
    for tensor in vars(basis).values():
        if isinstance(tensor, torch.Tensor):
            found[tensor.dtype] = found.get(tensor.dtype, 0) + tensor.shape[0]

    assert found == expected


def test_a_killed_run_in_bfloat16_goes_on_to_the_same_bits(tmp_path):
    d = torch.tensor(np.r_[[9.0, 5.0, 3.0], np.linspace(-0.2, 0.2, 297)])
    done = [0, np.inf]

    def product(V):
        if done[0] + V.shape[1] > done[1]:
            raise _KilledError
        done[0] += V.shape[1]
        return d[:, None] * V

    A = FunctionOperator(product, 300, dtype=torch.float64, symmetric=True)
    arguments = {"num_probes": 2, "num_steps": 14, "basis": "bfloat16"}
    whole = slq(A, **arguments)
    for killed_after in (3, 9, 20):
        place = tmp_path / str(killed_after)
        done[:] = [0, killed_after]
        with pytest.raises(_KilledError):
            slq(A, checkpoint=Checkpoint(place, "key", budget=np.inf), **arguments)
        done[1] = np.inf
        resumed = slq(
            A, checkpoint=Checkpoint(place, "key", budget=np.inf), **arguments
        )

        assert torch.equal(resumed.nodes, whole.nodes)
        assert resumed.cost.num_matvecs == whole.cost.num_matvecs == done[0]


def test_unknown_places_are_refused():
    for call in (
        lambda basis: eigsh(torch.eye(99), k=2, basis=basis),
        lambda basis: slq(torch.eye(99), num_probes=2, num_steps=3, basis=basis),
        lambda basis: lanczos(torch.eye(99), 3, basis=basis),
        lambda basis: spectral_density(torch.eye(99), basis=basis),
    ):
        with pytest.raises(ValueError, match="`basis` must be one of"):
            call("float8")
    if os.geteuid() != 0:
        with pytest.raises(OSError, match="`basis` must be a folder"):
            eigsh(torch.eye(99), k=2, basis=Path("/proc/nowhere"))
    assert tempfile.gettempdir()


def test_a_tolerance_that_bfloat16_cannot_reach_is_refused_and_the_default_is_another():
    A = torch.diag(torch.arange(1.0, 301.0, dtype=torch.float64))

    with pytest.raises(
        ValueError, match=r"be at least 0.0001 with .* which lose no digits"
    ):
        eigsh(A, k=2, tol=1e-8, basis="bfloat16")
    assert eigsh(A, k=2, basis="bfloat16").tolerance == 1e-3
