"""Real processes that stay for many tests: groups of all sizes up to theirs."""

import datetime as dt
import multiprocessing
import os
import socket
import traceback
from contextlib import contextmanager

import torch
import torch.distributed as dist

from curvescope.distributed import TorchProcesses

PATIENCE = 120


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def join(rank, size, port, timeout):
    """Make this process one of ``size`` on this machine."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=size,
        timeout=dt.timedelta(seconds=timeout),
    )


def _serve(rank, size, port, pipe):
    join(rank, size, port, PATIENCE)
    groups = {n: dist.new_group(list(range(n))) for n in range(1, size + 1)}
    while True:
        function, n, arguments = pipe.recv()
        try:
            answer = True, function(TorchProcesses(groups[n]), *arguments)
        except Exception as error:
            answer = False, (type(error).__name__, str(error), traceback.format_exc())
        pipe.send(answer)


class World:
    """Runs a module's function in several processes at once."""

    def __init__(self, pipes):
        self._pipes = pipes

    def attempt(self, function, size, *arguments):
        """Return (done, value or error) of every process."""
        for pipe in self._pipes[:size]:
            pipe.send((function, size, arguments))
        answers = []
        for pipe in self._pipes[:size]:
            assert pipe.poll(PATIENCE), "a process hangs"
            answers.append(pipe.recv())
        return answers

    def run(self, function, size, *arguments):
        """Return what the function returns in every process."""
        answers = self.attempt(function, size, *arguments)
        for done, value in answers:
            assert done, value[2]
        return [value for _, value in answers]


@contextmanager
def started(size):
    context = multiprocessing.get_context("spawn")
    port = free_port()
    ends = [context.Pipe() for _ in range(size)]
    workers = [
        context.Process(target=_serve, args=(rank, size, port, end), daemon=True)
        for rank, (_, end) in enumerate(ends)
    ]
    for worker in workers:
        worker.start()
    try:
        yield World([here for here, _ in ends])
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
