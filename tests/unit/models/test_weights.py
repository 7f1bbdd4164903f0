"""Weights from files: all or none."""

import os
import pickle
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from curvescope import models


def _net(width=3):
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


class Payload:
    """Would run a command when unpickled."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


@pytest.fixture
def source():
    torch.manual_seed(1)
    net = _net()
    net[1].running_mean.fill_(7)
    return net


def _equal(a, b):
    return all(torch.equal(x, b.state_dict()[k]) for k, x in a.state_dict().items())


WRAPPINGS = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer": {}},
    "model": lambda s: {"model": s},
    "data parallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "compiled": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "both": lambda s: {"model": {f"module._orig_mod.{k}": v for k, v in s.items()}},
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
@pytest.mark.parametrize("suffix", ["pt", "pth", "th"])
def test_weights_are_found_in_any_usual_wrapping(tmp_path, source, wrap, suffix):
    torch.save(wrap(source.state_dict()), tmp_path / f"w.{suffix}")
    target = _net()

    models.load_weights(target, tmp_path / f"w.{suffix}")

    assert _equal(source, target)


def test_safetensors_are_loaded(tmp_path, source):
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    target = _net()

    models.load_weights(target, str(tmp_path / "w.safetensors"))

    assert _equal(source, target)


def test_a_model_that_has_the_prefix_itself_keeps_it(tmp_path):
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(2, 2)

    source, target = Wrapper(), Wrapper()
    torch.save(source.state_dict(), tmp_path / "w.pt")

    models.load_weights(target, tmp_path / "w.pt")

    assert _equal(source, target)


def test_counters_of_batch_normalisation_may_be_missing(tmp_path, source):
    state = OrderedDict(source.state_dict())
    del state["1.num_batches_tracked"]
    torch.save(state, tmp_path / "w.pt")
    target = _net()

    models.load_weights(target, tmp_path / "w.pt")

    assert torch.equal(target[0].weight, source[0].weight)


def test_a_tied_tensor_may_be_stored_once(tmp_path):
    def tied():
        net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
        net[1].weight = net[0].weight
        return net

    source, target = tied(), tied()
    state = source.state_dict()
    del state["1.weight"]
    save_file(state, tmp_path / "w.safetensors")

    models.load_weights(target, tmp_path / "w.safetensors")

    assert torch.equal(target[1].weight, source[0].weight)
    assert target[1].weight is target[0].weight


def _refused(path, message, kind=ValueError):
    target = _net()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(kind, match=message) as caught:
        models.load_weights(target, path)
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in before.items())
    assert str(path.name) in str(caught.value)


def test_another_architecture_is_named_and_changes_nothing(tmp_path, source):
    path = tmp_path / "w.pt"
    state = source.state_dict()

    torch.save(_net(4).state_dict(), path)
    _refused(path, r"of another shape: 0.weight \(4, 2\) for \(3, 2\).* and 3 more")
    torch.save({k: v for k, v in state.items() if k != "1.bias"}, path)
    _refused(path, "missing: 1.bias")
    torch.save({**state, "2.weight": torch.ones(1)}, path)
    _refused(path, "unexpected: 2.weight")
    torch.save({**state, "0.bias": torch.ones(3, dtype=torch.long)}, path)
    _refused(path, "of another kind: 0.bias torch.int64 for torch.float32")


def test_a_failure_inside_the_model_changes_nothing(tmp_path, source):
    class Awkward(nn.Sequential):
        def _load_from_state_dict(self, state, prefix, *rest):
            super()._load_from_state_dict(state, prefix, *rest)
            if "1.bias" in state and state["1.bias"][0] == 9:
                raise RuntimeError("in the middle")

        def load_state_dict(self, state, strict=True, assign=False):
            for key in ("0.weight", "1.bias"):
                self.state_dict()[key].copy_(state[key])
                if state["1.bias"][0] == 9:
                    raise RuntimeError("in the middle")
            return super().load_state_dict(state, strict=strict, assign=assign)

    target = Awkward(*_net())
    before = target[0].weight.detach().clone()
    state = source.state_dict() | {"1.bias": torch.full((3,), 9.0)}
    torch.save(state, tmp_path / "w.pt")

    with pytest.raises(ValueError, match="in the middle"):
        models.load_weights(target, tmp_path / "w.pt")

    assert torch.equal(target[0].weight, before)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, source, suffix, keep):
    path = tmp_path / f"w.{suffix}"
    if suffix == "pt":
        torch.save(source.state_dict(), path)
    else:
        save_file(source.state_dict(), path)
    content = path.read_bytes()
    length = int(keep * len(content)) if isinstance(keep, float) else keep
    path.write_bytes(content[:length])

    _refused(path, "must be a whole (safetensors )?file")


def test_pickled_objects_are_refused_and_not_run(tmp_path, source):
    witness = tmp_path / "ran"
    path = tmp_path / "w.pt"

    path.write_bytes(pickle.dumps(Payload(witness), protocol=2))
    _refused(path, "hold tensors only; got pickled objects .*Save a state dict")
    torch.save({"state_dict": source.state_dict(), "net": Payload(witness)}, path)
    _refused(path, "hold tensors only; got pickled objects .*Save a state dict")
    torch.save(source, path)
    _refused(path, "hold tensors only; got pickled objects .*Save a state dict")

    assert not witness.exists()


def test_a_checkpoint_without_a_state_dict_is_refused_with_what_it_holds(tmp_path):
    path = tmp_path / "w.pt"

    torch.save({"epoch": 3, "weights": {}}, path)
    _refused(path, "got a mapping with the keys epoch, weights")
    torch.save([torch.ones(2)], path)
    _refused(path, "hold a state dict, .*; got list")


def test_a_missing_file_and_an_unknown_ending_are_refused(tmp_path):
    _refused(tmp_path / "gone.pt", "existing file; got .*gone.pt", FileNotFoundError)
    other = tmp_path / "w.onnx"
    other.write_bytes(b"")
    _refused(other, "must end in one of .safetensors, .pt")
