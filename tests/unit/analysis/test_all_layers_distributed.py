"""All layers where several processes share the data."""

import pytest
from tests.unit.distributed import problems
from tests.unit.distributed.world import started

import curvescope as cs
from curvescope._core.processes import ALONE


def spectra(among=ALONE, count=53, **options):
    """Return the numbers of every layer, messages and passes."""
    whole = problems.problem(among, count)
    before = getattr(among, "num_messages", 0)
    found = cs.all_layers(whole, num_probes=3, **options)
    messages = getattr(among, "num_messages", 0) - before
    numbers = [(row.eigenvalues, row.trace) for row in found.layers]
    return numbers, [row.method for row in found.layers], found.cost, messages


@pytest.fixture(scope="module")
def world():
    with started(3) as processes:
        yield processes


@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
def test_processes_find_what_one_does_with_one_message_a_pass(world, matrix):
    alone = spectra(matrix=matrix)

    answers = world.run(as_ggn if matrix == "ggn" else spectra, 3)

    for answer in answers:
        assert answer[0] == answers[0][0]
        assert "factor" not in answer[1]
        assert answer[3] == answer[2].num_data_passes
        for mine, theirs in zip(answer[0], alone[0], strict=True):
            assert mine[0] == pytest.approx(theirs[0], rel=1e-7)


def test_a_process_without_samples_takes_part(world):
    alone = spectra(count=2)

    answers = world.run(of_few, 3)

    for answer in answers:
        for mine, theirs in zip(answer[0], alone[0], strict=True):
            assert mine[0] == pytest.approx(theirs[0], rel=1e-7)


def as_ggn(among):
    """Return the GGN's."""
    return spectra(among, matrix="ggn")


def of_few(among):
    """Return those of fewer samples than processes."""
    return spectra(among, count=2)
