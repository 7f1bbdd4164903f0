"""The laws of initialisation against dense float64 autodiff, quadrature and wide nets."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch.func import grad, jacrev

from curvescope.theory import (
    LAWS,
    UNITS,
    backward_variance,
    balancing_scales,
    bernoulli_output_trace,
    cross_entropy_output_trace,
    curvature_ratio_exponent,
    dropout_constant,
    forward_variance,
    gaussian_mean,
    hessian_variance,
    homogeneous_norm_exponent,
    mean_field,
    off_diagonal_ratio_exponent,
    second_moment,
    slope_moment,
    unit,
    unit_constant,
)


def data(widths, num=7):
    generator = torch.Generator().manual_seed(11)
    X = torch.randn(num, widths[0], generator=generator, dtype=torch.float64)
    Y = torch.randn(num, widths[-1], generator=generator, dtype=torch.float64)
    return X, Y


def drawn(widths):
    generator = torch.Generator().manual_seed(5)
    return [
        torch.randn(b, a, generator=generator, dtype=torch.float64)
        for a, b in pairwise(widths)
    ]


def forward(weights, X, phi):
    a = X
    for W in weights[:-1]:
        a = phi(a @ W.T)
    return a @ weights[-1].T


def parts(weights, X, Y, phi, row, column):
    """Return G and F of half the squared error, one block, by dense autodiff."""

    def outputs(A, B):
        changed = list(weights)
        changed[row], changed[column] = A, B
        return forward(changed, X, phi)

    A, B = weights[row], weights[column]
    n = len(X)
    if row == column:
        J = jacrev(lambda W: outputs(W, W))(A).reshape(-1, A.numel())
        K = J
    else:
        J = jacrev(outputs, argnums=0)(A, B).reshape(-1, A.numel())
        K = jacrev(outputs, argnums=1)(A, B).reshape(-1, B.numel())
    residual = (forward(weights, X, phi) - Y).detach()
    if row == column:
        F = jacrev(grad(lambda W: (residual * outputs(W, W)).sum()))(A)
    else:
        inner = grad(lambda P, Q: (residual * outputs(P, Q)).sum(), argnums=0)
        F = jacrev(inner, argnums=1)(A, B)
    return J.T @ K / n, F.reshape(A.numel(), B.numel()) / n


def norm(M):
    return float(torch.linalg.norm(M))


def slope_of(function, small, large):
    return math.log(function(large) / function(small)) / math.log(large / small)


@pytest.mark.parametrize("depth", [3, 5])
def test_curvature_over_linearisation_follows_its_power_of_the_scale(depth):
    widths = (4, *(3,) * (depth - 1), 2)
    X, Y = data(widths)
    base = drawn(widths)

    for k in range(1, depth):

        def ratio(s, k=k):
            G, F = parts([s * W for W in base], X, Y, torch.tanh, k - 1, k - 1)
            return norm(F) / norm(G)

        expected = curvature_ratio_exponent(k, depth=depth)
        assert slope_of(ratio, 1e-4, 1e-3) == pytest.approx(expected, abs=1e-3)


def test_the_exponents_are_those_of_the_published_depths():
    assert [curvature_ratio_exponent(k, depth=3) for k in (1, 2)] == [-1, 1]
    assert [curvature_ratio_exponent(k, depth=5) for k in range(1, 5)] == [-3, -1, 1, 3]


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_off_diagonal_blocks_of_small_relu_networks_are_curvature(depth):
    widths = (4, *(5,) * (depth - 1), 2)
    X, Y = data(widths)
    base = drawn(widths)
    for j, k in ((0, depth - 1), (depth - 1, depth - 2)):

        def ratio(s, j=j, k=k):
            G, F = parts([s * W for W in base], X, Y, torch.relu, j, k)
            return norm(F) / norm(G)

        expected = off_diagonal_ratio_exponent(depth=depth)
        assert slope_of(ratio, 1e-4, 1e-3) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    "phi", [torch.relu, lambda u: torch.where(u > 0, u, 0.2 * u)], ids=["relu", "leaky"]
)
def test_a_piecewise_linear_layer_has_no_curvature_part_and_no_own_scale(phi):
    widths = (4, 5, 5, 2)
    X, Y = data(widths)
    base = drawn(widths)
    for k in range(3):
        G, F = parts(base, X, Y, phi, k, k)
        assert norm(F) == 0.0
        for c in (1e-3, 10.0):
            scaled = [c * W if i == k else W for i, W in enumerate(base)]
            again, _ = parts(scaled, X, Y, phi, k, k)
            assert norm(again) == pytest.approx(norm(G), rel=1e-12)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_all_scales_together_multiply_every_block_by_the_stated_power(depth):
    widths = (4, *(5,) * (depth - 1), 2)
    X, Y = data(widths)
    base = drawn(widths)
    exponent = homogeneous_norm_exponent(depth=depth)
    for k in range(depth):
        before, _ = parts(base, X, Y, torch.relu, k, k)
        after, _ = parts([0.1 * W for W in base], X, Y, torch.relu, k, k)
        assert norm(after) == pytest.approx(norm(before) * 0.1**exponent, rel=1e-11)


def test_balancing_scales_make_all_blocks_equal_and_keep_the_function():
    widths = (4, 6, 3, 5, 2)
    X, Y = data(widths)
    base = [c * W for c, W in zip((0.03, 2.0, 0.5, 7.0), drawn(widths), strict=True)]
    norms = [norm(parts(base, X, Y, torch.relu, k, k)[0]) for k in range(4)]

    scales = balancing_scales(norms)
    balanced = [s * W for s, W in zip(scales, base, strict=True)]

    after = [norm(parts(balanced, X, Y, torch.relu, k, k)[0]) for k in range(4)]
    assert math.prod(scales) == pytest.approx(1.0, rel=1e-14)
    assert max(norms) / min(norms) > 100
    np.testing.assert_allclose(after, math.prod(norms) ** 0.25, rtol=1e-11)
    torch.testing.assert_close(
        forward(balanced, X, torch.relu), forward(base, X, torch.relu)
    )


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("variance", [0.04, 1.0, 30.0])
def test_moments_are_those_of_an_adaptive_quadrature(name, variance):
    phi, s = unit(name), math.sqrt(variance)

    def density(z):
        return math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)

    def truth(function):
        return sum(
            quad(lambda z: function(s * z) ** 2 * density(z), *ends, epsabs=1e-13)[0]
            for ends in ((-12, -1), (-1, 0), (0, 1), (1, 12))
        )

    assert second_moment(phi, variance=variance) == pytest.approx(
        truth(phi.value), rel=1e-7
    )
    assert slope_moment(phi, variance=variance) == pytest.approx(
        truth(phi.slope), rel=1e-7
    )


@pytest.mark.parametrize("name", UNITS)
def test_units_are_those_of_torch_with_their_slopes(name):
    functions = {
        "identity": lambda u: u,
        "tanh": torch.tanh,
        "relu": torch.relu,
        "leaky_relu": torch.nn.functional.leaky_relu,
        "sigmoid": torch.sigmoid,
        "gelu": torch.nn.functional.gelu,
        "silu": torch.nn.functional.silu,
        "elu": torch.nn.functional.elu,
        "softplus": torch.nn.functional.softplus,
    }
    phi = unit(name)
    for u in (-40.0, -3.0, -0.2, 0.3, 5.0):
        point = torch.tensor(u, dtype=torch.float64)
        value, slope = functions[name](point), grad(functions[name])(point)
        assert phi.value(u) == pytest.approx(float(value), rel=1e-9, abs=1e-15)
        assert phi.slope(u) == pytest.approx(float(slope), rel=1e-9, abs=1e-15)


def test_constants_are_those_of_the_schemes_that_they_recover():
    assert unit_constant(unit("identity")) == unit_constant(unit("tanh")) == 1.0
    assert unit_constant(unit("relu")) == 0.5
    assert unit_constant(unit("leaky_relu", parameter=0.3)) == pytest.approx(
        (1 + 0.3**2) / 2
    )
    assert dropout_constant(0.8) == pytest.approx(1.25)
    assert forward_variance(50, constant=0.5) == pytest.approx(2 / 50)  # He
    assert forward_variance(50) == pytest.approx(1 / 50)  # LeCun
    assert hessian_variance(50, 30) == pytest.approx(2 / 80)  # Glorot
    assert 1 / hessian_variance(50, 30, constant=0.5) == pytest.approx(
        (
            1 / forward_variance(50, constant=0.5)
            + 1 / backward_variance(30, constant=0.5)
        )
        / 2
    )


@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize("variance", [0.01, 1.0, 25.0])
def test_the_output_trace_of_cross_entropy_is_that_of_drawn_logits(
    num_classes, variance
):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(200_000, num_classes, generator=generator, dtype=torch.float64)
    traces = 1 - torch.softmax(math.sqrt(variance) * z, 1).square().sum(1)
    error = float(traces.std()) / math.sqrt(len(traces))

    found = cross_entropy_output_trace(num_classes, variance=variance)

    assert abs(found - float(traces.mean())) < 4 * error


def test_two_classes_are_a_bernoulli_of_the_difference_of_logits():
    # tr(diag p - p p') = 2 p (1 - p), and the difference has twice the variance.
    for v in (0.1, 3.0, 200.0):
        assert cross_entropy_output_trace(2, variance=v) == pytest.approx(
            2 * bernoulli_output_trace(variance=2 * v), rel=1e-6
        )


def random_traces(widths, stds, phi, x, num, *, bias=False):
    """Return each layer's GGN trace of half the squared error in ``num`` random nets."""
    generator = torch.Generator().manual_seed(3)
    a = x.expand(num, -1)
    inputs, slopes, weights = [], [], []
    for (fan_in, fan_out), s in zip(pairwise(widths), stds, strict=True):
        W = s * torch.randn(
            num, fan_out, fan_in, generator=generator, dtype=torch.float64
        )
        inputs.append(a.square().sum(1) + bias)
        u = torch.einsum("roi,ri->ro", W, a).requires_grad_()
        a = phi(u)
        slopes.append(torch.autograd.grad(a.sum(), u)[0])
        a, _ = a.detach(), weights.append(W)
    B = torch.eye(widths[-1], dtype=torch.float64).expand(num, -1, -1)
    traces = [inputs[-1] * B.square().sum((1, 2))]
    for k in reversed(range(len(stds) - 1)):
        B = (B @ weights[k + 1]) * slopes[k][:, None, :]
        traces.append(inputs[k] * B.square().sum((1, 2)))
    return torch.stack(traces[::-1])


