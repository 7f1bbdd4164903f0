"""What surrounds the chains: losses of one's own, plans, memory that is short."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tests.unit.curvature.test_chains import _dense_hessian, _net, _samples
from tests.unit.problem.test_problem import OnceSquares, Squares
from torch import nn

import curvescope as cs
from curvescope.curvature import (
    GGN,
    NTK,
    FunctionalHessian,
    Hessian,
    Jacobian,
    building,
)
from curvescope.problem import Problem


def _own_loss(function):
    return cs.Loss(lambda f, y: function.apply(f - y).sum(), reduction="sum")


@pytest.mark.parametrize("kind", [Hessian, GGN, FunctionalHessian])
@pytest.mark.parametrize("fold", [None, False])
def test_a_loss_that_is_once_differentiable_is_an_error_and_not_a_zero(kind, fold):
    X, _ = _samples()
    data = (X, torch.zeros(9, 3, dtype=torch.float64))
    net = _net(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    A = kind(Problem(net, _own_loss(OnceSquares), data), fold=fold)

    if kind is FunctionalHessian:  # the loss's first derivative is all it has
        assert bool(torch.isfinite(A.to_dense()).all())
        return
    with pytest.raises(ValueError, match="`loss` must be twice differentiable"):
        A.to_dense()


def test_a_loss_with_a_differentiable_function_of_its_own_is_right():
    X, _ = _samples()
    targets = torch.zeros(9, 3, dtype=torch.float64)
    net = _net(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    H = Hessian(Problem(net, _own_loss(Squares), (X, targets)))

    found = H.to_dense()

    expected = _dense_hessian(net, lambda f, y: ((f - y) ** 2).sum(), (X, targets))
    torch.testing.assert_close(found, expected)


class _HalfDetached(Squares):
    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return (x + x.detach()) * grad


HIDDEN = {
    "one output of three": lambda f: OnceSquares.apply(f[:, 0]).sum(),
    "one sample of nine": lambda f: OnceSquares.apply(f[:1]).sum(),
    "beside a part that has one": lambda f: (OnceSquares.apply(f) + f**4).sum(),
    "half of it detached": lambda f: _HalfDetached.apply(f).sum(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", HIDDEN)
def test_no_part_of_a_loss_may_hide_its_second_derivative(name, dtype):
    X, y = _samples(dtype=dtype)
    net = _net(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)
    loss = cs.Loss(lambda f, _: HIDDEN[name](f), reduction="sum")

    # Parts of a batch count otherwise than the whole where one sample alone is read.
    problem = Problem(net, loss, (X, y), check=name != "one sample of nine")
    for kind in (Hessian, GGN):
        with pytest.raises(ValueError, match="`loss` must be twice differentiable"):
            kind(problem).to_dense()


class _Hinge(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp_min(0.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return (ctx.saved_tensors[0] > 0).to(grad) * grad


def test_a_loss_with_kinks_is_no_loss_that_hides_its_second_derivative():
    X, _ = _samples(n=400)
    targets = torch.zeros(400, 3, dtype=torch.float64)
    net = _net(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    problem = Problem(net, _own_loss(_Hinge), (X, targets))

    found = Hessian(problem).to_dense()

    def hinge(f, y):
        return (f - y).clamp_min(0.0).sum()

    torch.testing.assert_close(found, _dense_hessian(net, hinge, (X, targets)))


class _ReversedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return -grad


def test_a_loss_with_a_function_that_is_linear_has_no_second_derivative():
    X, _ = _samples()
    net = _net(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    problem = Problem(
        net, _own_loss(_ReversedGradient), (X, torch.zeros(9, 3).double())
    )

    H, F_ = Hessian(problem).to_dense(), FunctionalHessian(problem).to_dense()

    torch.testing.assert_close(H, F_)


@pytest.mark.parametrize("train", [True, False])
def test_a_plan_after_a_product_runs_the_model_as_products_do(train):
    layers = (nn.Linear(5, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 3))
    net = _net(*layers).train(train)
    H = Hessian(Problem(net, "cross_entropy", _samples()))
    product = H @ torch.ones(H.shape[1], dtype=torch.float64)
    before = torch.get_rng_state()

    with torch.no_grad():
        plan = H.plan()

    assert plan.chain
    assert torch.equal(torch.get_rng_state(), before)
    assert net.training is train
    H.release()
    again = H @ torch.ones(H.shape[1], dtype=torch.float64)
    assert H.plan().chain
    torch.testing.assert_close(again, product)


def test_weights_that_were_changed_and_put_back_are_no_reason_to_stop():
    net = _net(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    H = Hessian(Problem(net, "cross_entropy", _samples()))
    V = torch.eye(H.shape[1], dtype=torch.float64)
    before = H @ V

    state = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    net.load_state_dict(state)

    assert torch.equal(H @ V, before)
    assert H.plan().chain
    assert not H._graphs.measured.loops_only


def test_a_chain_keeps_no_graph_of_autograd_alive():
    net = _net(nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3))
    problem = Problem(net, "cross_entropy", _samples())
    H = Hessian(problem)
    H @ torch.ones(H.shape[1], dtype=torch.float64)

    (graph,) = H._graphs._graphs.values()
    assert all(tensor.grad_fn is None for tensor, _ in graph.chain.sources)


@pytest.mark.parametrize("kind", [Jacobian, NTK, Hessian, GGN])
def test_a_batch_that_may_not_fit_is_looked_at_in_pieces_and_compared_whole(
    kind, monkeypatch
):
    net = _net(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    problem = Problem(net, "cross_entropy", _samples(n=64), batch_size=64)
    expected = kind(problem).to_dense()
    compared = []

    def looks(graph, *rest):
        compared.append(graph.outputs.shape[0] if kind in (Jacobian, NTK) else 0)
        return agree(graph, *rest)

    agree = building.agree
    monkeypatch.setattr(building, "agree", looks)
    # As if a forward pass made nearly all that there is room for.
    problem = Problem(net, "cross_entropy", _samples(n=64), batch_size=64)
    problem._shared.forward_bytes = problem.memory_limit
    found = kind(problem).to_dense()

    torch.testing.assert_close(found, expected)
    assert len(compared) >= 3  # two pieces, and the whole


def test_an_empty_parameter_has_no_place_in_vectors():
    class WithPlaceholder(nn.Sequential):
        def __init__(self, *layers):
            super().__init__(*layers)
            self.placeholder = nn.Parameter(torch.empty(0, dtype=torch.float64))

    torch.manual_seed(2)
    net = WithPlaceholder(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    H = Hessian(Problem(net, "cross_entropy", _samples()))

    expected = _dense_hessian(net, F.cross_entropy, _samples())
    torch.testing.assert_close(H.to_dense(), expected)
