"""The pretrained CIFAR ResNet20 on real images: the same bits before and after."""

import pytest
import torch
from tests.unit.analysis.surfacing import differences, state_of
from torch.nn.functional import cross_entropy

from curvescope import data, models
from curvescope.analysis import homogeneity, loss_surface
from curvescope.problem import Problem

pytestmark = pytest.mark.slow


@pytest.fixture
def pretrained(data_root, tmp_path):
    weights = data_root / "weights/resnet_cifar10/resnet20-12fca82f.th"
    images = data_root / "cifar10-small-binary"
    if not (weights.exists() and images.exists()):
        pytest.skip("no real data: ResNet20's weights or CIFAR-10 images are absent")
    (tmp_path / "cifar10").symlink_to(images.resolve())
    network = models.build("resnet20")
    models.load_weights(network, weights)
    loaded = data.load(
        "cifar10",
        root=tmp_path,
        split="test",
        download=False,
        normalize=models.info("resnet20").normalize,
        num_samples=64,
    )
    return network.train(), loaded.tensors()


def bits(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_planes_and_steps_leave_the_network_as_it_was(pretrained):
    network, (X, y) = pretrained
    before = bits(network)
    problem = Problem(network, "cross_entropy", (X, y), batch_size=32)

    surface = loss_surface(problem, directions="filter", num_points=3)
    steps = homogeneity(
        problem, num_pairs=2, num_top=2, num_draws=2, step_lengths=[1.0]
    )

    with torch.no_grad():
        truth = float(cross_entropy(network.eval()(X), y))
    network.train()
    assert float(surface.losses[1, 1]) == pytest.approx(truth, rel=1e-5)
    assert surface.accuracy > 0.8  # trained weights, and images as they were trained on
    assert steps.kinds == ("top", "complement", "random")
    rise = {
        kind: float(values.mean()) - steps.loss for kind, values in steps.losses.items()
    }
    assert rise["top"] > 10 * abs(rise["complement"])
    assert all(
        torch.equal(before[name], value) for name, value in bits(network).items()
    )
    assert network.training


LOOKS = {
    "evaluation": lambda p: loss_surface(p, directions="random", num_points=5),
    "product": lambda p: loss_surface(p, num_points=5, num_top=2),
    "steps": lambda p: homogeneity(p, directions=["random"], num_draws=9),
    "product before steps": lambda p: homogeneity(p, num_pairs=2, num_top=2),
}


@pytest.mark.parametrize("look", LOOKS)
def test_control_c_leaves_the_network_as_it_was(look, pretrained):
    network, (X, y) = pretrained
    problem = Problem(network, "cross_entropy", (X, y), batch_size=32)
    problem.evaluate()
    before = state_of(network)
    calls = []

    def interrupt(*_):
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt

    handle = network.layer2[1].register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        LOOKS[look](problem)
    handle.remove()

    assert differences(before, state_of(network)) == []