@pytest.mark.parametrize("bias", [False, True])
def test_mean_field_is_exact_in_the_mean_for_narrow_relu_networks(bias):
    widths, stds = (5, 4, 3, 4, 2), (0.5, 0.9, 0.7, 1.1)
    x = torch.linspace(-1, 2, 5, dtype=torch.float64)
    traces = random_traces(widths, stds, torch.relu, x, 60_000, bias=bias)
    errors = traces.std(1) / math.sqrt(traces.shape[1])

    field = mean_field(
        widths,
        weight_stds=stds,
        units=[unit("relu")] * 3,
        input_square_norms=[float(x.square().sum())],
        output_trace=lambda _: 2.0,
        has_bias=[bias] * 4,
    )

    for found, mean, error in zip(field.traces, traces.mean(1), errors, strict=True):
        assert abs(found - float(mean)) < 4 * float(error)


@pytest.mark.parametrize("name", ["tanh", "gelu", "softplus"])
def test_mean_field_is_right_to_leading_order_in_the_widths(name):
    functions = {
        "tanh": torch.tanh,
        "gelu": torch.nn.functional.gelu,
        "softplus": torch.nn.functional.softplus,
    }
    x = torch.linspace(-1, 1, 20, dtype=torch.float64)
    deviations = []
    for width in (16, 128):
        widths = (20, width, width, 4)
        stds = tuple(1.3 / math.sqrt(m) for m in widths[:-1])
        num = 40_000 // width
        traces = random_traces(widths, stds, functions[name], x, num)
        errors = traces.std(1) / math.sqrt(num) / traces.mean(1)

        field = mean_field(
            widths,
            weight_stds=stds,
            units=[unit(name)] * 2,
            input_square_norms=[float(x.square().sum())],
            output_trace=lambda _: 4.0,
        )

        ratios = torch.tensor(field.traces) / traces.mean(1)
        deviations.append((ratios - 1).abs())
        # A correction of order 1 / width, and the error of the draws.
        assert bool((deviations[-1] < 4 * errors + 2.0 / width).all())


