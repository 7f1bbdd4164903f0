"""Pixel statistics."""

import pytest
import torch

from curvescope import data, models


def test_normalize_subtracts_the_mean_and_divides_by_the_deviation(generator):
    images = torch.rand(4, 3, 5, 5, generator=generator)

    out = data.Normalize((0.1, 0.2, 0.3), (1.0, 2.0, 4.0))(images)

    for channel, (mean, std) in enumerate([(0.1, 1), (0.2, 2), (0.3, 4)]):
        expected = (images[:, channel] - mean) / std
        torch.testing.assert_close(out[:, channel], expected)


def test_one_number_serves_any_number_of_channels():
    half = data.Normalize((0.5,), (0.5,))

    assert torch.equal(half(torch.ones(3, 2, 2)), torch.ones(3, 2, 2))
    assert torch.equal(half(torch.zeros(1, 2, 2)), -torch.ones(1, 2, 2))


def test_wrong_statistics_are_refused():
    with pytest.raises(ValueError, match="`std` must have as many numbers as `mean`"):
        data.Normalize((0.5, 0.5), (0.5,))
    with pytest.raises(ValueError, match="`std` must be above 0"):
        data.Normalize((0.5,), (0.0,))
    with pytest.raises(ValueError, match=r"of 2 channel\(s\)"):
        data.Normalize((0.5,) * 3, (0.5,) * 3)(torch.ones(2, 4, 4))


def test_every_model_declares_statistics_that_exist():
    declared = {models.info(name).normalize for name in models.names()} - {None}

    assert declared == {"imagenet", "cifar10-detectors"}
    for name in declared:
        assert data.statistics(name).source
