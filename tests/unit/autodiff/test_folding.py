"""Folded convolutions: what a deferred layer can meet, against running unfolded."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from curvescope.autodiff.convolution import Convolution, ConvSettings
from curvescope.autodiff.folding import FoldedEvaluation
from curvescope.curvature import GGN, Hessian
from curvescope.problem import Problem


class Squares(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad


class Product(torch.autograd.Function):
    """Of a selected parameter with a convolution that is not selected."""

    @staticmethod
    def forward(ctx, a, x):
        ctx.save_for_backward(a, x)
        return a * x

    @staticmethod
    def backward(ctx, grad):
        a, x = ctx.saved_tensors
        return (grad * x).sum().reshape(1), grad * a


class Net(nn.Module):
    """One convolution, one BatchNorm, and whatever happens between them."""

    def __init__(self, between):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_var.uniform_(0.5, 2.0)
        self.norm.running_mean.normal_()
        self.gain = nn.Parameter(torch.ones(1))
        self.head = nn.Linear(3, 3)
        self.between = between
        self.double()

    def forward(self, x):
        return self.head(torch.tanh(self.between(self, x)).mean((2, 3)))


def no_grad_around(net, x):
    with torch.no_grad():
        y = net.conv(x)
    return net.norm(y) * net.gain


def no_grad_reader(net, x):
    y = net.conv(x)
    with torch.no_grad():
        scale = y.abs().mean((1, 2, 3), keepdim=True)
    return net.norm(y) / scale + y


def overwritten_output(net, x):
    y = net.conv(x)
    y.mul_(0.5)
    return net.norm(y)


def overwritten_after_norm(net, x):
    y = net.conv(x)
    z = net.norm(y)
    y.relu_()
    return z + y


def rectified_output(net, x):
    y = net.conv(x)
    z = y.relu_()
    return net.norm(y) + torch.relu_(2.0 * z)


def shape_only(net, x):
    y = net.conv(x)
    assert y.shape[1] == y.size(1) == 3
    assert y.dim() == y.ndim == 4
    assert len(y) == len(x)
    return net.norm(y)


BETWEEN = {
    "nothing": lambda net, x: net.norm(net.conv(x)),
    "a custom function": lambda net, x: net.norm(Squares.apply(net.conv(x))),
    "a function of two": lambda net, x: Product.apply(net.gain, net.conv(x)),
    "no_grad around the convolution": no_grad_around,
    "no_grad around a reader": no_grad_reader,
    "an overwritten output": overwritten_output,
    "queries of its shape": shape_only,
    "a rectifier": lambda net, x: F.relu(net.norm(net.conv(x))) + net.conv(x).relu(),
    "a rectifier in place": lambda net, x: F.relu(net.norm(net.conv(x)), inplace=True),
    "a rectifier of what is deferred": rectified_output,
    "indexing": lambda net, x: net.norm(net.conv(x)[:, [0, 1, 2]]),
    "a list": lambda net, x: net.norm(torch.cat([net.conv(x), net.conv(x)])[: len(x)]),
    "weights used twice": lambda net, x: net.norm(net.conv(x)) + net.conv(2 * x),
    "strings as padding": lambda net, x: net.norm(
        F.conv2d(x, net.conv.weight, padding="same")
    ),
    "keywords": lambda net, x: net.norm(
        torch.conv2d(input=x, weight=net.conv.weight, padding=(1, 1), groups=1)
    ),
    "one image without a batch": lambda net, x: net.norm(
        torch.stack([F.conv2d(image, net.conv.weight, padding=1) for image in x])
    ),
}

X = torch.randn(5, 2, 4, 4, dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 0, 1])


def reference(net, names):
    """Return the Hessian by plain double backward, without our network."""
    leaves = [dict(net.eval().named_parameters())[n] for n in names]
    value = F.cross_entropy(net(X.clone()), Y)
    grads = torch.autograd.grad(
        value, leaves, create_graph=True, allow_unused=True, materialize_grads=True
    )
    rows = [
        torch.autograd.grad(
            entry, leaves, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        if entry.requires_grad
        else [torch.zeros_like(p) for p in leaves]
        for g in grads
        for entry in g.reshape(-1)
    ]
    return torch.stack([torch.cat([r.reshape(-1) for r in row]) for row in rows])


@pytest.mark.filterwarnings("ignore:the model has custom autograd functions")
@pytest.mark.parametrize("params", [None, "head.*", ["gain", "head.*"]], ids=str)
@pytest.mark.parametrize("what", BETWEEN)
def test_folding_changes_no_number_whatever_lies_between(what, params):
    problem = Problem(Net(BETWEEN[what]), "cross_entropy", (X, Y), params=params)
    expected = reference(Net(BETWEEN[what]), problem.layout.names)

    got = Hessian(problem).to_dense()

    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-13)


def test_an_overwritten_input_is_seen():
    """Plain torch allows it where the convolution's weights are not differentiated."""

    def overwritten(net, x):
        # Already laid out as the convolution wants it, so that no copy is made.
        x = torch.tanh(x).contiguous(memory_format=torch.channels_last)
        y = net.conv(x)
        x.mul_(3.0)
        return net.norm(y) + x.mean(1, keepdim=True)

    problem = Problem(Net(overwritten), "cross_entropy", (X, Y), params="head.*")
    expected = reference(Net(overwritten), problem.layout.names)

    torch.testing.assert_close(Hessian(problem).to_dense(), expected)


