"""Step sizes against parabolas, dense Hessians and torch's own optimisers."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, hessian, jacrev

import curvescope as cs
from curvescope.results import load


def net(seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model


def samples(num=12):
    generator = torch.Generator().manual_seed(4)
    X = torch.randn(num, 4, generator=generator, dtype=torch.float64)
    return X, torch.arange(num) % 3


def dense(model, X, y):
    """Return loss, gradient and Hessian by autodiff on the flat vector."""
    shapes = {name: p.shape for name, p in model.named_parameters()}
    theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def loss(vector):
        pieces = vector.split([s.numel() for s in shapes.values()])
        named = {n: p.view(s) for (n, s), p in zip(shapes.items(), pieces, strict=True)}
        return F.cross_entropy(functional_call(model, named, (X,)), y)

    g = torch.func.grad(loss)
    return loss, theta, g(theta), jacrev(g)(theta)


def test_all_numbers_are_those_of_the_dense_hessian():
    model, (X, y) = net(), samples()
    loss, theta, g, H = dense(model, X, y)

    found = cs.step_size(cs.Problem(model, "cross_entropy", (X, y)), tol=1e-10)

    best = float(g @ g / (g @ H @ g))
    top = float(torch.linalg.eigvalsh(H)[-1])
    assert found.step_size == pytest.approx(best, rel=1e-10)
    assert found.predicted_gain == pytest.approx(
        float((g @ g) ** 2 / (2 * g @ H @ g)), rel=1e-10
    )
    assert found.sharpness == pytest.approx(top, rel=1e-8)
    assert found.stability_limit == pytest.approx(2 / top, rel=1e-8)
    assert found.curvature_along_gradient == pytest.approx(1 / best, rel=1e-10)
    real = float(loss(theta) - loss(theta - best * g))
    assert found.actual_gain == pytest.approx(real, rel=1e-9)
    measured = [float(loss(theta - s * g)) for s in found.step_sizes]
    np.testing.assert_allclose(found.losses, measured, rtol=1e-12)


def test_the_step_is_the_vertex_of_the_parabola_of_a_linear_regression():
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    Y = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    model = nn.Linear(3, 2).double()

    found = cs.step_size(cs.Problem(model, "mse", (X, Y), weight_decay=0.1))

    fit = np.polyfit(found.step_sizes.numpy(), found.losses.numpy(), 2)
    assert found.step_size == pytest.approx(-fit[1] / (2 * fit[0]), rel=1e-8)
    assert found.actual_gain == pytest.approx(found.predicted_gain, rel=1e-9)
    torch.testing.assert_close(found.losses, found.quadratic_losses())


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, lr=1e-3, betas=(0.0, 0.9)),
        lambda p: torch.optim.AdamW(
            p, lr=1e-3, betas=(0.0, 0.9), eps=1e-4, weight_decay=0.0
        ),
        lambda p: torch.optim.Adam(p, lr=1e-3, betas=(0.0, 0.9), amsgrad=True),
        lambda p: torch.optim.RMSprop(p, lr=1e-3, alpha=0.9),
        lambda p: torch.optim.RMSprop(p, lr=1e-3, alpha=0.9, centered=True),
    ],
    ids=["adam", "adamw", "amsgrad", "rmsprop", "centred"],
)
def test_the_direction_is_the_step_that_the_optimiser_takes(make):
    model, (X, y) = net(), samples()
    optimizer = make(list(model.parameters()))
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(X), y).backward()
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.step()
    moved = torch.cat(
        [
            (b - p.detach()).reshape(-1)
            for b, p in zip(before, model.parameters(), strict=True)
        ]
    )
    with torch.no_grad():  # back to where the last gradient was taken
        for p, b in zip(model.parameters(), before, strict=True):
            p.copy_(b)
    loss, theta, g, H = dense(model, X, y)
    step = moved / 1e-3

    problem = cs.Problem(model, "cross_entropy", (X, y))
    found = cs.step_size(problem, preconditioner=optimizer, tol=1e-10)

    # The weights' own rounding leaves 1e-16 / 1e-3 of the difference.
    assert found.slope == pytest.approx(float(g @ step), rel=1e-9)
    assert found.curvature == pytest.approx(float(step @ H @ step), rel=1e-8)
    best = float(g @ step / (step @ H @ step))
    assert found.step_size == pytest.approx(best, rel=1e-8)
    real = float(loss(theta) - loss(theta - best * step))
    assert found.actual_gain == pytest.approx(real, rel=1e-6)
    root = (step / g).sqrt()
    top = float(torch.linalg.eigvalsh(root[:, None] * H * root)[-1])
    assert found.sharpness == pytest.approx(top, rel=1e-6)
    assert found.learning_rate == 1e-3


def test_a_vector_preconditions_as_a_change_of_variables_does():
    model, (X, y) = net(), samples()
    _, _, g, H = dense(model, X, y)
    scale = torch.linspace(0.5, 3.0, len(g), dtype=torch.float64)

    problem = cs.Problem(model, "cross_entropy", (X, y))
    found = cs.step_size(problem, preconditioner=scale, tol=1e-10)

    p = g / scale
    assert found.step_size == pytest.approx(float(g @ p / (p @ H @ p)), rel=1e-10)
    root = scale.rsqrt()
    top = float(torch.linalg.eigvalsh(root[:, None] * H * root)[-1])
    assert found.stability_limit == pytest.approx(2 / top, rel=1e-8)


def test_a_momentum_optimiser_has_its_own_critical_sharpness():
    model, (X, y) = net(), samples()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    found = cs.step_size(
        cs.Problem(model, "cross_entropy", (X, y)), preconditioner=optimizer
    )

    assert found.critical_sharpness == pytest.approx(2 * 1.9 / 0.1)
    assert found.learning_rate == 0.1


def test_a_zero_gradient_is_said_and_never_divided_by():
    X = torch.eye(3, dtype=torch.float64)
    model = nn.Linear(3, 1).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)

    found = cs.step_size(cs.Problem(model, "mse", (X, torch.zeros(3, 1).double())))

    assert found.step_size is found.predicted_gain is found.actual_gain is None
    assert any("gradient is zero" in note for note in found.notes)
    assert found.stability_limit is not None
    assert math.isfinite(float(found.losses.max()))
    assert "zero gradient" in found.headline()


class Saturated(nn.Module):
    """``tanh(w)^2`` is concave where ``tanh(w)^2 > 1/3``."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))

    def forward(self, x):
        return torch.tanh(self.w) * x


