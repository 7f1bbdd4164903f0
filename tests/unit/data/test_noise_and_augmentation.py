"""Labels made wrong, images cropped and mirrored, and the published spirals and curve."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from curvescope import data


@pytest.mark.parametrize("fraction", [0.0, 0.2, 1.0])
def test_exactly_the_stated_part_of_the_labels_is_wrong(fraction, generator):
    clean = torch.arange(50) % 5

    noisy = data.noisy_labels(clean, fraction, generator=generator)

    assert int((noisy != clean).sum()) == round(50 * fraction)
    assert set(noisy.tolist()) <= set(range(5))


def test_wrong_labels_are_spread_evenly_over_the_other_classes(generator):
    clean = torch.full((30_000,), 2)

    noisy = data.noisy_labels(clean, 1.0, num_classes=4, generator=generator)

    counts = torch.bincount(noisy, minlength=4).tolist()
    assert counts[2] == 0
    assert all(abs(counts[c] - 10_000) < 5 * math.sqrt(10_000) for c in (0, 1, 3))


def test_a_new_label_may_be_the_old_one_if_asked(generator):
    clean = torch.zeros(4000, dtype=torch.int64)

    noisy = data.noisy_labels(
        clean, 1.0, num_classes=4, keep_possible=True, generator=generator
    )

    assert abs(int((noisy == 0).sum()) - 1000) < 150


def test_a_set_with_label_noise_is_of_the_same_kind_and_says_so(generator):
    digits = data.load("digits", num_samples=100)
    pair = digits.tensors()

    images = data.with_label_noise(digits, 0.1, generator=generator)
    tensors = data.with_label_noise(TensorDataset(*pair), 0.1)
    plain = data.with_label_noise(pair, 0.1)

    assert torch.equal(images.tensors()[0], pair[0])
    assert int((images.labels != digits.labels).sum()) == 10
    assert any("label noise: 10 labels are wrong" in note for note in images.notes)
    assert not images.official
    assert torch.equal(tensors.tensors[1], plain[1])
    assert torch.equal(digits.labels, pair[1])


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((torch.rand(3), 0.1), TypeError, "`labels` must be a vector of integers"),
        ((torch.arange(3), 1.1), ValueError, "`fraction` must be at most 1"),
        ((torch.zeros(3, dtype=torch.long), 0.5), ValueError, "`num_classes` must be"),
    ],
)
def test_wrong_arguments_of_label_noise_are_answered(arguments, error, text):
    with pytest.raises(error, match=text):
        data.noisy_labels(*arguments)


def test_every_augmented_image_is_one_of_the_possible_crops(generator):
    images = torch.rand(12, 2, 5, 6, generator=generator)
    padded = F.pad(images, [1] * 4, value=-3.0)

    changed = data.CropAndFlip(padding=1, fill=-3.0)(images, generator)

    places = set()
    for index in range(12):
        possible = {
            (row, column, flip): crop.flip(-1) if flip else crop
            for row in range(3)
            for column in range(3)
            for flip in (False, True)
            for crop in (padded[index, :, row : row + 5, column : column + 6],)
        }
        found = [
            key for key, crop in possible.items() if torch.equal(crop, changed[index])
        ]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 4


def test_without_padding_and_flip_nothing_changes(generator):
    images = torch.rand(3, 1, 4, 4)

    assert torch.equal(
        data.CropAndFlip(padding=0, flip=False)(images, generator), images
    )


def test_the_padding_of_a_normalised_set_is_black(generator):
    digits = data.load("digits", num_samples=20, normalize="half")
    images, _ = digits.tensors()

    changed = data.CropAndFlip.of(digits, padding=8)(images, generator)

    assert float(changed.min()) == -1.0
    assert set(changed.flatten().tolist()) <= set(images.flatten().tolist()) | {-1.0}


def test_images_with_other_channels_than_the_padding_are_refused(generator):
    with pytest.raises(ValueError, match="`images` must be images with 3 channel"):
        data.CropAndFlip(fill=(0.0, 0.0, 0.0))(torch.rand(2, 1, 4, 4), generator)


def test_the_published_spirals_are_reflections_of_the_stated_radius(generator):
    points, labels = data.two_spirals(
        1000, form="published", noise=0.0, generator=generator
    ).tensors
    first, second = points[labels == 0], points[labels == 1]

    angle = first.norm(dim=1) / 1.5

    assert torch.equal(first, -second)
    assert float(angle.max()) <= 600 * 2 * math.pi / 360
    # The square root of a uniform number: its square is uniform.
    share = (angle / (600 * 2 * math.pi / 360)) ** 2
    assert abs(float(share.mean()) - 0.5) < 0.05
    expected = 1.5 * torch.stack([-angle * angle.cos(), angle * angle.sin()], dim=1)
    torch.testing.assert_close(first, expected, atol=1e-4, rtol=1e-4)


def test_the_published_spirals_have_the_published_noise(generator):
    options = {"form": "published", "generator": generator}
    state = generator.get_state()
    noisy = data.two_spirals(20_000, **options).tensors[0]
    generator.set_state(state)
    clean = data.two_spirals(20_000, noise=0.0, **options).tensors[0]

    assert float((noisy - clean).std()) == pytest.approx(1.3, rel=0.02)


def test_an_odd_number_of_published_spirals_is_refused():
    with pytest.raises(ValueError, match="`num_samples` must be even"):
        data.two_spirals(5, form="published")
    with pytest.raises(ValueError, match="`form` must be one of 'unit', 'published'"):
        data.two_spirals(4, form="old")


def test_the_curve_of_the_bayesian_network_has_its_formula(generator):
    features, targets = data.bumpy_curve(40, noise=0.0, generator=generator).tensors
    x = features[:, 1].double()

    # Up to the slope, the centring and the scale: regress on what is left.
    bump = 0.5 * (0.5 + x) ** 2 * torch.sin(4 * x)
    basis = torch.stack([torch.ones_like(x), x, x**2, bump], dim=1)
    solution = torch.linalg.lstsq(basis, targets.double())
    residual = targets.double() - basis @ solution.solution

    assert torch.equal(features[:, 0], torch.ones(40))
    torch.testing.assert_close(features[:, 2], features[:, 1] ** 2)
    assert float(residual.norm()) < 1e-5
    assert float(targets.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(targets.std(correction=0)) == pytest.approx(1.0, abs=1e-6)
