"""Images made small."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from curvescope import data
from curvescope.data import downscale
from curvescope.data.downscale import METHODS

REPOSITORY = Path(__file__).resolve().parents[3]
ROOT = Path(
    os.environ.get("CURVESCOPE_TEST_DATA", REPOSITORY / "../shared/data")
).resolve()


def images(side=12, channels=3, count=4):
    return torch.rand(count, channels, side, side)


def test_nearest_takes_the_pixel_at_the_floor_of_the_scaled_place():
    x = images(side=28, channels=1)
    places = [i * 28 // 8 for i in range(8)]

    small = downscale(x, 64)

    expected = x[:, 0].double().numpy()[:, places][:, :, places].reshape(4, 64)
    assert np.array_equal(small.numpy(), expected)


def test_area_is_the_mean_of_the_pixels_that_fall_into_one():
    x = images(side=12)

    small = downscale(x, 16, method="area")

    blocks = x[:, 0].double().reshape(4, 4, 3, 4, 3).mean(dim=(2, 4))
    torch.testing.assert_close(small, blocks.flatten(1))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_constants_the_range_and_the_size(method):
    flat = downscale(torch.full((2, 1, 9, 9), 0.25), 16, method=method)
    small = downscale(images(), 9, method=method)

    torch.testing.assert_close(flat, torch.full((2, 16), 0.25, dtype=torch.float64))
    assert small.shape == (4, 9)
    assert small.dtype == torch.float64
    assert 0 <= float(small.min()) <= float(small.max()) <= 1


@pytest.mark.parametrize("method", METHODS)
def test_no_change_of_size_changes_no_pixel(method):
    x = images(side=8, channels=1)

    small = downscale(x, 64, method=method)

    torch.testing.assert_close(small, x.double().flatten(1))


def test_channels_are_the_first_their_mean_or_all_of_them():
    x = images(side=4)

    first = downscale(x, 16)
    mean = downscale(x, 16, channels="mean")
    everything = downscale(x, 16, channels="all")

    torch.testing.assert_close(first, x[:, 0].double().flatten(1))
    torch.testing.assert_close(mean, x.double().mean(dim=1).flatten(1))
    torch.testing.assert_close(everything, x.double().flatten(1))


@pytest.mark.parametrize(
    ("x", "arguments", "text"),
    [
        (images(), {"dim": 17}, "`dim` must be a square number; got 17. Take 16 or 25"),
        (images(), {"dim": 0}, "`dim` must be at least 1"),
        (images(), {"dim": 169}, "`dim` must be at most 144 for images of 12 x 12"),
        (images()[0], {"dim": 9}, "`images` must be of shape"),
        (images(), {"dim": 9, "method": "cubic"}, "`method` must be one of"),
        (images(), {"dim": 9, "channels": "red"}, "`channels` must be one of"),
    ],
)
def test_what_cannot_be_scaled_down_is_refused(x, arguments, text):
    with pytest.raises(ValueError, match=text):
        downscale(x, **arguments)


def test_the_first_100_mnist_images_have_41_live_directions():
    if not (ROOT / "mnist").exists():
        pytest.skip(f"no real data: {ROOT / 'mnist'} is absent (CURVESCOPE_TEST_DATA)")
    digits = data.load("mnist", root=ROOT, num_samples=100, download=False)

    X = downscale(digits.tensors()[0], 64)

    assert np.linalg.matrix_rank(X.numpy()) == 41
    # Exactly, over the integers modulo a prime: pixels are bytes.
    assert _rank_modulo((X * 255).round().long().numpy(), 2**31 - 1) == 41


def _rank_modulo(A, p):
    A = [[int(a) % p for a in row] for row in A]
    rank = 0
    for column in range(len(A[0])):
        pivot = next((i for i in range(rank, len(A)) if A[i][column]), None)
        if pivot is None:
            continue
        A[rank], A[pivot] = A[pivot], A[rank]
        inverse = pow(A[rank][column], -1, p)
        for i in range(rank + 1, len(A)):
            if factor := A[i][column] * inverse % p:
                A[i] = [
                    (a - factor * b) % p for a, b in zip(A[i], A[rank], strict=True)
                ]
        rank += 1
    return rank