def test_negative_curvature_along_the_gradient_has_no_best_step():
    one = torch.ones(1, 1, dtype=torch.float64)
    model = Saturated()

    found = cs.step_size(cs.Problem(model, "mse", (one, 0 * one)))

    w = torch.tensor(2.0, dtype=torch.float64)
    bend = float(hessian(lambda v: torch.tanh(v) ** 2)(w))
    assert bend < 0
    assert found.sharpness == pytest.approx(bend)
    assert found.step_size is found.stability_limit is None
    assert len(found.notes) == 2
    assert "no positive curvature" in found.headline()


def test_steps_scale_with_the_inverse_of_the_loss():
    model, (X, y) = net(), samples()
    mean = cs.step_size(cs.Problem(model, "cross_entropy", (X, y)))
    total = cs.step_size(cs.Problem(model, "cross_entropy", (X, y), reduction="sum"))

    assert total.step_size == pytest.approx(mean.step_size / len(X), rel=1e-9)
    assert total.actual_gain == pytest.approx(mean.actual_gain * len(X), rel=1e-8)


def test_a_best_step_beyond_the_stable_one_is_named():
    X = torch.diag(torch.tensor([10.0, 0.1], dtype=torch.float64))
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():  # at rest in the sharp direction
        model.weight.copy_(torch.tensor([[0.0, 5.0]]))

    found = cs.step_size(
        cs.Problem(model, "mse", (X, torch.zeros(2, 1, dtype=torch.float64)))
    )

    assert found.step_size > found.stability_limit
    assert any("beyond 2 / sharpness" in note for note in found.notes)


def test_nothing_of_the_users_is_changed():
    model, (X, y) = net().train(), samples()
    F.cross_entropy(model(X), y).backward()
    before = [p.detach().clone() for p in model.parameters()]
    grads = [p.grad.clone() for p in model.parameters()]
    stream = torch.random.get_rng_state()

    cs.step_size(cs.Problem(model, "cross_entropy", (X, y)))

    for p, b, old in zip(model.parameters(), before, grads, strict=True):
        assert torch.equal(p, b)
        assert torch.equal(p.grad, old)
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), stream)


def test_a_result_prints_and_survives_saving(tmp_path):
    model, (X, y) = net(), samples()
    found = cs.step_size(cs.Problem(model, "cross_entropy", (X, y)), num_points=6)

    found.save(tmp_path, "step")
    again = load(tmp_path, "step")

    assert len(found.rows()) == 7  # an odd number has the best step among them
    assert str(again) == str(found)
    assert torch.equal(again.losses, found.losses)


@pytest.mark.parametrize(
    ("preconditioner", "kind", "text"),
    [
        (torch.ones(3), ValueError, r"`preconditioner` must have shape \(51,\)"),
        (torch.zeros(51), ValueError, "`preconditioner` must be finite and above 0"),
        ("adam", TypeError, "`preconditioner` must be None, a positive vector"),
        (nn.ReLU(), TypeError, "must be a torch.optim.Optimizer"),
    ],
)
def test_what_is_no_preconditioner_is_refused(preconditioner, kind, text):
    model, (X, y) = net(), samples()

    with pytest.raises(kind, match=text):
        cs.step_size(
            cs.Problem(model, "cross_entropy", (X, y)), preconditioner=preconditioner
        )


def test_an_adaptive_optimiser_without_a_step_is_refused_with_the_remedy():
    model, (X, y) = net(), samples()
    optimizer = torch.optim.Adam(model.parameters())

    with pytest.raises(ValueError, match="first step"):
        cs.step_size(
            cs.Problem(model, "cross_entropy", (X, y)), preconditioner=optimizer
        )
