"""Real processes compute what one does; an error in one is an error in all."""

import pytest
import torch
from tests.unit.distributed import problems
from tests.unit.distributed.world import started

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(scope="module")
def world():
    with started(3) as processes:
        yield processes


@pytest.fixture(scope="module")
def four():
    with started(4) as processes:
        yield processes


@pytest.fixture(scope="module")
def alone():
    return problems.verbs()


def same_everywhere_and_as_alone(answers, alone):
    found, _, _, facts = alone
    for answer in answers:
        for name, value in found.items():
            assert torch.equal(answer[0][name], answers[0][0][name]), name
            assert torch.allclose(answer[0][name], value, **CLOSE), name
        assert answer[3]["fingerprint"] == facts["fingerprint"]
        assert answer[3]["text"] == facts["text"]
    assert sum(answer[3]["own"] for answer in answers) == facts["num_samples"]


def one_message_a_product(answers):
    for _, messages, passes, _ in answers:
        assert {name: messages[name] for name in passes} == passes
        assert messages["loss"] == 0
        assert messages["gradient"] == 1
        # 88 columns of identity in blocks of 32.
        for matrix in ("dense", "ggn", "functional", "fisher"):
            assert messages[matrix] == 3


@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_verb_gives_what_one_process_gives(world, alone, size):
    answers = world.run(problems.verbs, size)

    same_everywhere_and_as_alone(answers, alone)
    one_message_a_product(answers)


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("count", [3, 54, 101])
def test_four_processes_give_what_one_gives(four, count, reduction):
    answers = four.run(problems.verbs, 4, count, reduction)

    alone = problems.verbs(count=count, reduction=reduction)
    same_everywhere_and_as_alone(answers, alone)
    one_message_a_product(answers)


def test_a_process_may_hold_nothing(world):
    alone = problems.verbs(count=2)

    answers = world.run(problems.verbs, 3, 2)

    assert [answer[3]["own"] for answer in answers] == [0, 1, 1]
    same_everywhere_and_as_alone(answers, alone)


def test_a_process_may_hold_nothing_of_a_mapping(world):
    dense, _, count, fingerprint = problems.by_name()

    answers = world.run(problems.by_name, 3)

    assert [answer[1] for answer in answers] == [0, 1, 1]
    for answer in answers:
        assert torch.allclose(answer[0], dense, **CLOSE)
        assert answer[2:] == (count, fingerprint)


@pytest.mark.parametrize("limits", [None, (2**30, None, 2**17)])
def test_processes_with_unequal_memory_agree_on_the_least(world, alone, limits):
    answers = world.run(problems.with_other_memory, 3, limits)

    # A vector has 88 entries of 8 bytes, and a block 1/16 of the limit.
    columns = 2**17 // (16 * 88 * 8)
    for limit, block_size, matrix in answers:
        assert (limit, block_size) == (2**17, columns)
        assert torch.allclose(matrix, alone[0]["dense"], **CLOSE)


@pytest.mark.parametrize("sizes", [(20, 0, 33), (0, 0, 53), (1, 51, 1)])
def test_shares_that_processes_hold_already_may_be_uneven_and_empty(
    world, alone, sizes
):
    answers = world.run(problems.own_shares, 3, sizes)

    for matrix, count, fingerprint in answers:
        assert torch.allclose(matrix, alone[0]["dense"], **CLOSE)
        assert count == 53
        assert fingerprint == alone[3]["fingerprint"]


def test_processes_draw_other_labels_for_the_same_samples(world):
    alone = problems.sampled_fisher()

    (first, second) = world.run(problems.sampled_fisher, 2)

    assert torch.equal(first, second)
    # With the same labels twice, the mean would be that of one process.
    assert torch.linalg.norm(first - alone) > 0.01 * torch.linalg.norm(alone)


def test_a_matrix_that_needs_all_data_in_one_process_is_refused(world):
    for done, value in world.attempt(problems.rows_of_all, 2):
        assert not done
        assert "hold all its data in this process" in value[1]


def test_a_product_that_fails_in_one_process_fails_in_all_and_leaves_them_working(
    world,
):
    answers = world.run(problems.one_fails_in_a_product, 3)

    said = [answer[0] for answer in answers]
    assert "the sensor fell off" in said[1]
    for text in (said[0], said[2]):
        assert text == "ProcessError: process 1 of 3 failed; its own error says why."
    assert len({answer[1] for answer in answers}) == 1


@pytest.mark.parametrize(
    ("task", "size", "texts"),
    [
        (
            problems.one_has_bad_data,
            3,
            ["process 2 of 3 failed"] * 2 + ["`data` must be finite"],
        ),
        (problems.one_has_other_weights, 2, ["have the same weights"] * 2),
        (problems.one_trains_on, 2, ["fell out of step"] * 2),
        (problems.each_has_its_own_vector, 2, ["fell out of step"] * 2),
        (problems.other_batches_everywhere, 2, ["be the same batches"] * 2),
        (problems.normalised_in_train_mode, 2, ["where batches are coupled"] * 2),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_differs_between_processes_is_an_error_in_all_of_them(
    world, task, size, texts
):
    for (done, value), text in zip(world.attempt(task, size), texts, strict=True):
        assert not done
        assert text in value[1], value[2]


def test_a_generator_is_shared_batch_by_batch(world, alone):
    for matrix in world.run(problems.same_batches_everywhere, 2):
        assert torch.allclose(matrix, alone[0]["dense"], **CLOSE)


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1), (1, 2)])
def test_an_iteration_goes_on_in_another_number_of_processes(
    world, tmp_path, before, after
):
    whole = world.run(problems.interrupted, before, str(tmp_path / "whole"), 10**9)
    broken = world.run(problems.interrupted, before, str(tmp_path / "broken"), 7)
    assert broken == [[None, None]] * before

    resumed = world.run(problems.interrupted, after, str(tmp_path / "broken"), 10**9)

    for answer in resumed:
        for (values, products), (wanted, needed) in zip(answer, whole[0], strict=True):
            assert torch.allclose(values, wanted, **CLOSE)
            assert products == needed
