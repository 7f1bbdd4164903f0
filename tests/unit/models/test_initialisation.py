"""Random weights by name."""

import pytest
import torch
from torch import nn

from curvescope import models
from curvescope.models import SCHEMES, initialise_
from curvescope.models.mlp import mlp


def net(activation="tanh", bias=True, hidden=(30, 20)):
    return mlp(
        in_features=40, hidden=hidden, num_classes=10, activation=activation, bias=bias
    ).double()


def weights(model):
    return [m.weight.detach() for m in model.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize(
    ("scheme", "variance"),
    [
        ("glorot", lambda o, i: 2 / (o + i)),
        ("glorot_normal", lambda o, i: 2 / (o + i)),
        ("glorot_uniform", lambda o, i: 2 / (o + i)),
        ("he", lambda o, i: 2 / i),
        ("lecun", lambda o, i: 1 / i),
        ("fan_in_uniform", lambda o, i: 1 / (3 * i)),
        (("normal", 0.3), lambda o, i: 0.09),
    ],
)
def test_schemes_have_the_stated_variance_in_every_layer(scheme, variance, generator):
    wide = initialise_(net(hidden=(300, 200)), scheme, generator=generator)

    for W in weights(wide):
        rows, columns = W.shape
        expected = variance(rows, columns)
        # The mean of m squares of normals has the relative deviation sqrt(2 / m).
        error = 5 * (2 / W.numel()) ** 0.5
        assert float((W**2).mean()) == pytest.approx(expected, rel=error)


def test_symmetric_uniform_weights_fill_their_interval(generator):
    for scheme, reach in (
        ("glorot_uniform", lambda o, i: (6 / (o + i)) ** 0.5),
        ("fan_in_uniform", lambda o, i: i**-0.5),
    ):
        for W in weights(initialise_(net(), scheme, generator=generator)):
            limit = reach(*W.shape)
            assert -limit <= float(W.min()) < -0.9 * limit
            assert 0.9 * limit < float(W.max()) <= limit


def test_convolutions_are_drawn_by_the_fans_of_their_patches(generator):
    model = nn.Sequential(nn.Conv2d(8, 64, 5, groups=2), nn.Conv1d(64, 30, 4)).double()

    initialise_(model, "glorot", generator=generator)

    # A unit of the first sees 4 channels, and an input reaches 32 units.
    for layer, fans in zip(model, (25 * (4 + 32), 4 * (64 + 30)), strict=True):
        error = 5 * (2 / layer.weight.numel()) ** 0.5
        found = float(layer.weight.detach().square().mean())
        assert found == pytest.approx(2 / fans, rel=error)
        assert not bool(layer.bias.any())


def test_orthogonal_convolutions_have_orthonormal_units(generator):
    layer = nn.Conv2d(3, 5, 2).double()

    initialise_(layer, "orthogonal", generator=generator)

    W = layer.weight.detach().flatten(1)
    torch.testing.assert_close(W @ W.T, torch.eye(5, dtype=W.dtype))


def test_uniform_weights_are_positive_and_below_the_inverse_width(generator):
    for W in weights(initialise_(net(), "uniform", generator=generator)):
        assert float(W.min()) >= 0
        assert 0.9 / W.shape[1] < float(W.max()) < 1 / W.shape[1]


def test_orthogonal_weights_have_orthonormal_rows_or_columns(generator):
    for W in weights(initialise_(net(), "orthogonal", generator=generator)):
        gram = W @ W.mT if W.shape[0] <= W.shape[1] else W.mT @ W
        torch.testing.assert_close(gram, torch.eye(len(gram), dtype=gram.dtype))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("activation", ["linear", "relu", "leaky_relu", "sigmoid"])
def test_every_layer_follows_the_scheme_whatever_the_activation(scheme, activation):
    first, other = net("tanh"), net(activation)

    initialise_(first, scheme, generator=torch.Generator().manual_seed(3))
    initialise_(other, scheme, generator=torch.Generator().manual_seed(3))

    for a, b in zip(first.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_biases_are_zero_unless_a_deviation_is_given(generator):
    plain = initialise_(net(hidden=(400,)), "glorot", generator=generator)
    assert all(
        not p.detach().any() for n, p in plain.named_parameters() if n.endswith("bias")
    )

    drawn = initialise_(net(hidden=(400,)), "he", bias_std=0.3, generator=generator)
    bias = drawn.linear1.bias.detach()
    assert float(bias.std()) == pytest.approx(0.3, rel=0.2)


def test_the_seed_decides():
    first = initialise_(net(), "glorot", generator=torch.Generator().manual_seed(1))
    again = initialise_(net(), "glorot", generator=torch.Generator().manual_seed(1))
    other = initialise_(net(), "glorot", generator=torch.Generator().manual_seed(2))

    assert torch.equal(weights(first)[0], weights(again)[0])
    assert not torch.equal(weights(first)[0], weights(other)[0])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_initialising_draws_nothing_from_the_global_stream(scheme):
    model = net()
    before = torch.random.get_rng_state()

    assert initialise_(model, scheme) is model

    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("model", "arguments", "kind", "text"),
    [
        (
            nn.ReLU(),
            {"scheme": "he"},
            TypeError,
            "`model` must hold an nn.Linear layer",
        ),
        (nn.Linear(2, 2), {"scheme": ("cauchy", 1)}, ValueError, "`scheme` must be a"),
        (
            nn.Linear(2, 2),
            {"scheme": ("normal", -1)},
            ValueError,
            "`scheme` must be at",
        ),
        (nn.Linear(2, 2), {"scheme": "xavier"}, ValueError, "`scheme` must be one of"),
        (nn.Linear(2, 2), {"scheme": "he", "bias_std": -1}, ValueError, "`bias_std`"),
    ],
)
def test_what_cannot_be_initialised_is_refused(model, arguments, kind, text):
    with pytest.raises(kind, match=text):
        initialise_(model, **arguments)


def test_linear_is_another_name_of_identity_and_leaky_relu_has_slope_one_hundredth():
    x = torch.tensor([[-2.0, 3.0]])
    for name, expected in (("linear", -2.0), ("identity", -2.0), ("leaky_relu", -0.02)):
        model = models.build("mlp", activation=name, hidden=(2,))
        assert model.activation1(x)[0, 0] == pytest.approx(expected)
