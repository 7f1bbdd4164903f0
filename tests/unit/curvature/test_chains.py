"""Dense networks multiplied without autograd, against dense second derivatives."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, jacrev
from torch.nn.utils import weight_norm

from curvescope.autodiff.chain import ChainRun
from curvescope.autodiff.recording import ChainRecorder
from curvescope.curvature import GGN, NTK, FunctionalHessian, Hessian, Jacobian
from curvescope.curvature.blocks import DiagonalBlocks
from curvescope.problem import Problem

ELEMENTWISE = {
    "relu": nn.ReLU(),
    "relu in place": nn.ReLU(inplace=True),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "gelu": nn.GELU(),
    "gelu by tanh": nn.GELU("tanh"),
    "silu": nn.SiLU(),
    "mish": nn.Mish(),
    "elu": nn.ELU(),
    "elu in place": nn.ELU(inplace=True),
    "selu": nn.SELU(),
    "celu": nn.CELU(0.7),
    "softplus": nn.Softplus(beta=2.0),
    "leaky relu": nn.LeakyReLU(0.2),
    "hardtanh": nn.Hardtanh(),
    "relu6": nn.ReLU6(),
    "logsigmoid": nn.LogSigmoid(),
    "hardswish": nn.Hardswish(),
    "softsign": nn.Softsign(),
    "tanhshrink": nn.Tanhshrink(),
    "two after each other": nn.Sequential(nn.Tanh(), nn.Softplus()),
    "with dropout in eval mode": nn.Sequential(nn.Dropout(0.5), nn.Tanh()),
}


def _samples(n=9, width=5, classes=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(n, width, generator=generator, dtype=dtype)
    return X, torch.randint(classes, (n,), generator=generator)


def _net(*modules):
    torch.manual_seed(2)
    for module in nn.ModuleList(modules).modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    return nn.Sequential(*modules).double().eval()


def _dense_hessian(net, loss, data):
    """Differentiate twice in plain PyTorch."""
    X, y = data
    named = {name: p.detach() for name, p in net.named_parameters()}
    sizes = [p.numel() for p in named.values()]

    def value(flat):
        parts = flat.split(sizes)
        state = {
            n: v.view_as(p) for (n, p), v in zip(named.items(), parts, strict=True)
        }
        return loss(functional_call(net, state, (X,)), y)

    return jacrev(grad(value))(torch.cat([p.reshape(-1) for p in named.values()]))


def _is_chain(operator):
    return operator.plan().chain


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_products_of_dense_nets_are_those_of_two_plain_differentiations(name, bias):
    phi = ELEMENTWISE[name]
    net = _net(
        nn.Flatten(),
        *(nn.Linear(5, 6, bias=bias), phi),
        *(nn.Linear(6, 4, bias=bias), phi, nn.Linear(4, 3, bias=bias)),
    )
    data = _samples()
    problem = Problem(net, "cross_entropy", data)
    H, G, functional = Hessian(problem), GGN(problem), FunctionalHessian(problem)
    exact = _dense_hessian(net, F.cross_entropy, data)

    found, parts = H.to_dense(), G.to_dense() + functional.to_dense()

    assert all(map(_is_chain, (H, G, functional)))
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-14 * exact.abs().max())
    torch.testing.assert_close(parts, exact, rtol=0, atol=1e-14 * exact.abs().max())


@given(
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    columns=st.integers(1, 5),
    bias=st.booleans(),
    function=st.sampled_from(["tanh", "relu", "softplus", "gelu"]),
    loss=st.sampled_from(["cross_entropy", "mse"]),
    seed=st.integers(0, 2**31),
)
def test_any_dense_net_has_autograds_products(
    widths, columns, bias, function, loss, seed
):
    torch.manual_seed(seed)
    layers = []
    for inside, outside in zip([3, *widths], widths, strict=False):
        layers += [nn.Linear(inside, outside, bias=bias), ELEMENTWISE[function]]
    net = nn.Sequential(*layers, nn.Linear(widths[-1], 2, bias=bias)).double()
    targets = torch.randint(2, (7,)) if loss == "cross_entropy" else torch.randn(7, 2)
    targets = targets if loss == "cross_entropy" else targets.double()
    problem = Problem(net, loss, (torch.randn(7, 3).double(), targets))
    V = torch.randn(problem.num_params, columns, dtype=torch.float64)

    for kind in (Hessian, GGN, FunctionalHessian):
        chain, autograd = kind(problem), kind(problem, fold=False)
        expected = autograd @ V
        scale = 1.0 + expected.abs().max()
        torch.testing.assert_close(chain @ V, expected, rtol=0, atol=1e-13 * scale)
        assert _is_chain(chain)
        assert not _is_chain(autograd)


def test_both_directions_of_a_chains_jacobian_are_those_of_torch():
    net = _net(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    data = _samples()
    problem = Problem(net, "cross_entropy", data)
    named = dict(net.named_parameters())
    jacobians = jacrev(lambda state: functional_call(net, state, data[:1]))(named)
    exact = torch.cat([j.reshape(27, -1) for j in jacobians.values()], dim=1).detach()
    U = torch.randn(27, 2, dtype=torch.float64)

    J, kernel = Jacobian(problem), NTK(problem)

    torch.testing.assert_close(J.to_dense(), exact)
    torch.testing.assert_close(J.adjoint_product(U), exact.T @ U)
    torch.testing.assert_close(kernel.to_dense(), exact @ exact.T)


@pytest.mark.parametrize("params", ["0", "2", "4", ["0.weight", "4.bias"], "*.bias"])
@pytest.mark.parametrize("kind", [Hessian, GGN])
def test_a_selection_of_a_chains_parameters_is_its_block(kind, params):
    net = _net(
        *(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)), nn.Tanh(), nn.Linear(4, 3)
    )
    problem = Problem(net, "cross_entropy", _samples())
    block = kind(problem).block(params)

    expected = kind(problem, fold=False).block(params).to_dense()

    torch.testing.assert_close(block.to_dense(), expected, rtol=0, atol=1e-15)
    assert _is_chain(block)


def test_all_blocks_of_a_chain_share_its_graph():
    net = _net(
        *(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)), nn.Tanh(), nn.Linear(4, 3)
    )
    problem = Problem(net, "cross_entropy", _samples())
    exact = _dense_hessian(net, F.cross_entropy, _samples())
    blocks = DiagonalBlocks(Hessian(problem), problem.layers())
    unit = {n: torch.eye(size).double() for n, size in blocks.num_params.items()}

    found = blocks.multiply(unit)

    start = 0
    for name, size in blocks.num_params.items():
        expected = exact[start : start + size, start : start + size]
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-14)
        start += size


def test_sequences_a_bent_output_and_shared_weights_are_chains_too():
    inner = nn.Linear(4, 4)
    net = _net(nn.Linear(5, 4), nn.Tanh(), inner, nn.Tanh(), inner, nn.Sigmoid())
    X = torch.randn(6, 2, 5, dtype=torch.float64)
    y = torch.randn(6, 2, 4, dtype=torch.float64)
    H = Hessian(Problem(net, "mse", (X, y)))

    found = H.to_dense()
    # `functional_call` would spoil the module with two names: a copy for the reference.
    exact = _dense_hessian(copy.deepcopy(net), F.mse_loss, (X, y))

    assert _is_chain(H)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-14)


class _Regression(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 4), nn.Linear(4, 1)

    def forward(self, x):
        h = 2.0 * torch.tanh(self.a(x) / 3 + 0.5) - 1
        return (-self.b(h)).squeeze(-1)


def test_numbers_and_a_squeezed_output_are_part_of_a_chain():
    torch.manual_seed(4)
    net, (X, _) = _Regression().double(), _samples()
    y = torch.randn(9, dtype=torch.float64)
    problem = Problem(net, "mse", (X, y))
    H, J = Hessian(problem), Jacobian(problem)

    found = H.to_dense()

    assert _is_chain(H)
    exact = _dense_hessian(net, F.mse_loss, (X, y))
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-14)
    assert J.shape == (9, 29)


@pytest.mark.parametrize("fold", [None, False])
def test_a_module_with_two_names_keeps_its_parameters(fold):
    # `torch.func.functional_call` leaves plain tensors in their place.
    inner = nn.Linear(4, 4)
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), inner, nn.Tanh(), inner)
    before = dict(net.named_parameters())
    data = (torch.randn(6, 5), torch.randn(6, 4))

    Hessian(Problem(net, "mse", data), fold=fold).to_dense()

    after = dict(net.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert isinstance(inner.weight, nn.Parameter)


def test_a_frozen_beginning_is_no_part_of_the_chain():
    net = _net(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    net[0].requires_grad_(requires_grad=False)
    problem = Problem(net, "cross_entropy", _samples())
    H = Hessian(problem)

    expected = Hessian(problem, fold=False).to_dense()

    assert _is_chain(H)
    torch.testing.assert_close(H.to_dense(), expected, rtol=0, atol=1e-15)


def test_autocast_and_inference_mode_around_a_product_change_nothing():
    problem = Problem(
        nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)),
        "cross_entropy",
        _samples(dtype=torch.float32),
    )
    H, V = Hessian(problem), torch.randn(problem.num_params, 3)
    expected = H @ V

    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = H @ V

    assert torch.equal(found, expected)


@pytest.mark.parametrize("choices", [{"compile": True}, {"precision": "bfloat16"}])
def test_programs_and_coarse_products_are_not_called_chains(choices):
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    problem = Problem(net, "cross_entropy", _samples(dtype=torch.float32))

    assert not Hessian(problem, **choices)._graphs.chains
    assert Hessian(problem)._graphs.chains


class _Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.b(x + torch.tanh(self.a(x)))


class _Detached(_Residual):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.b(h * h.detach())


class _Half(_Residual):
    def forward(self, x):
        with torch.no_grad():
            h = torch.tanh(self.a(x))
        return self.b(h)


class _Masked(_Residual):
    def forward(self, x):
        h = self.a(x)
        h[:, 0] = 0.0
        return self.b(h)


class _Cut(_Residual):
    def forward(self, x):
        h = self.a(x).tanh()
        h.detach_()
        return self.b(h)


class _ScaledWeight(_Residual):
    def forward(self, x):
        return self.b(torch.tanh(F.linear(x, 2.0 * self.a.weight.tril(), self.a.bias)))


class _Twice(_Residual):
    def forward(self, x):
        self.a(x)  # for nothing
        return self.b(torch.tanh(self.a(x)))


class _Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x * g


class _Custom(_Residual):
    def forward(self, x):
        return self.b(_Own.apply(self.a(x)))


class _Slice(_Residual):
    def forward(self, x):
        return self.b(torch.tanh(self.a(x))[:, torch.arange(5).flip(0)])


class _Softmax(_Residual):
    def forward(self, x):
        return self.b(torch.softmax(self.a(x), dim=1))


class _Bilinear(_Residual):
    def forward(self, x):
        return self.b(torch.tanh(self.a(x))) * self.a.bias.sum()


class _Reshaped(_Residual):
    def forward(self, x):
        h = torch.tanh(self.a(x)).reshape(len(x), 1, 5)
        return self.b(h).reshape(-1, 3)


class _Turned(_Residual):
    def forward(self, x):
        return self.b(torch.tanh(self.a(x))).T.T


OTHERS = [
    *(_Reshaped, _Turned),
    *(_Residual, _Detached, _Masked, _Cut, _ScaledWeight, _Custom),
    *(_Slice, _Softmax, _Bilinear, _Twice),
]


@pytest.mark.filterwarnings("ignore:the model has custom autograd functions")
@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_chain_goes_through_autograd(kind):
    torch.manual_seed(3)
    net, data = kind().double(), _samples()
    H = Hessian(Problem(net, "cross_entropy", data))

    found = H.to_dense()

    assert not _is_chain(H)
    if kind is _Cut:  # `jacrev` differentiates through `detach_`, autograd does not
        assert not found[:30].any()
    elif kind is not _Custom:  # which `jacrev` does not take
        exact = _dense_hessian(net, F.cross_entropy, data)
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-14)
    expected = Hessian(Problem(net, "cross_entropy", data), fold=False).to_dense()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)


def test_a_part_without_gradients_is_a_constant():
    torch.manual_seed(3)
    net, data = _Half().double(), _samples()
    problem = Problem(net, "cross_entropy", data)
    H = Hessian(problem)

    expected = Hessian(problem, fold=False).to_dense()

    torch.testing.assert_close(H.to_dense(), expected, rtol=0, atol=1e-15)
    assert not expected[:30].any()


def test_hooks_that_change_outputs_or_gradients_end_the_chain():
    data = _samples()
    net = _net(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    plain = Hessian(Problem(net, "cross_entropy", data)).to_dense()

    def both(module, args, output):
        return output + output

    def gradient(module, args, output):
        if output.requires_grad:
            output.register_hook(lambda g: 2.0 * g)

    for hook in (both, gradient):
        handle = net[1].register_forward_hook(hook)
        H = Hessian(Problem(net, "cross_entropy", data))
        expected = Hessian(Problem(net, "cross_entropy", data), fold=False).to_dense()
        torch.testing.assert_close(H.to_dense(), expected, rtol=0, atol=1e-15)
        assert not _is_chain(H)
        assert not torch.allclose(expected, plain)
        handle.remove()


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_weights_that_are_computed_end_the_chain():
    net = _net(weight_norm(nn.Linear(5, 6)), nn.Tanh(), nn.Linear(6, 3))
    data = _samples()
    H = Hessian(Problem(net, "cross_entropy", data))

    found = H.to_dense()

    assert not _is_chain(H)
    expected = Hessian(Problem(net, "cross_entropy", data), fold=False).to_dense()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    "drop",
    [
        lambda x: F.dropout(x, 0.5),
        lambda x: F.dropout(x, p=0.5, training=True),
        lambda x: torch.dropout(x, 0.5, True),
        lambda x: F.alpha_dropout(x, training=True),
    ],
)
def test_a_dropout_that_drops_is_not_taken_for_nothing(drop):
    leaves = (torch.randn(4, 3, requires_grad=True),)
    recorder = ChainRecorder(leaves)
    with recorder:
        outputs = drop(F.linear(torch.randn(5, 3), *leaves))

    assert recorder.chain(outputs) is None


@pytest.mark.filterwarnings("ignore:the model has custom autograd functions")
def test_backward_hooks_of_modules_end_the_chain():
    net = _net(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    net[1].register_full_backward_hook(lambda module, before, after: None)

    H = Hessian(Problem(net, "cross_entropy", _samples()))

    assert not _is_chain(H)


def test_an_input_that_the_model_overwrites_is_no_input_to_rely_on():
    first = nn.Linear(3, 2).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    leaves = tuple(p.detach().requires_grad_() for p in first.parameters())
    recorder = ChainRecorder(leaves)
    with recorder:
        outputs = F.linear(x, *leaves)
        x.zero_()

    assert recorder.chain(outputs) is None


def test_a_chain_reads_its_weights_where_autograd_would():
    x = torch.randn(4, 3, dtype=torch.float64)
    leaves = (torch.randn(2, 3, dtype=torch.float64, requires_grad=True),)
    recorder = ChainRecorder(leaves)
    with recorder:
        outputs = F.linear(x, *leaves)
    chain = recorder.chain(outputs)

    graph = ChainRun(chain).second_derivative(
        lambda f: f.square().sum(), lambda: lambda U: 2.0 * U
    )
    V = torch.randn(5, 2, 3, dtype=torch.float64)
    (product,) = graph.multiply([V], vectorised=True)

    torch.testing.assert_close(product, 2.0 * V @ (x.T @ x))
