"""Models that look like chains of linear layers to whoever watches them run."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import curvescope as cs
from curvescope.curvature import GGN, FunctionalHessian, Hessian, Jacobian
from curvescope.problem import Problem

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*custom autograd functions", "ignore:Using a non-full backward hook"
)


def _data(n=12):
    generator = torch.Generator().manual_seed(5)
    X = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    return X, torch.randint(3, (n,), generator=generator)


class _Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


class _Remembering(_Net):
    def forward(self, x):
        self.h = torch.tanh(self.a(x))
        return self.c(self.h)


class _InPlaceWithoutGradients(_Net):
    def forward(self, x):
        h = self.a(x)
        with torch.no_grad():
            h = F.relu(h, inplace=True)
        return self.c(torch.tanh(self.b(h)))


class _ViewWithoutGradients(_Net):
    def forward(self, x):
        h = self.a(x)
        with torch.no_grad():
            h = h.view(-1, 5)
        return self.c(h)


class _HookOnANode(_Net):
    def forward(self, x):
        h = self.b(torch.tanh(self.a(x)))
        if h.grad_fn is not None:
            h.grad_fn.register_prehook(lambda grads: tuple(2 * g for g in grads))
        return self.c(torch.tanh(h))


class _ThroughData(_Net):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        h.data.mul_(2.0)
        return self.c(torch.tanh(self.b(h)))


class _OddBias(_Net):
    def __init__(self):
        super().__init__()
        self.c.bias = nn.Parameter(torch.zeros(1, 3))


class _VectorWeight(_Net):
    def __init__(self):
        super().__init__()
        self.b.weight = nn.Parameter(torch.ones(5))
        self.b.bias = None

    def forward(self, x):
        h = F.linear(torch.tanh(self.a(x)), self.b.weight)
        return self.c(torch.tanh(self.a(x)) * h[:, None])


def _plain_hessian(net, loss, X, y):
    """Differentiate twice by plain autograd, on the model's own parameters."""
    parameters = list(net.parameters())
    value = loss(net(X), y)
    grads = torch.autograd.grad(
        value, parameters, create_graph=True, materialize_grads=True
    )
    flat = torch.cat([g.reshape(-1) for g in grads])
    rows = [
        torch.autograd.grad(
            flat, parameters, e, retain_graph=True, materialize_grads=True
        )
        for e in torch.eye(len(flat), dtype=flat.dtype)
    ]
    return torch.stack([torch.cat([r.reshape(-1) for r in row]) for row in rows])


MODELS = [
    *(_InPlaceWithoutGradients, _ViewWithoutGradients, _HookOnANode),
    *(_ThroughData, _OddBias, _VectorWeight),
]


@pytest.mark.parametrize("kind", MODELS)
def test_what_only_looks_like_a_chain_has_autograds_hessian(kind):
    torch.manual_seed(6)
    net, (X, y) = kind().double(), _data()
    exact = _plain_hessian(net, F.cross_entropy, X, y)
    problem = Problem(net, "cross_entropy", (X, y), batch_size=5)
    H, G, functional = (k(problem) for k in (Hessian, GGN, FunctionalHessian))

    found, parts = H.to_dense(), G.to_dense() + functional.to_dense()

    torch.testing.assert_close(found, exact, rtol=0, atol=1e-13)
    if kind is not _HookOnANode:  # which doubles the two parts differently
        torch.testing.assert_close(parts, exact, rtol=0, atol=1e-13)
    assert not H.plan().chain


@pytest.mark.parametrize("kind", MODELS)
def test_what_only_looks_like_a_chain_has_autograds_jacobian(kind):
    torch.manual_seed(6)
    net, data = kind().double(), _data()
    problem = Problem(net, "cross_entropy", data)
    parameters = list(net.parameters())
    outputs = net(data[0]).reshape(-1)
    rows = [
        torch.autograd.grad(o, parameters, retain_graph=True, materialize_grads=True)
        for o in outputs
    ]
    exact = torch.stack([torch.cat([r.reshape(-1) for r in row]) for row in rows])

    adjoint = Jacobian(problem).adjoint_product(torch.eye(36, dtype=torch.float64))

    torch.testing.assert_close(adjoint.T, exact, rtol=0, atol=1e-13)


def test_a_hook_of_the_old_kind_ends_a_chain():
    torch.manual_seed(6)
    net, (X, y) = _Net().double(), _data()
    net.b.register_backward_hook(
        lambda module, inputs, grads: tuple(
            None if g is None else 2 * g for g in inputs
        )
    )

    H = Hessian(Problem(net, "cross_entropy", (X, y)))

    exact = _plain_hessian(net, F.cross_entropy, X, y)
    torch.testing.assert_close(H.to_dense(), exact, rtol=0, atol=1e-13)
    assert not H.plan().chain


def test_a_loss_that_reads_what_the_model_left_keeps_its_penalty():
    torch.manual_seed(6)
    net, (X, y) = _Remembering().double(), _data()
    net.b = None

    def loss(outputs, targets):
        return F.cross_entropy(outputs, targets, reduction="sum") + net.h.square().sum()

    problem = Problem(net, cs.Loss(loss, reduction="sum"), (X, y), batch_size=5)
    H = Hessian(problem)

    exact = _plain_hessian(net, loss, X, y)
    torch.testing.assert_close(H.to_dense(), exact, rtol=0, atol=1e-12)
    assert not H.plan().chain


def test_a_tensor_that_the_model_reuses_from_batch_to_batch_is_an_error():
    scratch = torch.zeros(4, 4, dtype=torch.float64)

    class Reusing(_Net):
        def forward(self, x):
            own = scratch[: len(x)]
            own.copy_(2 * x)
            return super().forward(own)

    torch.manual_seed(6)
    net, (X, y) = Reusing().double(), _data()
    H = Hessian(Problem(net, "cross_entropy", (X, y), batch_size=4))
    anew = Hessian(Problem(net, "cross_entropy", (X, y), batch_size=4), kept="none")

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        H.to_dense()
    exact = _plain_hessian(_same(net), F.cross_entropy, 2 * X, y)
    torch.testing.assert_close(anew.to_dense(), exact, rtol=0, atol=1e-13)


def _same(net):
    plain = _Net().double()
    plain.load_state_dict(net.state_dict())
    return plain


def test_saved_tensors_that_are_rounded_are_autograds_business():
    def rounded(tensor):
        return (tensor * 4).round() / 4

    class Rounding(_Net):
        def forward(self, x):
            with torch.autograd.graph.saved_tensors_hooks(rounded, lambda t: t):
                return super().forward(x)

    torch.manual_seed(6)
    problem = Problem(Rounding().double(), "cross_entropy", _data())
    H = Hessian(problem)

    expected = Hessian(problem, fold=False).to_dense()

    torch.testing.assert_close(H.to_dense(), expected, rtol=0, atol=1e-14)
    assert not H.plan().chain


def test_autocast_inside_of_the_model_goes_through_autograd():
    class Coarse(_Net):
        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x)

    torch.manual_seed(6)
    X, y = _data()
    problem = Problem(Coarse(), "cross_entropy", (X.float(), y))
    v = torch.ones(problem.num_params)

    found = Hessian(problem) @ v

    torch.testing.assert_close(found, Hessian(problem, fold=False) @ v)
