"""Checkpoints: what is on disk belongs to one state, whole, of one computation."""

import pytest
import torch

from curvescope._core import files
from curvescope._core.checkpoint import Checkpoint
from curvescope.distributed import SharedCheckpoint
from curvescope.linalg import eigsh, slq
from curvescope.linop import aslinearoperator
from curvescope.testing.matrices import matrix_with_spectrum


class _KilledError(Exception):
    pass


def _rows(value):
    return {"row": torch.full((3,), value)}


def _save(checkpoint, identity, value):
    checkpoint.save({"identity": identity}, {}, appended=_rows(value))


@pytest.mark.parametrize("kind", [Checkpoint, SharedCheckpoint])
@pytest.mark.parametrize("reused", [False, True])
@pytest.mark.parametrize("other", ["key", "identity"])
def test_rows_of_a_rejected_state_are_not_taken_for_those_of_the_next(
    tmp_path, other, reused, kind
):
    first = kind(tmp_path, "key")
    _save(first, "first", 1.0)
    second = first if reused else kind(tmp_path, "key")
    if other == "key":
        second.key = "another"

    assert second.load("second") is None
    _save(second, "second", 2.0)

    state, tensors = kind(tmp_path, second.key).load("second")
    assert state["identity"] == "second"
    assert torch.equal(tensors["row"], _rows(2.0)["row"])


def test_rows_of_an_accepted_state_are_written_once(tmp_path):
    _save(Checkpoint(tmp_path, "key"), "same", 1.0)
    before = sorted(tmp_path.glob("row*"))

    resumed = Checkpoint(tmp_path, "key")
    assert resumed.load("same") is not None
    _save(resumed, "same", 1.0)

    assert sorted(tmp_path.glob("row*")) == before


def test_a_kill_while_another_state_is_saved_leaves_the_old_one_whole(
    tmp_path, monkeypatch
):
    _save(Checkpoint(tmp_path, "key"), "first", 1.0)

    def killed(*_):
        raise _KilledError

    monkeypatch.setattr(files, "write_json", killed)
    with pytest.raises(_KilledError):
        _save(Checkpoint(tmp_path, "key"), "second", 2.0)

    _, tensors = Checkpoint(tmp_path, "key").load("first")
    assert torch.equal(tensors["row"], _rows(1.0)["row"])


def _interrupted(matrix, after, run, checkpoint):
    """Run until so many products are done, and then be killed."""
    A, done = aslinearoperator(matrix), [0]

    def product(V):
        if done[0] == after:
            raise _KilledError
        done[0] += 1
        return matrix @ V

    A._matmat = product
    with pytest.raises(_KilledError):
        run(A, checkpoint)


def _nodes(A, checkpoint=None):
    return slq(A, num_probes=4, num_steps=30, checkpoint=checkpoint).nodes


def _top(A, checkpoint=None):
    return eigsh(A, k=3, basis_size=12, checkpoint=checkpoint).eigenvalues


@pytest.mark.parametrize("layout", ["dense", "sparse"])
@pytest.mark.parametrize("run", [_nodes, _top])
def test_a_matrix_goes_on_from_its_own_rows_after_another_one(tmp_path, run, layout):
    n = 100
    first, second = (
        matrix_with_spectrum(torch.linspace(low, 1.0, n, dtype=torch.float64) ** 3)
        for low in (-1.0, 0.0)
    )
    if layout == "sparse":
        first, second = first.to_sparse(), second.to_sparse()

    def checkpoint():
        return Checkpoint(tmp_path, "key", budget=float("inf"))

    _interrupted(first, 9, run, checkpoint())
    _interrupted(second, 6, run, checkpoint())

    assert torch.equal(run(second, checkpoint()), run(second))


@pytest.mark.parametrize("run", [slq, eigsh])
def test_another_seed_begins_anew(tmp_path, run):
    matrix = matrix_with_spectrum(torch.linspace(0.0, 1.0, 100).double() ** 3)
    options = {"num_probes": 4, "num_steps": 30} if run is slq else {"k": 3}

    def seeded(seed):
        def compute(A, checkpoint=None):
            generator = torch.Generator().manual_seed(seed)
            found = run(A, checkpoint=checkpoint, generator=generator, **options)
            return found.nodes if run is slq else found.eigenvectors

        return compute

    def checkpoint():
        return Checkpoint(tmp_path, "key", budget=float("inf"))

    _interrupted(matrix, 9, seeded(1), checkpoint())

    found = seeded(2)(aslinearoperator(matrix), checkpoint())
    torch.testing.assert_close(found, seeded(2)(matrix), rtol=0.0, atol=0.0)