def test_an_output_overwritten_after_its_use_is_as_it_was_for_the_norm():
    problem = Problem(
        Net(overwritten_after_norm), "cross_entropy", (X, Y), params="head.*"
    )
    expected = reference(Net(overwritten_after_norm), problem.layout.names)

    torch.testing.assert_close(Hessian(problem).to_dense(), expected)


def test_scripted_modules_get_real_tensors():
    class Scripted(nn.Module):
        def forward(self, x):
            return torch.tanh(x) * x

    with pytest.warns(DeprecationWarning, match="jit"):
        scripted = torch.jit.script(Scripted())
    plain = Scripted()

    def of(module):
        net = Net(lambda net, x: net.norm(module(net.conv(x))))
        return GGN(Problem(net, "cross_entropy", (X, Y))).to_dense()

    torch.testing.assert_close(of(scripted), of(plain))


SETTINGS = [
    ConvSettings((1, 1), (0, 0), (1, 1), 1),
    ConvSettings((2, 1), (1, 2), (1, 1), 1),
    ConvSettings((1, 1), (2, 2), (2, 2), 2),
    ConvSettings((3, 2), (1, 1), (1, 2), 4),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_cheap_convolution_s_derivatives_are_torch_s(settings):
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64, requires_grad=True)
    w = torch.randn(
        4, 4 // settings.groups, 3, 2, dtype=torch.float64, requires_grad=True
    )

    assert torch.autograd.gradcheck(
        lambda x, w: Convolution.apply(x, w, settings, True), (x, w)
    )
    assert torch.autograd.gradgradcheck(
        lambda x, w: Convolution.apply(x, w, settings, True), (x, w)
    )
    torch.testing.assert_close(
        Convolution.apply(x, w, settings, True), torch.conv2d(x, w, None, *settings)
    )


def test_only_the_needed_halves_of_the_cheap_convolution_are_computed():
    settings = SETTINGS[1]
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    w = torch.randn(4, 4, 3, 3, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradgradcheck(
        lambda w: Convolution.apply(x, w, settings, True).square(), (w,)
    )


def test_folding_is_off_where_no_gradient_is_recorded():
    folding = FoldedEvaluation(second_order=True)
    conv = nn.Conv2d(2, 3, 3).double()

    with torch.no_grad(), folding:
        y = conv(X)

    assert bool(torch.isfinite(y).all())


class _Counts(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.of[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_a_gauss_newton_product_computes_no_convolution_in_vain():
    layers = [nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Conv2d(3, 2, 2), nn.Flatten()).double()
    data = (torch.randn(4, 2, 6, 6, dtype=torch.float64), torch.arange(4) % 2)
    G = GGN(Problem(net, "cross_entropy", data))
    v = torch.randn(G.shape[1], dtype=torch.float64)
    G @ v
    counts = _Counts()

    with counts:
        G @ v

    # J v: dw * x everywhere, w * dx but for the first; J' u: one backward each.
    assert counts.of["convolution"] == 3 + 2
    assert counts.of["convolution_backward"] == 3


def counted_product(*layers):
    net = nn.Sequential(*layers, nn.Conv2d(3, 2, 2), nn.Flatten()).double()
    data = (torch.randn(4, 2, 6, 6, dtype=torch.float64), torch.arange(4) % 2)
    H = Hessian(Problem(net, "cross_entropy", data))
    v = torch.randn(H.shape[1], dtype=torch.float64)
    H @ v
    with _Counts() as counts:
        H @ v
    return counts.of


def test_rectifiers_make_no_zeros():
    convs = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 3)
    linear = counted_product(*convs)
    rectified = counted_product(convs[0], nn.ReLU(), convs[1], nn.ReLU(inplace=True))

    assert rectified["threshold_backward"] == 4
    assert rectified["zeros_like"] == linear["zeros_like"]
