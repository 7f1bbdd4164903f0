"""Networks by name."""

import pytest
import torch

from curvescope import models


def test_an_unknown_name_is_answered_with_the_choices():
    with pytest.raises(ValueError, match=r"`name` must be one of 'mlp', .*got 'vgg'"):
        models.build("vgg")


def test_an_unknown_argument_is_answered_with_the_choices():
    with pytest.raises(
        ValueError, match=r"must be among num_classes for resnet20; got depth"
    ):
        models.build("resnet20", depth=3)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("mlp", {"hidden": (3, 0)}, "`hidden` must be integers of at least 1"),
        ("mlp", {"activation": "sine"}, "`activation` must be one of"),
        ("mlp", {"in_features": 0}, "`in_features` must be at least 1"),
        ("lenet", {"image_size": 30}, "`image_size` must be one of 28, 32"),
        ("resnet20", {"num_classes": 0}, "`num_classes` must be at least 1"),
        ("char-gpt", {"attention": "flash"}, "`attention` must be one of 'sdpa'"),
    ],
)
def test_a_value_out_of_range_is_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, **arguments)


def test_underscores_count_as_hyphens():
    assert models.info("char_gpt") is models.info("char-gpt")


def test_equal_generators_build_equal_weights_and_leave_the_global_stream_alone():
    state = torch.get_rng_state()

    a, b, c = (
        models.build("mlp", generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )

    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, a.parameters(), b.parameters()))
    assert not torch.equal(a.linear1.weight, c.linear1.weight)


def test_one_generator_gives_different_networks_one_after_the_other(generator):
    a, b = (models.build("mlp", generator=generator) for _ in range(2))

    assert not torch.equal(a.linear1.weight, b.linear1.weight)
