"""Ctrl-C anywhere in a look around the weights: nothing of the user's has changed."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.unit.analysis.surfacing import differences, network, state_of

from curvescope.analysis import homogeneity, loss_surface
from curvescope.problem import Problem

REPOSITORY = Path(__file__).parents[3]
VERBS = {
    "surface along eigenvectors": lambda problem, **more: loss_surface(
        problem, num_points=3, num_top=2, **more
    ),
    "surface along the gradient": lambda problem, **more: loss_surface(
        problem, directions="gradient", num_points=3, **more
    ),
    "homogeneity": lambda problem, **more: homogeneity(
        problem, num_draws=2, num_top=2, num_pairs=2, step_lengths=[0.1, 1.0], **more
    ),
}


def make():
    model = network()
    images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    problem = Problem(
        model, "cross_entropy", (images, torch.arange(8) % 10), batch_size=5
    )
    problem.evaluate()
    return model, problem


class Interrupt:
    """Raises in one of the passes through a layer, forwards or backwards."""

    def __init__(self, model, place=None, *, backwards=False):
        self.count, self.place, self.backwards = 0, place, backwards
        self.handle = model[5].register_forward_hook(self)

    def __call__(self, module, inputs, output):
        if not self.backwards:
            self.pass_by()
        elif output.requires_grad:
            output.register_hook(lambda _: self.pass_by())
        return output

    def pass_by(self):
        self.count += 1
        if self.count == self.place:
            raise KeyboardInterrupt


@pytest.mark.parametrize("verb", VERBS)
def test_every_interruption_leaves_the_network_as_it_was(verb):
    model, problem = make()
    counter = Interrupt(model)
    VERBS[verb](problem)
    counter.handle.remove()
    # In the eigensolver's products, the evaluations, and the curvature at the end.
    for place in {1, *torch.linspace(2, counter.count, 8).int().tolist()}:
        before = state_of(model)
        interrupt = Interrupt(model, place)
        with pytest.raises(KeyboardInterrupt):
            VERBS[verb](problem)
        interrupt.handle.remove()
        assert differences(before, state_of(model)) == [], place


@pytest.mark.parametrize("verb", VERBS)
def test_an_interruption_on_the_way_back_leaves_the_network_as_it_was(verb):
    model, problem = make()
    before = state_of(model)
    interrupt = Interrupt(model, 2, backwards=True)

    with pytest.raises(KeyboardInterrupt):
        VERBS[verb](problem)

    interrupt.handle.remove()
    assert differences(before, state_of(model)) == []


@pytest.mark.parametrize("verb", VERBS)
def test_what_was_interrupted_goes_on_to_the_same_bits(verb, tmp_path):
    model, problem = make()
    counter = Interrupt(model)
    whole = VERBS[verb](problem, folder=tmp_path / "whole")
    counter.handle.remove()
    interrupt = Interrupt(model, round(0.8 * counter.count))
    with pytest.raises(KeyboardInterrupt):
        VERBS[verb](problem, folder=tmp_path / "parts")
    interrupt.handle.remove()
    for path in (tmp_path / "parts").rglob("*.json"):
        json.loads(path.read_text())

    again = Interrupt(model)
    resumed = VERBS[verb](problem, folder=tmp_path / "parts")

    again.handle.remove()
    assert again.count < counter.count
    if verb == "homogeneity":
        assert all(
            torch.equal(resumed.losses[kind], whole.losses[kind])
            for kind in whole.kinds
        )
    else:
        assert torch.equal(resumed.losses, whole.losses)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send")
def test_a_real_interrupt_leaves_the_network_as_it_was():
    words = ["loss_surface", "homogeneity"] * 2
    command = [sys.executable, "-m", "tests.unit.analysis.surfacing", *words]
    with subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        interrupted = 0
        for number, _ in enumerate(words):
            assert process.stdout.readline() == "begins\n"
            # At another moment each time: directions, products, points.
            time.sleep(0.05 + 0.17 * number)
            process.send_signal(signal.SIGINT)
            left = json.loads(process.stdout.readline())
            interrupted += left.pop("interrupted")
            assert left == {"changed": [], "works": True}, number
        errors = process.stderr.read()
    # Python itself drops one that comes in a weak reference's callback, and says so.
    assert interrupted + errors.count("Exception ignored in") == len(words), errors
    assert process.returncode == 0
