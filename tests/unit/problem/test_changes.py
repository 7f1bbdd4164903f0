"""What changes between two calls, and is neither a parameter nor a buffer."""

import pytest
import torch
from torch import nn

from curvescope._core.errors import AccuracyWarning
from curvescope.curvature import GGN, Hessian
from curvescope.problem import Problem

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)).double()
Y = torch.arange(12) % 3


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def test_class_weights_edited_in_place_change_numerator_and_denominator():
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    problem = Problem(net(), nn.CrossEntropyLoss(weight=weight), (X, Y))
    H = Hessian(problem)
    before = H.to_dense()
    loss = problem.evaluate().loss

    weight.mul_(10)

    torch.testing.assert_close(H.to_dense(), before)
    assert abs(problem.evaluate().loss - loss) < 1e-12
    weight[0] = 0.5
    fresh = Problem(net(), nn.CrossEntropyLoss(weight=weight), (X, Y))
    torch.testing.assert_close(H.to_dense(), Hessian(fresh).to_dense())


def test_an_exchanged_module_is_noticed():
    model = net()
    H = Hessian(Problem(model, "cross_entropy", (X, Y)))
    H.to_dense()

    model[1] = nn.Sigmoid()

    fresh = Hessian(Problem(model, "cross_entropy", (X, Y)))
    torch.testing.assert_close(H.to_dense(), fresh.to_dense())


def test_a_loss_that_is_linear_in_the_outputs_warns_that_its_ggn_vanishes():
    model = nn.Sequential(net(), nn.LogSoftmax(1))
    problem = Problem(model, "nll", (X, Y))

    with pytest.warns(AccuracyWarning, match="the GGN vanishes: nll is linear"):
        G = GGN(problem)

    assert float(G.to_dense().norm()) == 0.0
