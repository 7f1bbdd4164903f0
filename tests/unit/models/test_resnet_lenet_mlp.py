"""Sizes, shapes and key names of the image networks."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from curvescope import models


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
        ("resnet18", 11_173_962),
        ("char-gpt", 223_145),
        ("lenet", 61_706),
    ],
)
def test_each_network_has_its_published_number_of_parameters(name, expected):
    network = models.build(name)

    assert sum(p.numel() for p in network.parameters()) == expected


@pytest.mark.parametrize(
    "name", [n for n in models.names() if n not in ("char-gpt", "regression-mlp")]
)
def test_each_classifier_maps_its_declared_input_to_its_declared_classes(name):
    declared = models.info(name)

    logits = models.build(name).eval()(torch.rand(2, *declared.input_shape))

    assert declared.task == "classification"
    assert logits.shape == (2, declared.num_classes)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("size", [28, 32])
@pytest.mark.parametrize("pooling", ["average", "max"])
def test_lenet_takes_images_of_28_and_of_32_pixels(size, pooling):
    network = models.build(
        "lenet", image_size=size, in_channels=3, num_classes=7, pooling=pooling
    )

    assert network(torch.rand(2, 3, size, size)).shape == (2, 7)


def test_resnet18_has_the_key_names_of_timm():
    # timm's BasicBlock, written from its naming scheme and not from our module.
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "fc.weight", "fc.bias"} | {f"bn1.{n}" for n in norm}
    for stage, block in itertools.product((1, 2, 3, 4), (0, 1)):
        here = f"layer{stage}.{block}"
        for index in (1, 2):
            expected.add(f"{here}.conv{index}.weight")
            expected |= {f"{here}.bn{index}.{n}" for n in norm}
        if stage > 1 and block == 0:
            expected.add(f"{here}.downsample.0.weight")
            expected |= {f"{here}.downsample.1.{n}" for n in norm}

    assert set(models.build("resnet18").state_dict()) == expected


def test_option_a_subsamples_and_pads_the_channels_with_zeros_on_both_sides():
    block = models.build("resnet20").eval().layer2[0]
    for parameter in block.parameters():
        nn.init.zeros_(parameter)  # the residual branch is silent
    image = torch.rand(2, 16, 8, 8)

    out = block(image)

    assert out.shape == (2, 32, 4, 4)
    assert torch.equal(out[:, 8:24], image[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def test_the_depth_in_the_name_counts_the_weight_layers():
    for depth in (20, 32, 44, 56):
        network = models.build(f"resnet{depth}")
        layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]

        assert len(layers) == depth


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_mlp_computes_the_written_out_formula(activation):
    net = models.build(
        "mlp", in_features=6, hidden=(5, 4), num_classes=3, activation=activation
    )
    images = torch.randn(7, 1, 2, 3)

    w = dict(net.named_parameters())
    act = getattr(torch, activation)
    x = act(F.linear(images.reshape(7, 6), w["linear1.weight"], w["linear1.bias"]))
    x = act(F.linear(x, w["linear2.weight"], w["linear2.bias"]))
    x = F.linear(x, w["linear3.weight"], w["linear3.bias"])

    assert torch.equal(net(images), x)


def test_mlp_without_hidden_layers_and_without_bias_is_one_matrix():
    net = models.build("mlp", in_features=4, hidden=(), num_classes=2, bias=False)

    assert [tuple(p.shape) for p in net.parameters()] == [(2, 4)]
    one = models.build("mlp", in_features=4, hidden=3, num_classes=2, bias=False)
    assert [tuple(p.shape) for p in one.parameters()] == [(3, 4), (2, 3)]
