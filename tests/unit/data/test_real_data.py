"""The real files and weights, where this machine has them."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from curvescope import data, models

REPOSITORY = Path(__file__).resolve().parents[3]
ROOT = Path(
    os.environ.get("CURVESCOPE_TEST_DATA", REPOSITORY / "../shared/data")
).resolve()


def _need(path):
    if not (ROOT / path).exists():
        pytest.skip(f"no real data: {ROOT / path} is absent (CURVESCOPE_TEST_DATA)")
    return ROOT / path


@pytest.fixture
def resnet20():
    file = _need("weights/resnet_cifar10/resnet20-12fca82f.th")
    network = models.build("resnet20").eval()
    models.load_weights(network, file)
    return network


def _score(network, images, labels):
    right, loss = 0, 0.0
    with torch.no_grad():
        for x, y in zip(images.split(500), labels.split(500), strict=True):
            logits = network(x)
            right += int((logits.argmax(1) == y).sum())
            loss += float(F.cross_entropy(logits.double(), y, reduction="sum"))
    return right, loss / len(labels)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_official_files_are_recognised_and_whole(name):
    _need(name)

    for split, size in (("train", 60_000), ("test", 10_000)):
        loaded = data.load(name, root=ROOT, split=split, download=False)

        assert loaded.official
        assert loaded.notes == ()
        assert len(loaded) == size
        counts = torch.bincount(loaded.tensors()[1], minlength=10)
        if name == "fashion-mnist":
            assert counts.tolist() == [size // 10] * 10
        elif split == "train":  # as in every description of the set
            assert counts.tolist() == [
                5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
            ]  # fmt: skip


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_declared_statistics_are_those_of_the_training_images(name):
    _need(name)
    images, _ = data.load(name, root=ROOT, download=False, normalize=name).tensors()

    assert images.mean().item() == pytest.approx(0, abs=3e-4)
    assert images.std().item() == pytest.approx(1, abs=3e-4)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_declared_statistics_of_cifar_fit_its_images(name):
    _need(name)
    images, _ = data.load(name, root=ROOT, download=False, normalize=name).tensors()

    # A part of the training images only: 10,000 and 2,000.
    assert images.mean((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=0.03)
    assert images.std((0, 2, 3)).tolist() == pytest.approx([1, 1, 1], abs=0.02)


def test_cifar_files_that_are_not_the_official_ones_are_used_and_named():
    missing = json.loads(_need("cifar10/missing.json").read_text())
    test = data.load("cifar10", root=ROOT, split="test", download=False)
    train = data.load("cifar10", root=ROOT, download=False)

    assert len(test) == 9980
    assert any(
        len(value) == 20 for value in missing.values() if isinstance(value, list)
    )
    assert not test.official
    assert not train.official
    assert torch.bincount(train.tensors()[1]).tolist() == [1000] * 10


def test_the_real_binary_version_is_read(tmp_path):
    (tmp_path / "cifar10").symlink_to(_need("cifar10-small-binary"))

    for split, count in (("train", 200), ("test", 100)):
        loaded = data.load("cifar10", root=tmp_path, split=split, download=False)

        assert torch.bincount(loaded.tensors()[1]).tolist() == [count] * 10
        assert not loaded.official


def test_resnet20_recognises_the_images_of_the_binary_version(tmp_path, resnet20):
    (tmp_path / "cifar10").symlink_to(_need("cifar10-small-binary"))
    test = data.load(
        "cifar10",
        root=tmp_path,
        split="test",
        download=False,
        normalize=models.info("resnet20").normalize,
        num_samples=200,
    )

    right, _ = _score(resnet20, *test.tensors())

    assert right >= 170


def test_published_weights_have_exactly_our_keys(resnet20):
    for name, file in (
        ("resnet20", "resnet_cifar10/resnet20-12fca82f.th"),
        ("resnet32", "resnet_cifar10/resnet32-d509ac18.th"),
        ("char-gpt", "tinystories_char_gpt/model_weights.pth"),
    ):
        path = _need(f"weights/{file}")
        stored = torch.load(path, map_location="cpu", weights_only=True)
        stored = stored.get("state_dict", stored)
        keys = {key.removeprefix("module.") for key in stored}

        network = models.build(name)
        ours = {k for k in network.state_dict() if not k.endswith("batches_tracked")}
        assert ours == keys
        models.load_weights(network, path)
        for key, value in network.named_parameters():
            other = stored.get(key, stored.get(f"module.{key}"))
            assert torch.equal(value, other)


def test_resnet20_gets_200_images_right_as_the_published_accuracy_says(resnet20):
    _need("cifar10/cifar-10-batches-py/test_batch")
    test = data.load(
        "cifar10",
        root=ROOT,
        split="test",
        num_samples=200,
        download=False,
        normalize=models.info("resnet20").normalize,
    )

    right, loss = _score(resnet20, *test.tensors())

    # 91.73 % of all; two standard errors of 200 draws are 3.9 %.
    assert right / 200 == pytest.approx(0.9173, abs=0.039)
    assert loss == pytest.approx(0.3732, abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file", "right", "loss"),
    [
        ("resnet20", "resnet20-12fca82f.th", 9155, 0.37316),
        ("resnet32", "resnet32-d509ac18.th", 9244, 0.37371),
    ],
)
def test_pretrained_resnets_reach_their_published_accuracy(name, file, right, loss):
    weights = _need(f"weights/resnet_cifar10/{file}")
    _need("cifar10/cifar-10-batches-py/test_batch")
    network = models.build(name).eval()
    models.load_weights(network, weights)
    test = data.load(
        "cifar10",
        root=ROOT,
        split="test",
        download=False,
        normalize=models.info(name).normalize,
    )

    found = _score(network, *test.tensors())

    assert found == (right, pytest.approx(loss, abs=5e-6))


def test_char_gpt_predicts_real_text_through_both_attentions():
    folder = _need("weights/tinystories_char_gpt")
    windows = data.resolve(
        f"text:{_need('text/tinystories_sample_cs336.txt')}",
        vocab=folder / "vocab_derived.json",
    )
    inputs, targets = windows.tensors()
    losses = []
    for kind in ("sdpa", "plain"):
        network = models.build("char-gpt", attention=kind).eval()
        models.load_weights(network, folder / "model_weights.pth")
        with torch.no_grad():
            logits = network(inputs)
        losses.append(F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item())

    assert losses[0] == pytest.approx(1.269, abs=5e-4)
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
