import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

import curvescope as cs
from curvescope.bayes import check_function_space_homogeneity
from curvescope.bayes.homogeneity import moved_outputs
from curvescope.results import load

FLOAT = torch.float64


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def draw(*shape, generator):
    return torch.randn(*shape, generator=generator, dtype=FLOAT)


class Features(nn.Module):
    """Fixed nonlinear features of the inputs, linear in the parameters."""

    def __init__(self, size, outputs):
        super().__init__()
        self.head = nn.Linear(size, outputs, bias=False, dtype=FLOAT)

    def forward(self, x):
        waves = torch.arange(1, self.head.in_features + 1, dtype=x.dtype)
        return self.head(torch.cos(x * waves))


def test_least_squares_obeys_the_linear_theorem(generator):
    X, y = draw(8, 1, generator=generator), draw(8, 1, generator=generator)
    problem = cs.Problem(Features(20, 1), "mse", (X, y), weight_decay=0.1)

    found = check_function_space_homogeneity(problem)

    assert found.verdict == "linear theorem"
    assert found.null_dimension == 20 - 8
    assert found.steps[-1].null_change < 1e-10
    assert found.steps[-1].random_change > 1.0
    assert math.isnan(found.null_order)
    assert found.random_order == pytest.approx(1.0, abs=1e-6)
    assert found.hessian_residual < 1e-12


@pytest.mark.parametrize("loss", ["cross_entropy", "bce_with_logits"])
def test_logistic_regression_obeys_the_glm_theorem(loss, generator):
    X = draw(6, 1, generator=generator)
    y = torch.randint(0, 3, (6,), generator=generator)
    targets = y if loss == "cross_entropy" else nn.functional.one_hot(y, 3).to(FLOAT)
    problem = cs.Problem(Features(11, 3), loss, (X, targets))

    found = check_function_space_homogeneity(problem)

    assert found.verdict == "GLM theorem"
    assert found.null_dimension == 3 * (11 - 6)
    assert found.hessian_residual < 1e-12
    singular = any("singular" in note for note in found.notes)
    assert singular == (loss == "cross_entropy")


def test_a_network_has_it_to_first_order_only(generator):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 20), nn.Tanh(), nn.Linear(20, 2)).double()
    X = draw(7, 3, generator=generator)
    y = torch.randint(0, 2, (7,), generator=generator)

    found = check_function_space_homogeneity(cs.Problem(net, "cross_entropy", (X, y)))

    assert found.verdict == "first order only"
    assert found.rank == 14
    assert found.null_order == pytest.approx(2.0, abs=0.1)
    assert found.random_order == pytest.approx(1.0, abs=0.1)
    assert found.hessian_residual > 1e-6


def test_more_outputs_than_parameters_leave_no_direction(generator):
    X, y = draw(30, 4, generator=generator), draw(30, 1, generator=generator)
    model = nn.Linear(4, 1, dtype=FLOAT)

    found = check_function_space_homogeneity(cs.Problem(model, "mse", (X, y)))

    assert found.verdict == "none"
    assert found.null_dimension == 0
    assert math.isnan(found.hessian_residual)


def test_rank_is_that_of_the_dense_jacobian_with_repeated_samples(generator):
    X = draw(5, 3, generator=generator).repeat(2, 1)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    parameters = dict(net.named_parameters())
    J = jacrev(lambda p: functional_call(net, p, (X,)).flatten())(parameters)
    J = torch.cat([j.flatten(1) for j in J.values()], dim=1)

    found = check_function_space_homogeneity(
        cs.Problem(net, "mse", (X, torch.zeros(10, 1, dtype=FLOAT)))
    )

    assert found.rank == int(torch.linalg.matrix_rank(J)) == 5
    assert found.num_outputs == 10


def test_a_loss_that_is_not_convex_has_no_theorem(generator):
    X, y = draw(4, 1, generator=generator), draw(4, 1, generator=generator)
    wavy = cs.Loss(lambda f, t: torch.cos(3 * (f - t)).sum(), reduction="sum")
    problem = cs.Problem(Features(9, 1), wavy, (X, y))

    found = check_function_space_homogeneity(problem)

    assert found.verdict == "first order only"
    assert any("not convex" in note for note in found.notes)


def test_moved_outputs_are_those_of_a_moved_copy_and_the_model_stays(generator):
    X, y = draw(4, 3, generator=generator), draw(4, 2, generator=generator)
    model = nn.Linear(3, 2, dtype=FLOAT)
    before = [p.detach().clone() for p in model.parameters()]
    problem = cs.Problem(model, "mse", (X, y), params="weight")
    step = draw(6, generator=generator)

    found = moved_outputs(problem, step)

    W, b = before
    torch.testing.assert_close(found, (X @ (W + step.view(2, 3)).T + b).flatten())
    check_function_space_homogeneity(problem)
    assert all(
        torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True)
    )


def test_result_survives_saving_and_wrong_steps_are_refused(tmp_path, generator):
    X, y = draw(4, 1, generator=generator), draw(4, 1, generator=generator)
    problem = cs.Problem(Features(9, 1), "mse", (X, y))
    found = check_function_space_homogeneity(problem, steps=[0.1, 1.0])
    found.save(tmp_path, "homogeneity")

    again = load(tmp_path, "homogeneity")

    assert again.steps == found.steps
    assert again.verdict == found.verdict
    assert "linear theorem" in str(again)
    with pytest.raises(ValueError, match="`steps` must be two lengths"):
        check_function_space_homogeneity(problem, steps=[1.0, 0.1])
    with pytest.raises(ValueError, match="`steps` must be above 0"):
        check_function_space_homogeneity(problem, steps=[0.0, 0.1])
