"""Networks of the effective-dimension experiments: published counts, written by hand."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from curvescope import models
from curvescope.problem import Problem


def count(network, *, least_dim=0):
    return sum(p.numel() for p in network.parameters() if p.ndim >= least_dim)


@pytest.mark.parametrize(
    ("channels", "expected"),
    [(1, 3757), (2, 12_862), (4, 47_416), (8, 181_900), (64, 11_217_316)],
)
def test_preact_resnet18_has_the_published_counts_at_every_width(channels, expected):
    network = models.build("preact-resnet18", init_channels=channels, num_classes=100)

    c = channels
    assert count(network) == expected == 2724 * c**2 + 133 * c + 100 * (8 * c + 1)


def test_preact_resnet18_of_width_64_has_the_published_count_of_weights():
    network = models.build("preact-resnet18", num_classes=100)

    assert round(count(network, least_dim=2) / 1e6, 2) == 11.21
    assert round(count(network) / 1e6, 3) == 11.217


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (4, (620, 1332, 3332, 9636, 9792, 10_392, 12_744, 12_900, 13_500)),
        (64, (8420, None, None, None, None, None, None, None, 2_564_580)),
    ],
)
def test_convnet_has_the_published_counts_at_every_depth(channels, expected):
    counts = [
        count(models.build("convnet", init_channels=channels, depth=d, num_classes=100))
        for d in range(9)
    ]

    for ours, theirs in zip(counts, expected, strict=True):
        assert theirs is None or ours == theirs


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("basic-cnn", {}, 62_006),
        ("spirals-mlp", {}, 2181),
        ("spirals-mlp", {"width": 29}, 4467),
        ("spirals-mlp", {"width": 1}, 15),
        ("spirals-mlp", {"depth": 1}, 501),
        ("spirals-mlp", {"depth": 14}, 5961),
        ("spirals-mlp", {"width": 3, "depth": 3}, 49),
        ("regression-mlp", {}, 480),
    ],
)
def test_small_networks_have_their_published_counts(name, arguments, expected):
    assert count(models.build(name, **arguments)) == expected


@pytest.mark.parametrize("depth", [8, 20, 38, 56, 164])
def test_preresnet_has_the_count_of_its_formula(depth):
    # Convolutions, norms and shortcuts of each block, added up without our module.
    deep = depth >= 44
    blocks, wide = ((depth - 2) // 9, 4) if deep else ((depth - 2) // 6, 1)
    total, inside = 27 * 16, 16
    for width, index in itertools.product((16, 32, 64), range(blocks)):
        outside = wide * width
        if deep:
            total += inside * width + 9 * width**2 + 4 * width**2
            total += 2 * (inside + width + width)
        else:
            total += 9 * inside * width + 9 * width**2 + 2 * (inside + width)
        if index == 0 and (inside != outside or width > 16):
            total += inside * outside
        inside = outside
    total += 2 * inside + inside * 10 + 10

    assert count(models.build("preresnet", depth=depth)) == total


def test_preresnet_refuses_a_depth_that_no_network_has():
    with pytest.raises(ValueError, match=r"`depth` must be 6 n \+ 2 below 44; got 21"):
        models.build("preresnet", depth=21)
    with pytest.raises(ValueError, match=r"`depth` must be 9 n \+ 2 from 44 on"):
        models.build("preresnet", depth=50)


def test_preact_block_is_the_published_function_of_its_input(generator):
    block = models.build("preact-resnet18", init_channels=2).layer2[0].double().eval()
    with torch.no_grad():
        for tensor in (*block.parameters(), *block.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5, generator=generator)
    x = torch.randn(3, 2, 6, 6, generator=generator, dtype=torch.float64)

    def norm(value, which):
        layer = getattr(block, which)
        shape = (1, -1, 1, 1)
        scale = layer.weight / (layer.running_var + layer.eps).sqrt()
        centred = value - layer.running_mean.view(shape)
        return centred * scale.view(shape) + layer.bias.view(shape)

    activated = norm(x, "bn1").clamp(min=0)
    y = F.conv2d(activated, block.conv1.weight, stride=2, padding=1)
    y = F.conv2d(norm(y, "bn2").clamp(min=0), block.conv2.weight, padding=1)
    expected = y + F.conv2d(activated, block.shortcut.weight, stride=2)

    torch.testing.assert_close(block(x), expected)


def test_convnet_halves_the_image_after_each_of_its_three_groups():
    network = models.build("convnet", init_channels=4, depth=5)
    pools = [i for i, m in enumerate(network.features) if isinstance(m, nn.MaxPool2d)]
    widths = [m.out_channels for m in network.features if isinstance(m, nn.Conv2d)]

    assert widths == [4, 4, 8, 8, 16, 32]
    assert len(pools) == 3
    assert network.features(torch.rand(2, 3, 32, 32)).shape == (2, 32, 4, 4)


def test_a_masked_network_is_the_network_of_the_masked_weights(generator):
    plain = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.Flatten(1), nn.Linear(48, 5)
    )
    masked = models.mask_(plain, keep=0.5, generator=generator)
    x = torch.randn(4, 2, 4, 4, generator=generator)

    conv, linear = masked[0], masked[2]
    y = F.conv2d(
        x, conv.weight * conv.weight_mask, conv.bias * conv.bias_mask, padding=1
    )
    y = F.linear(
        y.flatten(1), linear.weight * linear.weight_mask, linear.bias * linear.bias_mask
    )

    torch.testing.assert_close(masked(x), y)
    kept = torch.cat([conv.weight_mask.flatten(), linear.weight_mask.flatten()])
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert abs(float(kept.mean()) - 0.5) < 0.1


def test_masks_are_saved_with_the_network():
    a, b = (models.build("masked-mlp", keep=0.5, mask_seed=seed) for seed in (1, 2))
    x = torch.rand(3, 64)

    b.load_state_dict(a.state_dict())

    assert torch.equal(a(x), b(x))


def test_the_selection_of_kept_parameters_leaves_out_the_zero_rows(generator):
    network = models.build("masked-mlp", in_features=3, hidden=4, num_classes=2)
    X, y = torch.randn(6, 3, generator=generator), torch.tensor([0, 1, 0, 1, 1, 0])
    kept = models.kept_parameters(network)

    problem = Problem(network, "cross_entropy", (X, y), params=kept)

    gradients = torch.autograd.grad(
        F.cross_entropy(network(X), y), list(network.parameters())
    )
    alive = sum(int(mask.sum()) for mask in kept.values())
    assert problem.num_params == alive < count(network)
    for (name, _), gradient in zip(network.named_parameters(), gradients, strict=True):
        assert not gradient[~kept[name]].any()


def test_a_network_without_layers_to_mask_is_refused():
    with pytest.raises(TypeError, match=r"`model` must hold nn.Linear or nn.Conv2d"):
        models.mask_(nn.Sequential(nn.ReLU()))


@pytest.mark.parametrize("keep", [0.0, 1.5])
def test_a_probability_out_of_range_is_refused(keep):
    with pytest.raises(ValueError, match=r"`keep` must be"):
        models.mask_(nn.Linear(2, 2), keep=keep)
