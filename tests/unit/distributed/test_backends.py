"""Groups that cannot send from where a tensor is."""

import pytest
import torch
import torch.distributed as dist

from curvescope._core.errors import LostProcessError
from curvescope.distributed import TorchProcesses
from curvescope.distributed.torch_processes import sending_device


@pytest.fixture
def only_gpus():
    """One process in a group that has no backend for CPU tensors, as with NCCL alone."""
    backend = "nccl" if torch.cuda.is_available() else "cuda:gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    yield TorchProcesses()
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("device", "backends", "place"),
    [
        ("cpu", "cpu:gloo", "cpu"),
        ("cpu", "cpu:gloo,cuda:nccl", "cpu"),
        ("cuda:2", "cpu:gloo,cuda:nccl", "cuda:2"),
        ("cuda:2", "cuda:nccl", "cuda:2"),
        ("cpu", "cuda:nccl", "cuda:5"),
        ("cpu", "xpu:xccl,cuda:nccl", "cuda:5"),
        ("cuda:2", "cpu:mpi", "cpu"),
    ],
)
def test_tensors_are_sent_from_where_the_group_has_a_backend(
    monkeypatch, device, backends, place
):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 5)

    found = sending_device(torch.device(device), backends)

    assert found == torch.device(place)


def test_a_group_that_can_send_nothing_says_so():
    with pytest.raises(ValueError, match="have a backend for tensors on cpu"):
        sending_device(torch.device("cpu"), "xpu:xccl")


def test_a_missing_backend_is_no_lost_process(monkeypatch, only_gpus):
    def no_gpu():
        text = "no GPU here"
        raise RuntimeError(text)

    monkeypatch.setattr(torch.cuda, "current_device", no_gpu)
    ones = torch.ones(4, dtype=torch.float64)

    for send in (
        lambda: only_gpus.sum(lambda: ones, ones, key=("ones",)),
        lambda: only_gpus.tensor_from_first(ones),
    ):
        with pytest.raises(RuntimeError, match="no GPU here") as caught:
            send()
        assert not isinstance(caught.value, LostProcessError)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_group_of_gpus_alone_sums_what_lies_on_the_cpu(only_gpus):
    some = torch.arange(4, dtype=torch.float64)

    total = only_gpus.sum(lambda: some, torch.zeros_like(some), key=("some",))

    assert torch.equal(total, some)
    assert torch.equal(only_gpus.tensor_from_first(some.clone()), some)
    assert only_gpus.gather(lambda: "mine") == ["mine"]
