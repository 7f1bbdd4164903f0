"""Measurements as TensorBoard's scalars, read back from its own files."""

import re
import warnings

import pytest
import torch

from curvescope._core.errors import MissingExtraError
from curvescope.callbacks.tensorboard import scalar_log


class Writer:
    """Anything with `add_scalar`."""

    def __init__(self):
        self.seen = []

    def add_scalar(self, name, value, step):
        self.seen.append((name, value, step))


def test_any_writer_gets_names_values_and_steps():
    writer = Writer()

    scalar_log(writer, prefix="run")({"loss": 0.5, "trace": 2.0}, 7)

    assert writer.seen == [("run/loss", 0.5, 7), ("run/trace", 2.0, 7)]


def test_what_is_no_writer_is_refused():
    with pytest.raises(TypeError, match=re.escape("`writer` must be a folder")):
        scalar_log(3)


def test_a_folder_without_tensorboard_names_the_extra(tmp_path, monkeypatch):
    import importlib

    original = importlib.import_module

    def missing(name, *args):
        if name.partition(".")[0] == "tensorboard":
            raise ModuleNotFoundError(name=name)
        return original(name, *args)

    monkeypatch.setattr(importlib, "import_module", missing)

    with pytest.raises(MissingExtraError, match=re.escape("curvescope[tensorboard]")):
        scalar_log(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_tensorboards_own_reader_finds_the_scalars(tmp_path):
    pytest.importorskip(
        "tensorboard", reason="make test-integrations installs tensorboard"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import (
            EventAccumulator,
        )
    from curvescope import Problem, track

    model = torch.nn.Linear(3, 2)
    data = (torch.eye(3), torch.tensor([0, 1, 0]))
    problem = Problem(model, "cross_entropy", data)
    tracker = track(problem, every=1, k=1, log=scalar_log(tmp_path))
    for step in range(3):
        with torch.no_grad():
            model.weight.mul_(1.5)
        tracker.step(step)

    events = EventAccumulator(str(tmp_path))
    events.Reload()
    read = [(e.step, e.value) for e in events.Scalars("curvature/eigenvalue_1")]
    eigenvalues = tracker.result().eigenvalues[:, 0].tolist()
    assert [step for step, _ in read] == [0, 1, 2]
    assert [value for _, value in read] == pytest.approx(eigenvalues, rel=1e-6)
