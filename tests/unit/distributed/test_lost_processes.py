"""A process that dies or sleeps is an error in the others, in words and in time."""

import multiprocessing
import os
import signal
import time

import pytest
import torch
from tests.unit.distributed.world import free_port, join

from curvescope._core.errors import LostProcessError
from curvescope._core.memory import available_memory
from curvescope.distributed import TorchProcesses, launched, processes


def add_for_ever(rank, port, timeout, pipe):
    """Sum without end; say when it began, and how it ended."""
    join(rank, 3, port, timeout)
    group = TorchProcesses(timeout=timeout)
    ones = torch.ones(1000)
    for turn in range(10**9):
        try:
            group.sum(lambda: ones, ones, key=("ones",))
        except LostProcessError as error:
            pipe.send(str(error))
            os._exit(0)
        if turn == 3:
            pipe.send(os.getpid())


@pytest.mark.parametrize(
    ("blow", "timeout"), [(signal.SIGKILL, 300), (signal.SIGSTOP, 6)]
)
def test_the_others_say_that_a_process_is_gone(blow, timeout):
    context = multiprocessing.get_context("spawn")
    port = free_port()
    ends = [context.Pipe() for _ in range(3)]
    workers = [
        context.Process(target=add_for_ever, args=(rank, port, timeout, end))
        for rank, (_, end) in enumerate(ends)
    ]
    for worker in workers:
        worker.start()
    try:
        victims = [here.recv() for here, _ in ends]

        os.kill(victims[1], blow)
        began = time.monotonic()
        said = [ends[rank][0].recv() for rank in (0, 2)]
        waited = time.monotonic() - began
    finally:
        for worker in workers:
            worker.kill()
            worker.join()

    for rank, text in zip((0, 2), said, strict=True):
        assert "another of the 3 processes died or stopped answering" in text
        assert f"process {rank} noticed" in text
    # A broken connection is seen at once, a sleeper when the time is over.
    assert waited < 60


def test_processes_are_there_only_under_a_launcher(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)

    assert not launched()
    with pytest.raises(ValueError, match="torchrun"), processes():
        pass
    with pytest.raises(ValueError, match="be started before"):
        TorchProcesses()


def test_processes_that_do_not_come_are_missed_in_words(monkeypatch):
    launcher = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    for name, value in {**launcher, "MASTER_PORT": str(free_port())}.items():
        monkeypatch.setenv(name, value)

    said = pytest.raises(RuntimeError, match="the 2 processes did not meet")
    with said, processes(timeout=1):
        pass


def share_of_memory(rank, port, pipe):
    """Say how much memory a process may take, alone and among three."""
    alone = available_memory(torch.device("cpu"))
    join(rank, 3, port, 60)
    with processes() as group:
        pipe.send((group.size, available_memory(torch.device("cpu")) / alone))
        pipe.recv()


def test_processes_of_one_machine_share_its_memory():
    context = multiprocessing.get_context("spawn")
    port = free_port()
    ends = [context.Pipe() for _ in range(3)]
    workers = [
        context.Process(target=share_of_memory, args=(rank, port, end))
        for rank, (_, end) in enumerate(ends)
    ]
    for worker in workers:
        worker.start()
    try:
        answers = [here.recv() for here, _ in ends]
    finally:
        for worker in workers:
            worker.kill()
            worker.join()

    for size, part in answers:
        assert size == 3
        # Others take and free memory meanwhile.
        assert 0.2 < part < 0.5
