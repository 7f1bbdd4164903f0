"""All layers of the pretrained CIFAR ResNet20 on real images."""

import pytest
import torch

import curvescope as cs
from curvescope import data, models
from curvescope.curvature import Hessian

pytestmark = pytest.mark.slow


@pytest.fixture
def resnet(data_root, tmp_path):
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
        num_samples=48,
    )
    return network, loaded.tensors()


def test_all_layers_take_at_most_three_times_the_work_of_the_whole_top_one(resnet):
    network, pair = resnet
    problem = cs.Problem(network, "cross_entropy", pair, batch_size=16)

    spectra = cs.all_layers(problem)
    top = cs.eigsh(Hessian(problem), k=1)

    assert len(spectra.layers) == 39
    assert spectra.converged
    assert spectra.cost.num_data_passes == 1
    assert spectra.whole_products < 3 * top.cost.num_matvecs
    # A block's eigenvalue is never above the whole matrix' norm.
    whole = abs(float(top.eigenvalues[0]))
    assert max(row.top_eigenvalue for row in spectra.layers) < 1.001 * whole
    for name in ("layer1.1.conv1", "layer3.0.bn1", "layer3.2.conv2", "linear"):
        block = cs.eigsh(Hessian(problem).block(name), k=1, check_multiplicity=False)
        expected = float(block.eigenvalues[0])
        assert spectra[name].top_eigenvalue == pytest.approx(expected, rel=2e-3)


def test_a_smooth_residual_net_shares_its_graphs(resnet, monkeypatch):
    monkeypatch.setattr(torch.nn.functional, "relu", torch.nn.functional.silu)
    network, pair = resnet
    problem = cs.Problem(network, "cross_entropy", pair, batch_size=48)
    some = {name: name for name in ("conv1", "layer2.1.bn1", "layer3.2.conv2")}

    spectra = cs.all_layers(problem, groups=some, num_probes=2)

    assert {row.method for row in spectra.layers} == {"products"}
    for row in spectra.layers:
        block = cs.eigsh(
            Hessian(problem).block(row.name), k=1, check_multiplicity=False
        )
        expected = float(block.eigenvalues[0])
        assert row.top_eigenvalue == pytest.approx(expected, rel=2e-3)
