"""Data that is drawn."""

import math

import numpy as np
import pytest
import torch

from curvescope import data

DRAWS = [data.gaussian_mixture, data.two_spirals, data.random_features]


@pytest.mark.parametrize("draw", DRAWS)
def test_equal_generators_give_equal_data_of_the_stated_size(draw):
    state = torch.get_rng_state()

    a, b, c = (
        draw(31, generator=torch.Generator().manual_seed(seed)).tensors
        for seed in (1, 1, 2)
    )

    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    assert not torch.equal(a[0], c[0])
    assert a[0].dtype == torch.float32
    assert a[1].dtype == torch.int64
    assert len(a[0]) == len(a[1]) == 31
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("draw", DRAWS)
def test_no_generator_means_a_fixed_seed(draw):
    assert torch.equal(draw(9).tensors[0], draw(9).tensors[0])


def test_a_mixtures_classes_lie_at_the_stated_distance(generator):
    points, labels = data.gaussian_mixture(
        40_000, num_features=5, num_classes=4, separation=6.0, generator=generator
    ).tensors

    for k in range(4):
        own = points[labels == k].double().numpy()
        assert len(own) == 10_000
        # The centre's error is sqrt(5 / 10,000) = 0.022 in norm.
        assert np.linalg.norm(own.mean(0)) == pytest.approx(6.0, abs=0.1)
        np.testing.assert_allclose(np.cov(own.T), np.eye(5), atol=0.08)


def test_spirals_without_noise_lie_on_their_curve(generator):
    points, labels = data.two_spirals(
        500, noise=0.0, turns=2.0, generator=generator
    ).tensors

    radius = points.norm(dim=1)
    angle = torch.atan2(points[:, 1], points[:, 0])
    turned = (angle - 4 * math.pi * radius - math.pi * labels) / (2 * math.pi)
    assert radius.max() <= 1 + 1e-6
    torch.testing.assert_close(turned, turned.round(), rtol=0, atol=1e-4)


def test_random_features_have_uniform_labels(generator):
    points, labels = data.random_features(
        20_000, num_features=3, num_classes=5, generator=generator
    ).tensors

    assert torch.bincount(labels).tolist() == pytest.approx([4000] * 5, rel=0.06)
    torch.testing.assert_close(torch.cov(points.T), torch.eye(3), rtol=0, atol=0.05)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="`num_samples` must be at least 1"):
        data.gaussian_mixture(0)
    with pytest.raises(ValueError, match="`noise` must be at least 0"):
        data.two_spirals(noise=-1.0)
    with pytest.raises(ValueError, match="`turns` must be above 0"):
        data.two_spirals(turns=0)