def test_mean_field_averages_over_samples_and_counts_biases():
    arguments = {
        "weight_stds": (0.4, 0.3),
        "units": [unit("tanh")],
        "output_trace": lambda v: 1.0 / (1.0 + v),
        "bias_stds": (0.2, 0.1),
        "has_bias": (True, False),
    }
    one, two = (
        mean_field((3, 9, 2), input_square_norms=[x], **arguments) for x in (1, 8)
    )

    both = mean_field((3, 9, 2), input_square_norms=[1, 8], **arguments)

    assert both.traces[0] == pytest.approx((one.traces[0] + two.traces[0]) / 2)
    assert one.variances[0] == pytest.approx(0.4**2 + 0.2**2)
    assert one.traces[0] == pytest.approx((1 + 1) * one.output_traces[0])
    assert one.traces[1] == pytest.approx(
        one.input_square_norms[1] * one.output_traces[1]
    )


def test_every_law_states_how_far_it_is_known_and_where_it_is_from():
    for name, one in LAWS.items():
        assert one.name == name
        assert one.status in ("published", "derived", "verified")
        assert one.source
        assert one.status in str(one)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: forward_variance(0), "`fan_in` must be at least 1"),
        (lambda: hessian_variance(2, 2, constant=0.0), "`constant` must be above 0"),
        (lambda: dropout_constant(1.5), "`keep_probability` must be at most 1"),
        (lambda: curvature_ratio_exponent(3, depth=3), "last layer is linear"),
        (lambda: balancing_scales([1.0, 0.0]), "`norms` must be above 0"),
        (lambda: balancing_scales([]), "`norms` must have at least one entry"),
        (lambda: unit("tanh", parameter=1.0), "`parameter` must be None for tanh"),
        (lambda: unit("swish"), "`name` must be one of"),
        (lambda: gaussian_mean(math.exp, variance=-1.0), "`variance` must be at least"),
        (lambda: cross_entropy_output_trace(1, variance=1.0), "`num_classes` must be"),
    ],
)
def test_what_has_no_law_is_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()
